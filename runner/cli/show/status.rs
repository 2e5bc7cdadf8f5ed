//! `sae-run status`: the streams of a sweep, and where Slurm has them. `sae-run cancel`: ending them.

use crate::error::CliError;
use crate::run::left_over;
use crate::run::runs_folder::RunsFolder;
use crate::show::table::{self, count};
use crate::show::{job, json};
use crate::slurm::{self, Known};
use crate::sweep::config;
use args::{CancelArgs, StatusArgs};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use store::{Store, StreamState};

/// How long jobs that were cancelled may take to save and end.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// `sae-run status`.
///
/// # Errors
/// No database, or no such sweep.
pub(crate) async fn status(args: &StatusArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    let streams = store.stream_states(&args.sweep).await?;
    let known = known(&streams).await;
    if args.json {
        let streams = streams.iter().map(|stream| {
            json!({
                "stream_id": stream.stream_id,
                "n_jobs": stream.n_jobs,
                "n_done": stream.n_done,
                "n_attempts": stream.n_attempts,
                "status": stream.status,
                "slurm_job_id": stream.slurm_job_id,
                "slurm": of_slurm(stream, &known),
                "host": stream.host,
                "step": stream.step,
                "n_steps": stream.n_steps,
                "reason": stream.reason,
            })
        });
        let streams: Vec<_> = streams.collect();
        return json::print(&json!({"sweep": args.sweep, "streams": streams}));
    }
    let rows = streams.iter().map(|stream| row(stream, &known));
    let header = ["stream", "jobs done", "attempts", "step", "state"];
    table::print(&table::render(&header, rows.collect(), 1))?;
    let n_jobs = streams.iter().map(|stream| stream.n_jobs).sum::<u64>();
    let n_done = streams.iter().map(|stream| stream.n_done).sum::<u64>();
    let n_in_slurm = streams.iter().filter(|stream| is_open(stream)).count();
    table::note(&format!(
        "{n_done} of {} done, {} in Slurm",
        count(n_jobs as usize, "job"),
        count(n_in_slurm, "stream")
    ));
    Ok(0)
}

/// What Slurm says of the jobs whose attempts are open; nothing where it does not answer, which is said.
async fn known(streams: &[StreamState]) -> BTreeMap<u64, Known> {
    let open = streams.iter().filter(|stream| is_open(stream));
    let ids: BTreeSet<u64> = open.filter_map(|stream| stream.slurm_job_id).collect();
    if ids.is_empty() {
        return BTreeMap::new();
    }
    match slurm::look_at_all(&ids).await {
        Ok(known) => known,
        Err(why) => {
            table::note(&format!("what Slurm has is not known: {why}"));
            BTreeMap::new()
        }
    }
}

fn is_open(stream: &StreamState) -> bool {
    stream.status.as_deref() == Some("running") && stream.slurm_job_id.is_some()
}

/// What Slurm says of a stream's job.
fn of_slurm(stream: &StreamState, known: &BTreeMap<u64, Known>) -> Option<String> {
    let id = stream.slurm_job_id?;
    match known.get(&id)? {
        Known::Job(job) => Some(job.describe()),
        Known::Gone | Known::Unanswered(_) => None,
    }
}

fn row(stream: &StreamState, known: &BTreeMap<u64, Known>) -> Vec<String> {
    let step = match (stream.step, stream.n_steps) {
        (Some(step), Some(n_steps)) => format!("{step}/{n_steps}"),
        (None, Some(n_steps)) => format!("-/{n_steps}"),
        _ => "-".to_owned(),
    };
    let state = match (of_slurm(stream, known), stream.status.as_deref()) {
        (Some(slurm), _) => {
            let id = stream.slurm_job_id.unwrap_or_default();
            format!("job {id} of Slurm {slurm}")
        }
        (None, None) => "not begun".to_owned(),
        (None, Some(status)) => match &stream.reason {
            Some(reason) if status != "done" => format!("{status}: {}", table::escaped(reason)),
            _ => status.to_owned(),
        },
    };
    vec![
        stream.stream_id.clone(),
        format!("{}/{}", stream.n_done, stream.n_jobs),
        stream.n_attempts.to_string(),
        step,
        state,
    ]
}

/// `sae-run cancel`.
///
/// # Errors
/// No database, no such sweep, or Slurm does not answer.
pub(crate) async fn cancel(args: &CancelArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    let ids = open_ids(&store, &args.sweep).await?;
    slurm::cancel(&ids).await?;
    if !ids.is_empty() && !args.json {
        table::note(&format!(
            "cancelled {} of Slurm; waiting for them to save and end",
            count(ids.len(), "job")
        ));
    }
    let ended = wait_for_ends(&ids).await;
    // The attempts, if no other process does it.
    let runs_dir = config::runs_dir(&args.store)?;
    RunsFolder::open(&runs_dir.to_string_lossy())?;
    left_over::close(&runs_dir, &store).await?;
    let left: Vec<_> = ids.iter().filter(|id| !ended.contains(id)).collect();
    if args.json {
        json::print(&json!({"sweep": args.sweep, "cancelled": ids, "still_there": left}))?;
        return Ok(0);
    }
    match (ids.len(), left.len()) {
        (0, _) => table::note(&format!("no job of `{}` is in Slurm", args.sweep)),
        (_, 0) => table::note_with_hint(
            "all have ended",
            "running the sweep again continues from the last checkpoints",
        ),
        (_, n_left) => table::note_with_hint(
            &format!("{} still end", count(n_left, "job")),
            &format!("`sae-run status {}` shows them", args.sweep),
        ),
    }
    Ok(0)
}

/// Numbers of the jobs of Slurm that train a sweep.
async fn open_ids(store: &Store, sweep: &str) -> Result<Vec<u64>, CliError> {
    let streams = store.stream_states(sweep).await?;
    let open = streams.iter().filter(|stream| is_open(stream));
    Ok(open.filter_map(|stream| stream.slurm_job_id).collect())
}

/// Waits for the ends of jobs, for a while; gives those that have ended.
async fn wait_for_ends(ids: &[u64]) -> BTreeSet<u64> {
    let all: BTreeSet<u64> = ids.iter().copied().collect();
    let begun = Instant::now();
    let mut ended = BTreeSet::new();
    while ended.len() < all.len() && begun.elapsed() < PATIENCE {
        if let Ok(known) = slurm::look_at_all(&all).await {
            let has_ended = |known: &Known| match known {
                Known::Job(job) => job.state.has_ended(),
                Known::Gone => true,
                Known::Unanswered(_) => false,
            };
            ended.extend(
                known
                    .iter()
                    .filter(|(_, known)| has_ended(known))
                    .map(|(id, _)| *id),
            );
        }
        if ended.len() < all.len() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    ended
}
