//! `sae-run plan --diff`: what changes compared with the sweep as it was last run.

use crate::error::CliError;
use crate::show::{json, table};
use crate::sweep::expand::Expanded;
use plan::Job;
use plan::runs_layout::DATABASE;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use store::{PlannedJob, Store};

/// What becomes of a job.
#[derive(Debug, PartialEq)]
enum Change {
    Appears { name: String, job_id: String },
    Vanishes { name: String, job_id: String },
    Changes { name: String, settings: Vec<String> },
}

/// Prints the changes.
///
/// # Errors
/// A database that cannot be read.
pub(crate) async fn print(expanded: &Expanded, as_json: bool) -> Result<u8, CliError> {
    let path = Path::new(&expanded.sweep.sweep.runs_dir).join(DATABASE);
    let stored = if path.is_file() {
        let store = Store::open_read_only(&path).await?;
        store.planned_jobs(&expanded.plan.sweep).await?
    } else {
        Vec::new()
    };
    let first_round = stored
        .iter()
        .filter(|job| job.round == 0)
        .collect::<Vec<_>>();
    let changes = changes(&first_round, &expanded.plan.jobs);
    let n_same = expanded.plan.jobs.len() - changes.iter().filter(|c| c.is_of_new_plan()).count();
    if as_json {
        let changes: Vec<_> = changes.iter().map(Change::to_json).collect();
        let object = json!({"changes": changes, "n_unchanged": n_same});
        return json::print(&object);
    }
    let mut text: String = changes.iter().map(Change::line).collect();
    text += &format!("{} unchanged\n", table::count(n_same, "job"));
    table::print(&text)
}

fn changes(stored: &[&PlannedJob], planned: &[Job]) -> Vec<Change> {
    let by_name: BTreeMap<&str, &PlannedJob> =
        stored.iter().map(|job| (job.name.as_str(), *job)).collect();
    let of_plan = planned
        .iter()
        .filter_map(|job| match by_name.get(job.name.as_str()) {
            None => Some(Change::Appears {
                name: job.name.clone(),
                job_id: job.job_id.clone(),
            }),
            Some(known) if known.job_id == job.job_id => None,
            Some(known) => Some(Change::Changes {
                name: job.name.clone(),
                settings: differing(&known.config, &job.config.to_map()),
            }),
        });
    let is_gone = |job: &&&PlannedJob| planned.iter().all(|other| other.name != job.name);
    let gone = stored.iter().filter(is_gone).map(|job| Change::Vanishes {
        name: job.name.clone(),
        job_id: job.job_id.clone(),
    });
    of_plan.chain(gone).collect()
}

/// `k: 32 -> 64` for each setting that differs; if none does, what may differ outside the settings.
fn differing(before: &Value, after: &Map<String, Value>) -> Vec<String> {
    let null = Value::Null;
    let differs = |(key, after): (&String, &Value)| {
        let before = before.get(key).unwrap_or(&null);
        (before != after).then(|| format!("{key}: {before} -> {after}"))
    };
    let settings: Vec<_> = after.iter().filter_map(differs).collect();
    if settings.is_empty() {
        vec!["the content of model or data, or the version of the trainer".into()]
    } else {
        settings
    }
}

impl Change {
    fn is_of_new_plan(&self) -> bool {
        !matches!(self, Self::Vanishes { .. })
    }

    fn line(&self) -> String {
        let line = match self {
            Self::Appears { name, job_id } => format!("+ {name} ({job_id})"),
            Self::Vanishes { name, job_id } => format!("- {name} ({job_id})"),
            Self::Changes { name, settings } => format!("~ {name}: {}", settings.join(", ")),
        };
        table::escaped(&line) + "\n"
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Appears { name, job_id } => {
                json!({"change": "appears", "job": name, "job_id": job_id})
            }
            Self::Vanishes { name, job_id } => {
                json!({"change": "vanishes", "job": name, "job_id": job_id})
            }
            Self::Changes { name, settings } => {
                json!({"change": "changes", "job": name, "settings": settings})
            }
        }
    }
}
