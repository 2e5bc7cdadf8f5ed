//! `sae-run ls`: sweeps, or their SAEs.

use crate::error::CliError;
use crate::show::answer;
use crate::show::doubts::{Measured, note_doubts};
use crate::show::duration::exact_duration;
use crate::show::fitted::{Column, fit, width};
use crate::show::names::{RowNames, short_id};
use crate::show::{several, table};
use args::LsArgs;
use plan::kind_has_k;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use store::{Listing, QueryLimits, QueryTable, Store, SweepSummary};

/// `sae-run ls`.
///
/// # Errors
/// No database, no such sweep or column, a condition that SQLite does not understand.
pub(crate) async fn ls(args: &LsArgs) -> Result<u8, CliError> {
    let opened = several::open(&args.store).await?;
    let store = &opened.store;
    let wants_saes = args.sweep().is_some()
        || args.tag.is_some()
        || args.condition.is_some()
        || !args.sort.is_empty()
        || args.limit.is_some()
        || args.all;
    if wants_saes {
        saes(store, args).await
    } else {
        sweeps(store, args).await
    }
}

async fn sweeps(store: &Store, args: &LsArgs) -> Result<u8, CliError> {
    let sweeps = store.sweeps().await?;
    if args.format.json || args.format.csv {
        let columns = [
            "sweep",
            "recipe",
            "n_jobs",
            "n_done",
            "n_failed",
            "n_running",
            "n_stopped",
            "n_interrupted",
            "n_queued",
            "created_ms",
            "last_activity_ms",
            "worker_ms",
            "tags",
            "note",
        ];
        let rows = sweeps.into_iter().map(|sweep| -> Vec<Value> {
            vec![
                sweep.sweep.into(),
                sweep.recipe.into(),
                sweep.n_jobs.into(),
                sweep.n_done.into(),
                sweep.n_failed.into(),
                sweep.n_running.into(),
                sweep.n_stopped.into(),
                sweep.n_interrupted.into(),
                sweep.n_queued.into(),
                sweep.created_ms.into(),
                sweep.last_activity_ms.into(),
                sweep.worker_ms.into(),
                sweep.tags.into(),
                sweep.note.into(),
            ]
        });
        let found = QueryTable {
            columns: columns.map(str::to_owned).into(),
            rows: rows.collect(),
            is_cut: false,
        };
        return answer::print(&found, args.format, "sweeps");
    }
    let fitted = fit(columns_of_sweeps(&sweeps), width());
    let code = table::print(&fitted.text)?;
    fitted.note("`--json`");
    Ok(code)
}

fn columns_of_sweeps(sweeps: &[SweepSummary]) -> Vec<Column> {
    let texts = |heading: &str, cell: &dyn Fn(&SweepSummary) -> String| {
        Column::text(heading, sweeps.iter().map(cell))
    };
    let numbers = |heading: &str, cell: &dyn Fn(&SweepSummary) -> String| {
        Column::number(heading, sweeps.iter().map(cell))
    };
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let took = |sweep: &SweepSummary| exact_duration(Duration::from_millis(sweep.worker_ms));
    let mut columns = vec![
        texts("sweep", &|sweep| sweep.sweep.clone()),
        texts("recipe", &|sweep| sweep.recipe.clone()).rank(7),
        numbers("done", &|sweep| {
            format!("{}/{}", sweep.n_done, sweep.n_jobs)
        }),
        numbers("failed", &|sweep| sweep.n_failed.to_string()).rank(1),
        numbers("running", &|sweep| sweep.n_running.to_string()).rank(1),
        numbers("stopped", &|sweep| {
            (sweep.n_stopped + sweep.n_interrupted).to_string()
        })
        .rank(3),
        numbers("queued", &|sweep| sweep.n_queued.to_string()).rank(3),
        numbers("training", &took).rank(4),
        texts("started (UTC)", &|sweep| table::time(sweep.created_ms)).rank(6),
        texts("last activity (UTC)", &|sweep| {
            table::time(sweep.last_activity_ms)
        })
        .rank(2),
    ];
    let more = [
        texts("tags", &|sweep| or_dash(&sweep.tags)).rank(5),
        texts("note", &|sweep| or_dash(&sweep.note)).rank(8),
    ];
    columns.extend(more.into_iter().filter_map(Column::with_values));
    columns
}

async fn saes(store: &Store, args: &LsArgs) -> Result<u8, CliError> {
    let listing = Listing {
        sweep: args.sweep().map(str::to_owned),
        condition: condition(args),
        sort: args.sort.clone(),
        limit: args.limit,
        with_earlier: args.all,
    };
    let found = store.listing(&listing, &QueryLimits::default()).await?;
    if args.format.json || args.format.csv {
        return answer::print(&found, args.format, "saes");
    }
    let mut shown = SHOWN.to_vec();
    shown.retain(|shown| match shown.name {
        "sweep" => args.sweep().is_none(),
        "tags" | "note" => values(&found, shown.name).any(|value| !value.is_null()),
        "kind" => table::has_kinds(values(&found, shown.name).filter_map(Value::as_str)),
        "threshold" | "l0_calibrated" => values(&found, shown.name).any(|value| !value.is_null()),
        _ => true,
    });
    for key in &args.sort {
        let name = key.trim_start_matches('-');
        match shown.iter_mut().find(|shown| shown.name == name) {
            // What is sorted by is shown.
            Some(known) => known.rank = 0,
            None => shown.push(Shown::new(name, name, Some(4), 0)),
        }
    }
    let texts = |name: &'static str| values(&found, name).filter_map(Value::as_str);
    let names = RowNames::of(texts("job").zip(texts("sae")));
    let fitted = fit(columns(&found, &shown, &names), width());
    let text = fitted.text.clone() + &names.remark() + &reasons(&found);
    let code = table::print(&text)?;
    fitted.note("`--json`");
    note_doubts(&Measured::of_table(&found));
    Ok(code)
}

