//! Runs the streams of a plan, one worker after the other, and folds what they report.

use crate::error::CliError;
use crate::expand::Expanded;
use crate::progress::{Progress, StreamProgress};
use crate::runs_folder::RunsFolder;
use crate::worker_process::{EventTail, LOG, WorkerProcess};
use plan::{Event, EventKind, FailureKind, Order, OrderJob, Stream};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use store::{AttemptEnd, JobStatus, Outcome, RecordedPlan, Store};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often events are looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is needed to run a plan.
pub(crate) struct Scheduler<'a> {
    pub(crate) store: &'a Store,
    pub(crate) folder: &'a RunsFolder,
    pub(crate) expanded: &'a Expanded,
    pub(crate) progress: Progress,
}

/// How a plan's run ended.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) failures: Vec<Failure>,
    pub(crate) interrupted: bool,
}

/// A stream that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    stream_id: String,
    kind: FailureKind,
    message: String,
    hint: Option<String>,
    log: PathBuf,
}

impl Summary {
    pub(crate) fn exit_code(&self) -> u8 {
        let at_fault = |kind| self.failures.iter().any(|failure| failure.kind == kind);
        match () {
            () if at_fault(FailureKind::Internal) => 1,
            () if at_fault(FailureKind::Input) => 2,
            () if self.interrupted => 130,
            () => 0,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: stream {}: {}", self.stream_id, self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        write!(f, "\n  log: {}", self.log.display())
    }
}

/// The signals that ask for a stop.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                CliError::environment(format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// One attempt at a stream, as it is watched.
struct Watch<'a> {
    stream_id: &'a str,
    worker: WorkerProcess,
    tail: EventTail,
    bar: StreamProgress,
    /// The last words of the worker, if it had any.
    failed: Option<(FailureKind, String, Option<String>)>,
    asked_to_stop: bool,
}

