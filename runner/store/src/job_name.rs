//! Which job a name or the start of an id means.

use crate::error::{Trouble, unknown_name};
use fault::Fault;
use plan::nearest;
use serde_json::{Map, Value};
use sqlx::{FromRow, SqliteConnection};
use std::collections::{BTreeMap, BTreeSet};

/// Settings of a job that are shown for one that is ambiguous, at most.
const MOST_DIFFERENCES: usize = 4;

#[derive(Debug, FromRow)]
struct Candidate {
    job_id: String,
    sweep: String,
    job: String,
    is_current: bool,
}

/// The jobs that fit, each once, with a name to recognise it by.
type Fitting<'a> = BTreeMap<&'a str, &'a Candidate>;

/// The id of the job that `wanted` means: an id or its start, a name, `SWEEP/JOB`, the start of a name, or some of its
/// parts between commas. Jobs that the current version of their sweep asks for go before those of earlier versions.
pub(crate) async fn resolve(conn: &mut SqliteConnection, wanted: &str) -> Result<String, Trouble> {
    let sql =
        "SELECT job_id, sweep, job, is_current FROM sweep_listing ORDER BY sweep, ordinal, job_id";
    let jobs: Vec<Candidate> = sqlx::query_as(sql).fetch_all(&mut *conn).await?;
    let fitting = fitting(&jobs, wanted)?;
    if let [only] = fitting.keys().collect::<Vec<_>>()[..] {
        return Ok((*only).to_owned());
    }
    let configs = configs(conn, fitting.keys().copied()).await?;
    Err(ambiguous(wanted, &fitting, &configs).into())
}

/// The jobs that `wanted` may mean, at least one; an exact match goes before the start of a name.
fn fitting<'a>(jobs: &'a [Candidate], wanted: &str) -> Result<Fitting<'a>, Fault> {
    let (of_sweep, name) = match wanted.split_once('/') {
        Some((sweep, name)) if jobs.iter().any(|job| job.sweep == sweep) => (Some(sweep), name),
        _ => (None, wanted),
    };
    let is_of_sweep = |job: &&Candidate| of_sweep.is_none_or(|sweep| job.sweep == sweep);
    let parts = parts(name);
    let rules: [&dyn Fn(&Candidate) -> bool; 4] = [
        &|job| job.job == name,
        &|job| !name.is_empty() && job.job_id.starts_with(name),
        &|job| !name.is_empty() && job.job.starts_with(name),
        &|job| !name.is_empty() && parts.is_subset(&self::parts(&job.job)),
    ];
    for rule in rules {
        let fits = || jobs.iter().filter(is_of_sweep).filter(|job| rule(job));
        let current = group(fits().filter(|job| job.is_current));
        let fitting = if current.is_empty() {
            group(fits())
        } else {
            current
        };
        if !fitting.is_empty() {
            return Ok(fitting);
        }
    }
    Err(unknown_name(
        format!("no job has the id or name `{wanted}`"),
        &nearest(wanted, jobs.iter().map(|job| job.job.as_str()), 3),
    ))
}

/// The parts of a name between commas: `k=16,lr=0.1` has two.
fn parts(name: &str) -> BTreeSet<&str> {
    name.split(',').collect()
}

fn group<'a>(jobs: impl Iterator<Item = &'a Candidate>) -> Fitting<'a> {
    jobs.map(|job| (job.job_id.as_str(), job)).collect()
}

async fn configs(
    conn: &mut SqliteConnection,
    job_ids: impl Iterator<Item = &str>,
) -> Result<BTreeMap<String, Map<String, Value>>, Trouble> {
    let ids: Vec<_> = job_ids.collect();
    let sql = "SELECT job_id, config FROM job WHERE job_id IN (SELECT value FROM json_each(?))";
    let rows: Vec<(String, String)> = sqlx::query_as(sql)
        .bind(Value::from(ids).to_string())
        .fetch_all(conn)
        .await?;
    let parsed = |text: String| serde_json::from_str(&text).unwrap_or_default();
    Ok(rows
        .into_iter()
        .map(|(id, text)| (id, parsed(text)))
        .collect())
}

