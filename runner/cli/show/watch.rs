//! `sae-run watch`: the progress of a sweep that another `sae-run` runs.

use crate::error::CliError;
use crate::run::event_tail::EventTail;
use crate::show::progress::{Progress, StreamProgress};
use crate::show::time_left::{Predicted, TimeLeft};
use crate::show::{job, json, table};
use crate::sweep::config;
use args::WatchArgs;
use files::Claim;
use plan::EventKind;
use plan::runs_layout::{EVENTS, lock_path};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use store::{Store, WatchedStream, WatchedSweep};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Looks in a row at a sweep at which nothing works: it may be between two streams.
const MOST_QUIET: usize = 6;

/// `sae-run watch`.
///
/// # Errors
/// No database, or no such sweep.
pub(crate) async fn watch(args: &WatchArgs) -> Result<u8, CliError> {
    let store = job::open(&args.store).await?;
    let runs_dir = config::runs_dir(&args.store)?;
    let Some(sweep) = store.watched(args.sweep.as_deref()).await? else {
        return if args.json {
            json::print(&json!({"sweep": null}))
        } else {
            table::print("no sweep has been run yet\n")
        };
    };
    let is_shown = !args.once && !args.json && io::stderr().is_terminal();
    let mut view = View::of(&sweep, runs_dir, is_shown);
    view.update(&sweep)?;
    if args.json {
        return json::print(&view.as_json(&sweep));
    }
    if !is_shown {
        return table::print(&view.text(&sweep));
    }
    let name = sweep.sweep.clone();
    let mut sweep = sweep;
    let mut n_quiet = if view.runs(&sweep) { 0 } else { MOST_QUIET };
    while n_quiet < MOST_QUIET && is_unfinished(&sweep) {
        tokio::time::sleep(PAUSE).await;
        sweep = look(&store, &name).await?.unwrap_or(sweep);
        view.update(&sweep)?;
        n_quiet = if view.runs(&sweep) { 0 } else { n_quiet + 1 };
    }
    view.progress.clear();
    table::print(&format!("{}\n", state(&sweep)))
}

fn is_unfinished(sweep: &WatchedSweep) -> bool {
    sweep.n_done + sweep.n_failed < sweep.n_jobs
}

async fn look(store: &Store, name: &str) -> Result<Option<WatchedSweep>, CliError> {
    Ok(store.watched(Some(name)).await?)
}

/// A sweep on the screen.
struct View {
    progress: Progress,
    runs_dir: PathBuf,
    /// Those that run, by their ids.
    streams: BTreeMap<String, StreamView>,
}

/// A stream on the screen.
struct StreamView {
    attempt: u32,
    tail: EventTail,
    line: StreamProgress,
}

impl View {
    fn of(sweep: &WatchedSweep, runs_dir: PathBuf, is_shown: bool) -> Self {
        let streams = sweep.streams.iter();
        let left = streams.clone().filter(|stream| stream.n_left > 0);
        let predicted = left.map(|stream| (stream.stream_id.clone(), predicted(stream)));
        let n_lanes = streams
            .clone()
            .filter(|stream| stream.attempt.is_some())
            .count();
        let begun = streams.clone().filter_map(|stream| stream.started_ms).min();
        let stream_ids = streams.map(|stream| stream.stream_id.clone()).collect();
        let progress = Progress::watched(&sweep.sweep, stream_ids, is_shown)
            .with_time_left(TimeLeft::new(predicted, n_lanes))
            .begun(begun.map_or(Duration::ZERO, since));
        Self {
            progress,
            runs_dir,
            streams: BTreeMap::new(),
        }
    }

    fn update(&mut self, sweep: &WatchedSweep) -> Result<(), CliError> {
        self.progress
            .set_jobs(sweep.n_done as usize, sweep.n_jobs as usize);
        for stream in &sweep.streams {
            let known = self.streams.get(&stream.stream_id).map(|view| view.attempt);
            if known.is_some() && known != stream.attempt {
                let ended = self.streams.remove(&stream.stream_id);
                ended
                    .into_iter()
                    .for_each(|view| view.line.finish(stream.n_left == 0));
            }
            if let Some(attempt) = stream.attempt {
                self.follow(stream, attempt)?;
            }
        }
        self.progress.draw();
        Ok(())
    }

    /// Shows what is new of a stream that runs.
    fn follow(&mut self, stream: &WatchedStream, attempt: u32) -> Result<(), CliError> {
        let view = self
            .streams
            .entry(stream.stream_id.clone())
            .or_insert_with(|| {
                let path = self.runs_dir.join(&stream.dir).join(EVENTS);
                StreamView {
                    attempt,
                    tail: EventTail::new(path).up_to_attempt(attempt),
                    line: self.progress.stream(&stream.stream_id, 0),
                }
            });
        while let Some(events) = view.tail.read_next()? {
            for event in events.iter().filter(|event| event.attempt == attempt) {
                // Remarks are for the one who runs it.
                if !matches!(event.kind, EventKind::Note { .. }) {
                    view.line.show(event);
                }
            }
        }
        Ok(())
    }

    /// Whether the sweep is still at work.
    fn runs(&self, sweep: &WatchedSweep) -> bool {
        let is_at_work = |stream: &WatchedStream| {
            stream.attempt.is_some()
                || Claim::is_held(&self.runs_dir.join(lock_path(&stream.stream_id)))
        };
        is_unfinished(sweep) && sweep.streams.iter().any(is_at_work)
    }

    /// The state of this moment, for programs.
    fn as_json(&self, sweep: &WatchedSweep) -> Value {
        let streams = sweep.streams.iter().map(|stream| {
            json!({
                "stream_id": stream.stream_id,
                "dir": stream.dir,
                "n_left": stream.n_left,
                "attempt": stream.attempt,
                "started_ms": stream.started_ms,
            })
        });
        json!({
            "sweep": sweep.sweep,
            "is_running": self.runs(sweep),
            "n_jobs": sweep.n_jobs,
            "n_done": sweep.n_done,
            "n_failed": sweep.n_failed,
            "streams": streams.collect::<Vec<_>>(),
        })
    }

    /// The state of this moment.
    fn text(&self, sweep: &WatchedSweep) -> String {
        if !self.runs(sweep) {
            return format!("{}\n", state(sweep));
        }
        let lines = self.streams.values().map(|view| view.line.text());
        let lines = std::iter::once(self.progress.text()).chain(lines);
        lines.map(|line| format!("{line}\n")).collect()
    }
}

fn predicted(stream: &WatchedStream) -> Predicted {
    let predicted = stream.predicted.as_deref();
    predicted
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Time since a moment in ms since the epoch.
fn since(ms: i64) -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.saturating_sub(Duration::from_millis(ms.unsigned_abs()))
}

/// A sweep that does not run.
fn state(sweep: &WatchedSweep) -> String {
    let WatchedSweep {
        sweep,
        n_jobs,
        n_done,
        n_failed,
        ..
    } = sweep;
    let failed = match n_failed {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    format!(
        "`{sweep}` is not running: {n_done} of {} done{failed}",
        table::count(*n_jobs as usize, "job")
    )
}
