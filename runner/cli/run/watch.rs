//! One attempt at a stream, watched to its end: events folded and drawn, a stop passed on.

use crate::error::CliError;
use crate::libtorch::INSTALL_AGAIN;
use crate::run::event_tail::EventTail;
use crate::run::signals::StopSignals;
use crate::run::worker::{Worker, WorkerEnd};
use crate::run::worker_program::NOT_LOADED;
use crate::show::progress::{Progress, StreamProgress};
use crate::show::table;
use fault::FailureKind;
use plan::Plan;
use plan::{Event, EventKind};
use std::path::PathBuf;
use store::{AttemptEnd, Outcome, Store};

/// Exit code of a worker whose input is at fault, also if it could not write an event about it.
const BAD_INPUT: i32 = FailureKind::Input.exit_code() as i32;

/// An attempt that was begun.
pub(crate) struct Begun {
    pub(crate) stream_id: String,
    pub(crate) number: u32,
    /// What its worker reports.
    pub(crate) events: PathBuf,
    /// Jobs that it trains.
    pub(crate) n_jobs: usize,
}

/// One attempt at a stream.
pub(crate) struct Watch<'a> {
    store: &'a Store,
    progress: &'a Progress,
    plan: &'a Plan,
    stream_id: String,
    /// The attempt, or that before the job of Slurm was begun again.
    number: u32,
    pub(crate) worker: Worker<'a>,
    tail: EventTail,
    /// Number of the last event that was drawn.
    last_seq: u64,
    bar: StreamProgress,
    /// The last message of the worker, if it had one.
    failed: Option<(FailureKind, String, Option<String>)>,
    /// Whether the worker has found its device.
    has_begun: bool,
    /// Whether the worker has said that all is done.
    is_finished: bool,
    /// How the worker ended.
    ended: Option<WorkerEnd>,
    /// Ids of the jobs that were trained no further.
    pub(crate) ended_early: Vec<String>,
    pub(crate) asked_to_stop: bool,
}

/// A stream that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    stream_id: String,
    pub(crate) kind: FailureKind,
    /// Whether its worker had begun: then jobs have failed, whatever the reason.
    has_begun: bool,
    message: String,
    hint: Option<String>,
    log: PathBuf,
}

