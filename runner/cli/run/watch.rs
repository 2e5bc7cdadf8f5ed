//! One attempt at a stream, watched to its end: events folded and drawn, a stop passed on.

use crate::error::CliError;
use crate::libtorch::INSTALL_AGAIN;
use crate::run::event_tail::EventTail;
use crate::run::signals::StopSignals;
use crate::run::worker_process::WorkerProcess;
use crate::run::worker_program::NOT_LOADED;
use crate::show::progress::{Progress, StreamProgress};
use crate::show::table;
use fault::FailureKind;
use plan::Order;
use plan::{Event, EventKind};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;
use store::{AttemptEnd, Outcome, Store};

/// How often events are looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Exit code of a worker whose input is at fault, also if it could not write an event about it.
const BAD_INPUT: i32 = FailureKind::Input.exit_code() as i32;

/// One attempt at a stream.
pub(crate) struct Watch<'a> {
    pub(crate) store: &'a Store,
    pub(crate) progress: &'a Progress,
    pub(crate) order: &'a Order,
    pub(crate) worker: WorkerProcess,
    pub(crate) tail: EventTail,
    /// Number of the last event that was drawn.
    pub(crate) last_seq: u64,
    pub(crate) bar: StreamProgress,
    /// The last message of the worker, if it had one.
    pub(crate) failed: Option<(FailureKind, String, Option<String>)>,
    /// Whether the worker has found its device.
    pub(crate) has_begun: bool,
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

impl Watch<'_> {
    /// Folds and draws until the worker has ended.
    ///
    /// # Errors
    /// The database can no longer be written, or the events cannot be read.
    pub(crate) async fn until_ended(
        &mut self,
        signals: &mut StopSignals,
    ) -> Result<AttemptEnd, CliError> {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        let status = loop {
            tokio::select! {
                status = self.worker.child.wait() => break status,
                _ = ticks.tick() => self.take_in().await?,
                () = signals.recv() => self.stop(),
            }
        };
        self.take_in().await?;
        let (last, note) = self.tail.end(self.store, &self.order.stream_id).await?;
        self.draw(last);
        self.bar
            .finish(status.as_ref().is_ok_and(ExitStatus::success));
        if let Some(note) = note {
            self.progress.say(&note);
        }
        let unknown = |error| CliError::environment(format!("cannot wait for the worker: {error}"));
        Ok(self.end(status.map_err(unknown)?))
    }

    /// The first signal asks, the second kills.
    fn stop(&mut self) {
        if self.asked_to_stop {
            // It may have ended by itself meanwhile.
            let _ = self.worker.child.start_kill();
            return;
        }
        self.asked_to_stop = true;
        self.worker.ask_to_stop();
        self.progress
            .say("stopping after a checkpoint; press Ctrl-C again to stop at once");
    }

    async fn take_in(&mut self) -> Result<(), CliError> {
        let stream_id = &self.order.stream_id;
        while let Some(events) = self.tail.fold_next(self.store, stream_id).await? {
            self.draw(events);
        }
        self.progress.draw();
        Ok(())
    }

    fn draw(&mut self, events: Vec<Event>) {
        for event in events {
            // The file begins with what earlier attempts said, and is read again where it was cut.
            if event.attempt != self.order.attempt || event.seq <= self.last_seq {
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
                EventKind::Started { .. } => self.has_begun = true,
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
        end.outcome != Outcome::Done && !self.asked_to_stop && !is_of_the_input
    }

    fn end(&self, status: ExitStatus) -> AttemptEnd {
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
        let mut jobs = self.order.jobs.iter().chain(&self.order.evaluate);
        let found = jobs.find(|job| job.job.job_id == job_id);
        found.map_or("", |job| job.job.name.as_str())
    }

    /// What to tell the user about an attempt that failed.
    pub(crate) fn failure(&self, end: &AttemptEnd) -> Failure {
        let (kind, message, hint) = self.failed.clone().unwrap_or_else(|| {
            let reason = end.reason.clone().unwrap_or_default();
            let message = match self.worker.last_message() {
                Some(message) => format!("{reason}: {message}"),
                None => reason,
            };
            match end.exit_code {
                Some(BAD_INPUT) => return (FailureKind::Input, message, self.worker.last_hint()),
                Some(NOT_LOADED) => {
                    return (FailureKind::Input, message, Some(INSTALL_AGAIN.to_owned()));
                }
                _ => {}
            }
            let hint =
                "run the same command again, without `--fresh`, to continue from the last checkpoints"
                    .to_owned();
            (FailureKind::Internal, message, Some(hint))
        });
        Failure {
            stream_id: self.order.stream_id.clone(),
            kind,
            has_begun: self.has_begun,
            message,
            hint,
            log: self.worker.log.clone(),
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