/// Names the jobs that fit, with the settings in which they differ.
fn ambiguous(
    wanted: &str,
    fitting: &Fitting<'_>,
    configs: &BTreeMap<String, Map<String, Value>>,
) -> Fault {
    let of = |job_id: &str, key: &String| configs.get(job_id).and_then(|config| config.get(key));
    let keys: BTreeSet<&String> = configs.values().flat_map(Map::keys).collect();
    let differs = |key: &&&String| {
        let values: Vec<_> = fitting.keys().map(|job_id| of(job_id, key)).collect();
        values.windows(2).any(|pair| pair[0] != pair[1])
    };
    let differing: Vec<_> = keys.iter().filter(differs).take(MOST_DIFFERENCES).collect();
    let label = |(job_id, job): (&&str, &&Candidate)| {
        let settings = differing.iter().map(|key| {
            let value = of(job_id, key).unwrap_or(&Value::Null);
            format!("; {key} = {value}")
        });
        let settings: String = settings.collect();
        format!("{job_id} ({}/{}{settings})", job.sweep, job.job)
    };
    let labels: Vec<_> = fitting.iter().map(label).collect();
    Fault::input(format!(
        "`{wanted}` is ambiguous: {} jobs match",
        fitting.len()
    ))
    .with_hint(format!(
        "name one by its id or as SWEEP/JOB: {}",
        labels.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;
    use serde_json::json;

    fn candidate(job_id: &str, sweep: &str, job: &str) -> Candidate {
        Candidate {
            job_id: job_id.into(),
            sweep: sweep.into(),
            job: job.into(),
            is_current: true,
        }
    }

    fn ids(jobs: &[Candidate], wanted: &str) -> Vec<String> {
        let fitting = fitting(jobs, wanted).unwrap();
        fitting.into_keys().map(str::to_owned).collect()
    }

    #[test]
    fn names_ids_and_their_beginnings_are_found() {
        let jobs = [
            candidate("ab12", "s", "k=4"),
            candidate("ab34", "s", "k=42,lr=0.1,optimizer=adam"),
            candidate("cd56", "t", "k=4"),
            candidate("ab12", "t", "k=5"),
        ];
        assert_eq!(ids(&jobs, "ab1"), ["ab12"], "one job in two sweeps");
        assert_eq!(ids(&jobs, "t/k=4"), ["cd56"]);
        assert_eq!(ids(&jobs, "k=42"), ["ab34"]);
        assert_eq!(
            ids(&jobs, "s/k=42,optimizer=adam"),
            ["ab34"],
            "without a part"
        );
        assert_eq!(ids(&jobs, "k=4"), ["ab12", "cd56"]);
        assert_eq!(ids(&jobs, "k="), ["ab12", "ab34", "cd56"]);
        let error = fitting(&jobs, "q=42").unwrap_err();
        assert_eq!(error.to_string(), "no job has the id or name `q=42`");
        assert!(error.hint().unwrap().contains("`k=42"));
    }

    #[test]
    fn what_the_current_version_asks_for_goes_first() {
        let earlier = Candidate {
            is_current: false,
            ..candidate("ab12", "s", "k=4")
        };
        let jobs = [earlier, candidate("cd56", "s", "k=4")];
        assert_eq!(ids(&jobs, "k=4"), ["cd56"]);
        assert_eq!(ids(&jobs, "ab"), ["ab12"], "an id means itself");
    }

    #[test]
    fn an_ambiguous_name_says_in_what_the_jobs_differ() {
        let jobs = [candidate("ab12", "s", "k=4"), candidate("cd56", "t", "k=4")];
        let config = |n: u64| {
            json!({"k": 4, "max_examples": n})
                .as_object()
                .unwrap()
                .clone()
        };
        let configs = [
            ("ab12".to_owned(), config(64)),
            ("cd56".to_owned(), config(128)),
        ];
        let fitting = fitting(&jobs, "k=4").unwrap();
        let error = ambiguous("k=4", &fitting, &configs.into());
        assert_eq!(error.to_string(), "`k=4` is ambiguous: 2 jobs match");
        assert_eq!(
            error.hint().unwrap(),
            "name one by its id or as SWEEP/JOB: ab12 (s/k=4; max_examples = 64), cd56 (t/k=4; max_examples = 128)"
        );
    }
}