impl<'a> Watch<'a> {
    /// That of an attempt that was just begun, or is found.
    pub(crate) fn new(
        (store, progress, plan): (&'a Store, &'a Progress, &'a Plan),
        begun: &Begun,
        worker: Worker<'a>,
    ) -> Self {
        let tail = EventTail::new(begun.events.clone());
        Self {
            store,
            progress,
            plan,
            stream_id: begun.stream_id.clone(),
            number: begun.number,
            // What others run may be begun again, and each time is another attempt.
            tail: match worker {
                Worker::Process(_) => tail.up_to_attempt(begun.number),
                Worker::Slurm(_) | Worker::Pool(_) => tail,
            },
            worker,
            last_seq: 0,
            bar: progress.stream(&begun.stream_id, begun.n_jobs),
            failed: None,
            has_begun: false,
            is_finished: false,
            ended: None,
            ended_early: Vec::new(),
            asked_to_stop: false,
        }
    }

    /// Folds and draws until the worker has ended. `None`: it continues, and is left alone.
    ///
    /// # Errors
    /// The database can no longer be written, or the events cannot be read.
    pub(crate) async fn until_ended(
        &mut self,
        signals: &mut StopSignals,
    ) -> Result<Option<AttemptEnd>, CliError> {
        let mut ticks = tokio::time::interval(self.worker.poll_interval());
        let ended = loop {
            tokio::select! {
                ended = self.worker.ended() => break ended,
                _ = ticks.tick() => self.take_in().await?,
                () = signals.recv() => if !self.stop() {
                    self.bar.finish(false);
                    return Ok(None);
                }
            }
        };
        self.take_in().await?;
        let (last, note) = self.tail.end(self.store, &self.stream_id).await?;
        self.draw(last);
        self.bar
            .finish(ended.as_ref().is_ok_and(WorkerEnd::is_success));
        if let Some(note) = note {
            self.progress.say(&note);
        }
        let ended = self.ended.insert(ended?).clone();
        Ok(Some(self.end(&ended)))
    }

    /// The first signal asks, the second kills. Gives whether the worker is still watched: what Slurm or the
    /// pool has continues.
    fn stop(&mut self) -> bool {
        let Worker::Process(worker) = &mut self.worker else {
            return false;
        };
        if self.asked_to_stop {
            // It may have ended by itself meanwhile.
            let _ = worker.child.start_kill();
            return true;
        }
        self.asked_to_stop = true;
        worker.ask_to_stop();
        self.progress
            .say("stopping after a checkpoint; press Ctrl-C again to stop at once");
        true
    }

    async fn take_in(&mut self) -> Result<(), CliError> {
        let stream_id = self.stream_id.clone();
        while let Some(events) = self.tail.fold_next(self.store, &stream_id).await? {
            self.draw(events);
        }
        if let Some(news) = self.worker.news() {
            self.progress.say(&format!("stream {stream_id}: {news}"));
        }
        self.progress.draw();
        Ok(())
    }

    /// Whether an event is of this attempt, or of a further run of it elsewhere.
    fn is_own(&self, event: &Event) -> bool {
        match self.worker {
            Worker::Process(_) => event.attempt == self.number,
            Worker::Slurm(_) | Worker::Pool(_) => event.attempt >= self.number,
        }
    }

    fn draw(&mut self, events: Vec<Event>) {
        for event in events {
            // The file begins with what earlier attempts said, and is read again where it was cut.
            if !self.is_own(&event) || event.seq <= self.last_seq {
                continue;
            }
            self.last_seq = event.seq;
            self.bar.show(&event);
            match event.kind {
                EventKind::Checkpoint {
                    job_id,
                    is_final: true,
                    ..
                } => self.progress.job_done(&job_id),
                EventKind::Started { .. } => {
                    self.has_begun = true;
                    self.failed = None;
                }
                EventKind::Finished => self.is_finished = true,
                EventKind::Unhealthy {
                    job_id,
                    sae,
                    step,
                    reason,
                    is_fatal,
                    ..
                } => {
                    let name = self.name_of(&job_id);
                    // The reason is shown at the end.
                    let what = if is_fatal {
                        "its training ends here"
                    } else {
                        reason.as_str()
                    };
                    self.bar.note(&format!(
                        "job `{name}` ({job_id}), `{sae}` at step {step}: {what}"
                    ));
                    if is_fatal {
                        self.ended_early.push(job_id);
                    }
                }
                EventKind::Failed {
                    kind,
                    message,
                    hint,
                } => {
                    self.failed = Some((kind, message, hint));
                }
                _ => {}
            }
        }
    }

    /// Whether another attempt may end better: no one asked it to stop, and the input is not at fault.
    pub(crate) fn is_worth_a_retry(&self, end: &AttemptEnd) -> bool {
        let is_of_the_input = matches!(self.failed, Some((FailureKind::Input, ..)))
            || matches!(end.exit_code, Some(BAD_INPUT | NOT_LOADED));
        let may_end_better = match &self.ended {
            Some(WorkerEnd::Slurm(ended)) => {
                end.outcome != Outcome::Stopped && ended.remedy().is_none()
            }
            Some(WorkerEnd::Pool(_)) => end.outcome != Outcome::Stopped,
            _ => true,
        };
        let is_done = end.outcome == Outcome::Done;
        !is_done && !self.asked_to_stop && !is_of_the_input && may_end_better
    }

    /// Whether the cluster ended it, for a reason that is not the worker's.
    pub(crate) fn is_ended_by_the_cluster(&self) -> bool {
        self.ended
            .as_ref()
            .is_some_and(WorkerEnd::is_of_the_cluster)
    }

    fn end(&self, ended: &WorkerEnd) -> AttemptEnd {
        let status = match ended {
            WorkerEnd::Process(status) => status,
            WorkerEnd::Slurm(ended) => return ended.attempt(self.is_finished),
            WorkerEnd::Pool(ended) => return ended.attempt(),
        };
        let outcome = match status.code() {
            Some(0) => Outcome::Done,
            Some(1 | 2) if self.failed.is_some() => Outcome::Failed,
            _ if self.asked_to_stop => Outcome::Stopped,
            Some(130) => Outcome::Interrupted,
            Some(1 | 2) => Outcome::Failed,
            _ => Outcome::Crashed,
        };
        let reason = match outcome {
            Outcome::Done => None,
            Outcome::Stopped => Some("it was stopped".to_owned()),
            _ => Some(format!("the worker ended with {status}")),
        };
        AttemptEnd {
            outcome,
            exit_code: status.code(),
            reason,
        }
    }

    /// What the sweep calls a job.
    fn name_of(&self, job_id: &str) -> &str {
        let job = self.plan.job(job_id);
        job.map_or("", |job| job.name.as_str())
    }

    /// What to tell the user about an attempt that failed.
    pub(crate) fn failure(&self, end: &AttemptEnd) -> Failure {
        let (kind, message, hint) = self.failed.clone().unwrap_or_else(|| {
            let reason = end.reason.clone().unwrap_or_default();
            let (last_message, last_hint) = self.worker.last_words();
            let message = match last_message {
                Some(message) => format!("{reason}: {message}"),
                None => reason,
            };
            match end.exit_code {
                Some(BAD_INPUT) => return (FailureKind::Input, message, last_hint),
                Some(NOT_LOADED) => {
                    return (FailureKind::Input, message, Some(INSTALL_AGAIN.to_owned()));
                }
                _ => {}
            }
            if let Some(WorkerEnd::Slurm(ended)) = &self.ended
                && let Some(remedy) = ended.remedy()
            {
                return (FailureKind::Input, message, Some(remedy.to_owned()));
            }
            let hint =
                "run the same command again, without `--fresh`, to continue from the last checkpoints"
                    .to_owned();
            (FailureKind::Internal, message, Some(hint))
        });
        Failure {
            stream_id: self.stream_id.clone(),
            kind,
            has_begun: self.has_begun,
            message,
            hint,
            log: self.worker.log(),
        }
    }
}

impl Failure {
    /// What went wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What the program ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.has_begun {
            FailureKind::Internal.exit_code()
        } else {
            self.kind.exit_code()
        }
    }

    /// Tells the user.
    pub(crate) fn print(&self) {
        table::note(&format!(
            "error: stream {}: {}",
            self.stream_id, self.message
        ));
        if let Some(hint) = &self.hint {
            table::note(&format!("hint: {hint}"));
        }
        table::note(&format!("  log: {}", self.log.display()));
    }
}
