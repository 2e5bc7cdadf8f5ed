//! Which job a name or the start of an id means.

use crate::error::{Trouble, unknown_name};
use fault::Fault;
use plan::nearest;
use sqlx::{FromRow, SqliteConnection};
use std::collections::BTreeMap;

#[derive(FromRow)]
struct Candidate {
    job_id: String,
    sweep: String,
    job: String,
}

/// The id of the job that `wanted` means.
pub(crate) async fn resolve(conn: &mut SqliteConnection, wanted: &str) -> Result<String, Trouble> {
    let sql = "SELECT job_id, sweep, job FROM sweep_listing ORDER BY sweep, ordinal";
    let jobs: Vec<Candidate> = sqlx::query_as(sql).fetch_all(conn).await?;
    Ok(choose(&jobs, wanted)?)
}

/// The one job that `wanted` means; an exact match goes before the start of a name.
fn choose(jobs: &[Candidate], wanted: &str) -> Result<String, Fault> {
    let by_id_or_name = |job: &Candidate| {
        job.job_id.starts_with(wanted)
            || job.job == wanted
            || format!("{}/{}", job.sweep, job.job) == wanted
    };
    let mut fits = group(jobs.iter().filter(|job| by_id_or_name(job)));
    if fits.is_empty() {
        fits = group(jobs.iter().filter(|job| job.job.starts_with(wanted)));
    }
    match fits.len() {
        1 => Ok(fits.into_keys().next().unwrap_or_default().to_owned()),
        0 => Err(unknown_name(
            format!("no job has the id or name `{wanted}`"),
            &nearest(wanted, jobs.iter().map(|job| job.job.as_str()), 3),
        )),
        n_fits => {
            let candidates: Vec<String> = fits.into_values().collect();
            Err(Fault::input(format!("`{wanted}` fits {n_fits} jobs"))
                .with_hint(format!("it fits {}", candidates.join(", "))))
        }
    }
}

/// Each job once, with a name to recognise it by.
fn group<'a>(jobs: impl Iterator<Item = &'a Candidate>) -> BTreeMap<&'a str, String> {
    jobs.map(|job| {
        let label = format!("{} ({}/{})", job.job_id, job.sweep, job.job);
        (job.job_id.as_str(), label)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    #[test]
    fn ambiguous_and_unknown_jobs_are_told() {
        let candidate = |job_id: &str, sweep: &str, job: &str| Candidate {
            job_id: job_id.into(),
            sweep: sweep.into(),
            job: job.into(),
        };
        let jobs = [
            candidate("ab12", "s", "k=4"),
            candidate("ab34", "s", "k=42"),
            candidate("cd56", "t", "k=4"),
            candidate("ab12", "t", "k=5"),
        ];
        assert_eq!(
            choose(&jobs, "ab1").unwrap(),
            "ab12",
            "one job in two sweeps"
        );
        assert_eq!(choose(&jobs, "t/k=4").unwrap(), "cd56");
        assert_eq!(choose(&jobs, "k=42").unwrap(), "ab34");
        let error = choose(&jobs, "k=4").unwrap_err();
        assert_eq!(error.to_string(), "`k=4` fits 2 jobs");
        assert_eq!(error.hint().unwrap(), "it fits ab12 (s/k=4), cd56 (t/k=4)");
        let error = choose(&jobs, "k=").unwrap_err();
        assert_eq!(error.to_string(), "`k=` fits 3 jobs");
        let error = choose(&jobs, "q=42").unwrap_err();
        assert_eq!(error.to_string(), "no job has the id or name `q=42`");
        assert!(error.hint().unwrap().contains("`k=42`"));
    }
}
