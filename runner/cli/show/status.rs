//! `sae-run status`: the streams of a sweep, and where Slurm or the pool has them. `sae-run cancel`: ending them.

use crate::error::CliError;
use crate::pool::{Lapses, Place, PoolFolder};
use crate::run::left_over;
use crate::run::runs_folder::RunsFolder;
use crate::show::table::{self, count};
use crate::show::{job, json};
use crate::slurm::{self, Known};
use crate::sweep::config;
use args::{CancelArgs, StatusArgs};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    let places = PoolFolder::of(&config::runs_dir(&args.store)?).places()?;
    let in_pool = |stream: &StreamState| of_pool(stream, &places);
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
                "pool": in_pool(stream),
                "host": stream.host,
                "step": stream.step,
                "n_steps": stream.n_steps,
                "reason": stream.reason,
            })
        });
        let streams: Vec<_> = streams.collect();
        return json::print(&json!({"sweep": args.sweep, "streams": streams}));
    }
    let rows = streams
        .iter()
        .map(|stream| row(stream, &known, in_pool(stream)));
    let header = ["stream", "jobs done", "attempts", "step", "state"];
    table::print(&table::render(&header, rows.collect(), 1))?;
    let n_jobs = streams.iter().map(|stream| stream.n_jobs).sum::<u64>();
    let n_done = streams.iter().map(|stream| stream.n_done).sum::<u64>();
    let n_in_slurm = streams.iter().filter(|stream| is_open(stream)).count();
    let n_in_pool = streams.iter().filter_map(entry).count();
    let mut parts = vec![format!(
        "{n_done} of {} done",
        count(n_jobs as usize, "job")
    )];
    if n_in_slurm > 0 || n_in_pool == 0 {
        parts.push(format!("{} in Slurm", count(n_in_slurm, "stream")));
    }
    if n_in_pool > 0 {
        parts.push(format!("{} in the pool", count(n_in_pool, "stream")));
    }
    table::note(&parts.join(", "));
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

/// The entry of a stream in the pool, if its attempt is open.
fn entry(stream: &StreamState) -> Option<&String> {
    let is_open = stream.status.as_deref() == Some("running");
    stream.pool_entry.as_ref().filter(|_| is_open)
}

/// Where the pool has a stream.
fn of_pool(stream: &StreamState, places: &HashMap<String, Place>) -> Option<String> {
    let place = places.get(entry(stream)?);
    Some(place.map_or_else(
        || "its entry in the pool is not found".to_owned(),
        Place::describe,
    ))
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

fn row(stream: &StreamState, known: &BTreeMap<u64, Known>, in_pool: Option<String>) -> Vec<String> {
    let step = match (stream.step, stream.n_steps) {
        (Some(step), Some(n_steps)) => format!("{step}/{n_steps}"),
        (None, Some(n_steps)) => format!("-/{n_steps}"),
        _ => "-".to_owned(),
    };
    let state = match (of_slurm(stream, known), stream.status.as_deref()) {
        _ if in_pool.is_some() => table::escaped(&in_pool.unwrap_or_default()),
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
    let runs_dir = config::runs_dir(&args.store)?;
    let streams = store.stream_states(&args.sweep).await?;
    let entries: Vec<_> = streams.iter().filter_map(entry).collect();
    let pool = PoolFolder::of(&runs_dir);
    for entry in &entries {
        pool.withdraw(entry)?;
    }
    if !entries.is_empty() && !args.json {
        table::note(&format!(
            "withdrew {} from the pool; waiting for them to save and end",
            count(entries.len(), "stream")
        ));
    }
    slurm::cancel(&ids).await?;
    if !ids.is_empty() && !args.json {
        table::note(&format!(
            "cancelled {} of Slurm; waiting for them to save and end",
            count(ids.len(), "job")
        ));
    }
    let ended = wait_for_ends(&ids).await;
    let left_in_pool = wait_for_entries(&pool, &entries).await?;
    // The attempts, if no other process does it.
    RunsFolder::open(&runs_dir.to_string_lossy())?;
    left_over::close(&runs_dir, &store).await?;
    let left: Vec<_> = ids.iter().filter(|id| !ended.contains(id)).collect();
    if args.json {
        json::print(&json!({
            "sweep": args.sweep, "cancelled": ids, "still_there": left,
            "withdrawn": entries, "still_in_pool": left_in_pool,
        }))?;
        return Ok(0);
    }
    match (ids.len() + entries.len(), left.len() + left_in_pool.len()) {
        (0, _) => table::note(&format!(
            "no job of `{}` is in Slurm or in the pool",
            args.sweep
        )),
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

/// Waits until members have let go of entries, for a while; gives those that they have not.
async fn wait_for_entries<'a>(
    pool: &PoolFolder,
    entries: &[&'a String],
) -> Result<Vec<&'a String>, CliError> {
    let (begun, mut lapses) = (Instant::now(), Lapses::default());
    loop {
        lapses.put_back(pool)?;
        let places = pool.places()?;
        let is_claimed =
            |entry: &&&String| matches!(places.get(**entry), Some(Place::Claimed { .. }));
        let left: Vec<_> = entries.iter().filter(is_claimed).copied().collect();
        if left.is_empty() || begun.elapsed() > PATIENCE {
            return Ok(left);
        }
        tokio::time::sleep(PAUSE).await;
    }
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
