//! `--fresh`: what the jobs of a sweep had done is forgotten, if the user says so. Jobs that another sweep asks for are
//! kept.

use crate::error::CliError;
use crate::run::claims::Claims;
use crate::show::job::n_bytes;
use crate::show::table::{self, count, escaped};
use crate::show::yes_or_no::{self, Question};
use crate::sweep::expand::Expanded;
use args::RunOptions;
use plan::runs_layout::job_folders;
use std::path::Path;
use store::{BegunJob, RecordedPlan};

/// Jobs that are named one by one.
const MOST_LINES: usize = 12;

/// Forgets what the jobs of a plan had done and saved, except those that another sweep asks for, and the later rounds of
/// its recipe. False: the user does not wish that, and nothing was changed.
///
/// # Errors
/// Another process trains one of the jobs, there is no one to ask, or the database or the folder cannot be written.
pub(crate) async fn start_again(
    claims: &Claims<'_>,
    (expanded, recorded): (&mut Expanded, &RecordedPlan),
    options: &RunOptions,
) -> Result<bool, CliError> {
    let begun = claims.store.begun_jobs(&expanded.plan.sweep).await?;
    let (kept, lost): (Vec<_>, Vec<_>) = begun
        .into_iter()
        .partition(|job| !job.other_sweeps.is_empty());
    let is_lost = |job_id: &&String| lost.iter().any(|job| job.job_id == **job_id);
    let mut locks = Vec::new();
    for stream in &expanded.plan.streams {
        let job_ids: Vec<String> = stream.job_ids.iter().filter(is_lost).cloned().collect();
        let claimed = claims.of_stream(&stream.stream_id, &job_ids).await?;
        if let Some(given) = &claimed.given {
            let message = format!("{} has stream {} now", given.holder(), stream.stream_id);
            let sweep = &expanded.plan.sweep;
            return Err(CliError::environment(message).with_hint(format!(
                "`sae-run cancel {sweep}` ends it; or leave out `--fresh`"
            )));
        }
        if let Some(held) = claimed.held.first() {
            let name = name(expanded, &held.job_id);
            let message = format!("{} trains `{name}` now", held.holder);
            return Err(CliError::environment(message)
                .with_hint("wait for it to end, or leave out `--fresh`".to_owned()));
        }
        locks.push(claimed);
    }
    // What was found under the locks is the last word.
    let begun = claims.store.begun_jobs(&expanded.plan.sweep).await?;
    let lost: Vec<_> = begun
        .into_iter()
        .filter(|job| is_lost(&&job.job_id))
        .collect();
    announce(claims.folder.path(), expanded, (&kept, &lost));
    if !lost.iter().all(BegunJob::is_new) {
        let question = Question {
            text: "train them again from the start?",
            unchanged: "nothing was changed",
            yes: "`--fresh --yes` trains them again without asking",
        };
        if !options.yes && !yes_or_no::ask(&question)? {
            return Ok(false);
        }
    }
    forget(claims, recorded, &lost).await?;
    let (text, plan) = (&expanded.sweep.text, &mut expanded.plan);
    claims.store.forget_later_rounds(text, plan).await?;
    plan.keep_first_round();
    Ok(true)
}

/// Says what is kept and what would go.
fn announce(runs_dir: &Path, expanded: &Expanded, (kept, lost): (&[BegunJob], &[BegunJob])) {
    let kept = kept.iter().map(|job| {
        let (name, id) = (name(expanded, &job.job_id), &job.job_id);
        let sweeps = job.other_sweeps.join("`, `");
        format!("kept: {name} ({id}), part of `{sweeps}`")
    });
    list(kept.collect());
    let lost: Vec<_> = lost.iter().filter(|job| !job.is_new()).collect();
    let mut all_bytes = 0;
    let lines = lost.iter().map(|job| {
        let (name, id, status) = (name(expanded, &job.job_id), &job.job_id, job.status);
        let n_bytes = job_bytes(runs_dir, &job.dir);
        all_bytes += n_bytes;
        let steps = count(job.n_steps as usize, "step");
        let bytes = table::bytes(n_bytes);
        format!("job {name} ({id}): {status}, {steps}, {bytes}")
    });
    list(lines.collect());
    if !lost.is_empty() {
        let n_steps = lost.iter().map(|job| job.n_steps as usize).sum();
        table::note(&format!(
            "to delete: {} with {}, {}",
            count(lost.len(), "job"),
            count(n_steps, "step"),
            table::bytes(all_bytes)
        ));
    }
}

/// Prints the first lines, and how many there are besides.
fn list(lines: Vec<String>) {
    for line in lines.iter().take(MOST_LINES) {
        table::note(&escaped(line));
    }
    if let Some(n_more) = lines.len().checked_sub(MOST_LINES).filter(|&n| n > 0) {
        table::note(&format!("and {n_more} more"));
    }
}

fn name<'a>(expanded: &'a Expanded, job_id: &'a str) -> &'a str {
    let job = expanded.plan.job(job_id);
    job.map_or(job_id, |job| job.name.as_str())
}

/// What a job has on the disk.
fn job_bytes(runs_dir: &Path, dir: &str) -> u64 {
    let dirs = job_folders(dir).into_iter();
    dirs.map(|dir| n_bytes(&runs_dir.join(dir))).sum()
}

/// Forgets what jobs, which are locked, had done and saved.
async fn forget(
    claims: &Claims<'_>,
    recorded: &RecordedPlan,
    lost: &[BegunJob],
) -> Result<(), CliError> {
    for job in lost {
        claims.folder.remove_state(&job.dir)?;
    }
    let job_ids: Vec<_> = lost.iter().map(|job| job.job_id.as_str()).collect();
    claims.store.reset_jobs(&job_ids).await?;
    // The events of a stream also speak for the jobs that are kept.
    for stream in &recorded.streams {
        let of_stream = claims.store.jobs_of_stream(&stream.stream_id).await?;
        if of_stream.iter().all(|id| job_ids.contains(&id.as_str())) {
            claims.folder.remove_events(&stream.dir)?;
        }
    }
    Ok(())
}