impl Scheduler<'_> {
    /// Trains what is not done; streams that fail do not stop the others.
    ///
    /// # Errors
    /// The database or the runs folder can no longer be written.
    pub(crate) async fn run(&self, recorded: &RecordedPlan) -> Result<Summary, CliError> {
        let mut signals = StopSignals::new()?;
        let mut summary = Summary::default();
        for stream in &self.expanded.plan.streams {
            let todo = self.todo(stream, recorded);
            if todo.is_empty() {
                continue;
            }
            self.run_stream(stream, todo, recorded, &mut signals, &mut summary)
                .await?;
            if summary.interrupted {
                break;
            }
        }
        self.progress.finish();
        Ok(summary)
    }

    /// The jobs of a stream that are not done.
    fn todo(&self, stream: &Stream, recorded: &RecordedPlan) -> Vec<OrderJob> {
        let jobs = stream.job_ids.iter().filter_map(|job_id| {
            let known = recorded.job(job_id)?;
            let job = self.expanded.plan.job(job_id)?;
            (known.status != JobStatus::Done).then(|| OrderJob {
                job: job.clone(),
                dir: PathBuf::from(&known.dir),
                state_dir: self.folder.state_dir(&known.dir),
            })
        });
        jobs.collect()
    }

    async fn run_stream(
        &self,
        stream: &Stream,
        todo: Vec<OrderJob>,
        recorded: &RecordedPlan,
        signals: &mut StopSignals,
        summary: &mut Summary,
    ) -> Result<(), CliError> {
        let stream_id = stream.stream_id.as_str();
        let relative = &recorded
            .stream(stream_id)
            .expect("every stream is recorded")
            .dir;
        let dir = self.folder.path().join(relative);
        fs::create_dir_all(&dir).map_err(|error| CliError::io("create", &dir, &error))?;
        let attempt = self
            .store
            .begin_attempt(stream_id, &format!("{relative}/{LOG}"))
            .await?;
        let order = self.order(stream, attempt, todo, &dir);
        let bar = self.progress.stream(stream_id, order.jobs.len());
        let mut watch = Watch {
            stream_id,
            worker: WorkerProcess::start(&order, &dir)?,
            tail: self.folder.tail(relative),
            bar,
            failed: None,
            asked_to_stop: false,
        };
        let status = self.watch(&mut watch, signals).await?;
        let end = attempt_end(status, watch.asked_to_stop);
        self.store.end_attempt(stream_id, attempt, &end).await?;
        watch.bar.finish();
        match end.outcome {
            Outcome::Done => {}
            Outcome::Interrupted => summary.interrupted = true,
            Outcome::Failed | Outcome::Crashed => {
                summary.failures.push(failure(&watch, &end, &dir));
            }
        }
        Ok(())
    }

    fn order(&self, stream: &Stream, attempt: u32, jobs: Vec<OrderJob>, dir: &Path) -> Order {
        let Expanded {
            sweep,
            inputs,
            folders,
            ..
        } = self.expanded;
        let job = &jobs[0].job;
        Order {
            stream_id: stream.stream_id.clone(),
            attempt,
            key: stream.key.clone(),
            model_dir: inputs.model_dir(job).clone(),
            dataset: inputs.dataset(job).clone(),
            text_column: job.config.text_column.clone(),
            cache_dir: folders.cache.clone(),
            runs_dir: self.folder.path().into(),
            events: dir.join("events.jsonl"),
            device: sweep.sweep.launch.device.clone(),
            threads: sweep.sweep.launch.threads,
            jobs,
        }
    }

    /// Folds and draws until the worker has ended.
    async fn watch(
        &self,
        watch: &mut Watch<'_>,
        signals: &mut StopSignals,
    ) -> Result<ExitStatus, CliError> {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        let status = loop {
            tokio::select! {
                status = watch.worker.child.wait() => break status,
                _ = ticks.tick() => self.take_in(watch).await?,
                () = signals.recv() => self.stop(watch),
            }
        };
        self.take_in(watch).await?;
        status
            .map_err(|error| CliError::environment(format!("cannot wait for the worker: {error}")))
    }

    /// The first signal asks, the second kills.
    fn stop(&self, watch: &mut Watch<'_>) {
        if watch.asked_to_stop {
            // It may have ended by itself meanwhile.
            let _ = watch.worker.child.start_kill();
            return;
        }
        watch.asked_to_stop = true;
        watch.worker.ask_to_stop();
        self.progress
            .say("stopping after a checkpoint; once more to stop at once");
    }

    async fn take_in(&self, watch: &mut Watch<'_>) -> Result<(), CliError> {
        let events = watch.tail.read_new()?;
        if events.is_empty() {
            return Ok(());
        }
        self.store.fold(watch.stream_id, &events).await?;
        for Event {
            attempt: _, kind, ..
        } in events
        {
            watch.bar.show(&kind);
            match kind {
                EventKind::Started { .. } => watch.failed = None,
                EventKind::Checkpoint { is_final: true, .. } => self.progress.job_done(),
                EventKind::Failed {
                    kind,
                    message,
                    hint,
                } => {
                    watch.failed = Some((kind, message, hint));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn attempt_end(status: ExitStatus, asked_to_stop: bool) -> AttemptEnd {
    let outcome = match status.code() {
        Some(0) => Outcome::Done,
        Some(130) => Outcome::Interrupted,
        None if asked_to_stop => Outcome::Interrupted,
        Some(1 | 2) => Outcome::Failed,
        _ => Outcome::Crashed,
    };
    let reason = (outcome != Outcome::Done).then(|| format!("the worker ended with {status}"));
    AttemptEnd {
        outcome,
        exit_code: status.code(),
        reason,
    }
}

fn failure(watch: &Watch<'_>, end: &AttemptEnd, dir: &Path) -> Failure {
    let log = dir.join(LOG);
    let (kind, message, hint) = watch.failed.clone().unwrap_or_else(|| {
        let reason = end.reason.clone().unwrap_or_default();
        let message = match last_line(&log) {
            Some(line) => format!("{reason}: {line}"),
            None => reason,
        };
        let hint = "run the same command again to go on from the last checkpoints".to_owned();
        (FailureKind::Internal, message, Some(hint))
    });
    Failure {
        stream_id: watch.stream_id.to_owned(),
        kind,
        message,
        hint,
        log,
    }
}

fn last_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(str::to_owned)
}