/// The condition that was given, and that for a tag.
fn condition(args: &LsArgs) -> Option<String> {
    let of_tag = args.tag.as_ref().map(|tag| {
        let tag = tag.replace('\'', "''");
        format!("' ' || tags || ' ' LIKE '% {tag} %'")
    });
    match (&args.condition, of_tag) {
        // On a separate line: the condition may end in a comment.
        (Some(condition), Some(of_tag)) => Some(format!("{of_tag} AND ({condition}\n)")),
        (condition, of_tag) => condition.clone().or(of_tag),
    }
}

/// Why jobs failed, each once.
fn reasons(found: &QueryTable) -> String {
    let jobs = values(found, "job").zip(values(found, "job_id"));
    let rows = jobs.zip(values(found, "failure"));
    let mut seen = BTreeSet::new();
    let lines = rows.filter_map(|((job, job_id), reason)| {
        let (job, job_id, reason) = (job.as_str()?, job_id.as_str()?, reason.as_str()?);
        seen.insert(job_id)
            .then(|| table::failure_line(job, job_id, reason))
    });
    lines.collect()
}

/// A column of the view `result`, as the table has it.
#[derive(Clone, Copy)]
struct Shown<'a> {
    name: &'a str,
    heading: &'a str,
    /// That fractions are rounded to; `None`: it is a text or a whole number.
    digits: Option<usize>,
    /// As in [`Column`].
    rank: usize,
}

impl<'a> Shown<'a> {
    const fn new(name: &'a str, heading: &'a str, digits: Option<usize>, rank: usize) -> Self {
        Self {
            name,
            heading,
            digits,
            rank,
        }
    }
}

const SHOWN: [Shown<'_>; 15] = [
    Shown::new("sweep", "sweep", None, 4),
    Shown::new("job", "job", None, 0),
    Shown::new("job_id", "id", None, 2),
    Shown::new("status", "status", None, 3),
    Shown::new("sae", "hookpoint", None, 0),
    Shown::new("kind", "kind", None, 2),
    Shown::new("k", "k", None, 5),
    Shown::new("num_latents", "latents", None, 7),
    Shown::new("fvu", "FVU", Some(4), 0),
    Shown::new("l0", "L0", Some(1), 1),
    Shown::new("threshold", "threshold", Some(4), 6),
    Shown::new("l0_calibrated", "its L0", Some(1), 8),
    Shown::new("tokens_per_s", "tokens/s", Some(0), 9),
    Shown::new("tags", "tags", None, 4),
    Shown::new("note", "note", None, 10),
];

/// Columns that are aligned on the left.
const TEXTS: [&str; 8] = [
    "sweep", "job", "job_id", "status", "sae", "kind", "tags", "note",
];

/// The values of a column of `result`.
fn values<'a>(
    found: &'a QueryTable,
    name: &str,
) -> impl Iterator<Item = &'a Value> + Clone + use<'a> {
    let index = found.columns.iter().position(|column| column == name);
    let rows = found.rows.iter();
    rows.filter_map(move |row| row.get(index?))
}

fn columns(found: &QueryTable, shown: &[Shown<'_>], names: &RowNames) -> Vec<Column> {
    let kinds: Vec<_> = values(found, "kind").collect();
    let saes: Vec<_> = values(found, "sae")
        .map(|sae| sae.as_str().unwrap_or_default())
        .collect();
    let has_k = |row: usize| kinds[row].as_str().is_none_or(kind_has_k);
    let columns = shown.iter().filter_map(|shown| {
        let cells = values(found, shown.name).enumerate();
        let cells = cells.map(|(row, value)| match shown.name {
            "k" if !has_k(row) => "-".to_owned(),
            "job" => names.of_row(value.as_str().unwrap_or_default(), saes[row]),
            _ => cell(value, shown.digits),
        });
        let is_text = TEXTS.contains(&shown.name);
        let column = if is_text {
            Column::text(shown.heading, cells)
        } else {
            Column::number(shown.heading, cells)
        };
        match shown.name {
            "job_id" => {
                let ids = values(found, shown.name).filter_map(Value::as_str);
                let short = ids.map(short_id);
                Some(column.rank(shown.rank).or_short(short.collect()))
            }
            "job" => Some(column.or_cut()),
            "k" => column.rank(shown.rank).with_values(),
            _ => Some(column.rank(shown.rank)),
        }
    });
    columns.collect()
}

fn cell(value: &Value, digits: Option<usize>) -> String {
    match (value, digits) {
        (Value::Null, _) => "-".to_owned(),
        (Value::Number(number), Some(digits)) if number.is_f64() => {
            table::number(number.as_f64(), digits)
        }
        (other, _) => answer::plain(other),
    }
}
