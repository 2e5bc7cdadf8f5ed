//! Folding a worker's events into the tables, each exactly once.

use crate::attempt::AttemptStatus;
use crate::calibration::Calibration;
use crate::checkpoint::CheckpointRow;
use crate::error::{StoreError, Trouble};
use crate::evaluation::Evaluation;
use crate::metric::Interval;
use crate::open::{Store, int};
use crate::stream::Position;
use crate::verdict::Verdict;
use crate::worker::{LastReport, Worker};
use crate::{
    calibration, checkpoint, evaluation, extension, job, metric, sae, stream, verdict, worker,
};
use plan::{Event, EventKind};
use sqlx::SqliteConnection;
use std::collections::HashMap;

impl Store {
    /// Takes in the events of a stream, in the order of their numbers, in one transaction; gives how
    /// many were new. Events that are in already are skipped, so folding a file twice, or from its
    /// start after a crash, changes nothing. Numbers that are left out are those of lines that were lost.
    ///
    /// An event about a job counts while its attempt is the last that trains the job; a late event of
    /// an older attempt, or of one before a reset, is taken in without effect on the job. An attempt
    /// the database does not know is adopted: a lost database comes back from the events.
    ///
    /// # Errors
    /// An unknown stream; a new attempt that counts from an old number; an event about a job or SAE the
    /// stream does not train, or that breaks a rule of the schema. On an error nothing is taken in.
    pub async fn fold(&self, stream_id: &str, events: &[Event]) -> Result<usize, StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            let position = stream::position(&mut tx, stream_id).await?;
            let new = unseen(stream_id, position, events)?;
            let Some(last) = new.last() else { return Ok(0) };
            let mut fold = Fold {
                conn: &mut tx,
                stream_id,
                attempts: HashMap::new(),
                saes: HashMap::new(),
                n_tokens: HashMap::new(),
                intervals: Vec::new(),
            };
            for event in &new {
                fold.apply(event).await?;
            }
            fold.put_intervals().await?;
            stream::advance(&mut tx, stream_id, last).await?;
            tx.commit().await?;
            Ok(new.len())
        })
        .await
    }

    /// The same, but that events which do not fit are left out: gives the index of each and what is wrong
    /// with it. The others are taken in.
    ///
    /// # Errors
    /// An unknown stream, or a database that cannot be written.
    pub async fn fold_what_fits(
        &self,
        stream_id: &str,
        events: &[Event],
    ) -> Result<Vec<(usize, StoreError)>, StoreError> {
        let mut refused = Vec::new();
        let mut left = vec![(0, events.len())];
        while let Some((start, end)) = left.pop() {
            match self.fold(stream_id, &events[start..end]).await {
                Ok(_) => {}
                Err(error) if !error.is_of_an_event() => return Err(error),
                Err(error) if end - start == 1 => refused.push((start, error)),
                Err(_) => {
                    let middle = start.midpoint(end);
                    left.push((middle, end));
                    left.push((start, middle));
                }
            }
        }
        Ok(refused)
    }
}

/// The events after `position`.
fn unseen<'a>(
    stream_id: &str,
    mut position: Position,
    events: &'a [Event],
) -> Result<Vec<&'a Event>, StoreError> {
    let mut new = Vec::new();
    for event in events {
        if event.seq > position.seq {
            new.push(event);
            position = Position {
                seq: event.seq,
                attempt: event.attempt,
            };
        } else if event.attempt > position.attempt {
            return Err(StoreError::EventsRestarted {
                stream_id: stream_id.to_owned(),
                attempt: event.attempt,
                expected: position.seq + 1,
                got: event.seq,
            });
        }
    }
    Ok(new)
}

struct Fold<'a> {
    conn: &'a mut SqliteConnection,
    stream_id: &'a str,
    /// Keys of the attempts seen, by number.
    attempts: HashMap<u32, i64>,
    /// Keys of the SAEs seen, by attempt, job and name; `None` if the attempt's events do not
    /// count for the job.
    saes: HashMap<(i64, String, String), Option<i64>>,
    /// Tokens that each SAE was trained on by its last interval here.
    n_tokens: HashMap<i64, i64>,
    /// Metrics that are yet to be put, many at a time: a statement for each takes longer than all else.
    intervals: Vec<Interval<'a>>,
}

impl<'a> Fold<'a> {
    async fn apply(&mut self, event: &'a Event) -> Result<(), Trouble> {
        // Nothing else that comes in great numbers touches what metrics do.
        let keeps_order = matches!(
            event.kind,
            EventKind::Metric { .. } | EventKind::Progress { .. }
        );
        if !keeps_order {
            self.put_intervals().await?;
        }
        let attempt_id = self.attempt(event).await?;
        match &event.kind {
            // Of the moment only.
            EventKind::Tokenising { .. } | EventKind::Evaluating { .. } => Ok(()),
            EventKind::Note { message } => {
                verdict::add_note(self.conn, attempt_id, event, message).await
            }
            EventKind::Extended { .. } => self.extension(attempt_id, event).await,
            EventKind::Unhealthy { .. } => self.verdict(attempt_id, event).await,
            EventKind::Metric { .. } => self.metric(attempt_id, event).await,
            EventKind::Checkpoint { .. } => self.checkpoint(attempt_id, event).await,
            EventKind::Calibration { .. } => self.calibration(attempt_id, event).await,
            EventKind::Evaluation { .. } => self.evaluation(attempt_id, event).await,
            EventKind::Progress {
                step,
                n_tokens,
                elapsed_ms,
            } => {
                let (step, n_tokens, elapsed_ms) = (*step, *n_tokens, *elapsed_ms);
                metric::add_progress(self.conn, attempt_id, step, n_tokens, elapsed_ms).await
            }
            EventKind::Started { .. } | EventKind::Ready { .. } => {
                self.start(attempt_id, event).await
            }
            EventKind::Failed { .. } | EventKind::Interrupted { .. } | EventKind::Finished => {
                self.end(attempt_id, event).await
            }
        }
    }

    async fn attempt(&mut self, event: &Event) -> Result<i64, Trouble> {
        if let Some(&attempt_id) = self.attempts.get(&event.attempt) {
            return Ok(attempt_id);
        }
        let attempt_id = worker::of_event(self.conn, self.stream_id, event).await?;
        self.attempts.insert(event.attempt, attempt_id);
        Ok(attempt_id)
    }

    async fn start(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        match &event.kind {
            EventKind::Started {
                device,
                libtorch,
                pid,
                host,
            } => {
                let worker = Worker {
                    host,
                    pid: *pid,
                    device,
                    libtorch,
                };
                worker::set_worker(self.conn, attempt_id, worker).await
            }
            EventKind::Ready {
                first_step,
                n_steps,
                tokens_per_step,
            } => {
                stream::set_length(self.conn, self.stream_id, *n_steps, *tokens_per_step).await?;
                worker::set_first_step(self.conn, attempt_id, *first_step).await?;
                self.n_tokens.clear();
                metric::delete_undone(self.conn, attempt_id, *first_step).await
            }
            _ => Ok(()),
        }
    }

    async fn extension(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let EventKind::Extended {
            job_id,
            base_job_id,
            step,
        } = &event.kind
        else {
            return Ok(());
        };
        if !self.counts(attempt_id, event.seq, job_id).await? {
            return Ok(());
        }
        extension::put(self.conn, attempt_id, (job_id, base_job_id), *step).await
    }

    async fn put_intervals(&mut self) -> Result<(), Trouble> {
        metric::put(self.conn, &self.intervals).await?;
        self.intervals.clear();
        Ok(())
    }

    async fn metric(&mut self, attempt_id: i64, event: &'a Event) -> Result<(), Trouble> {
        let EventKind::Metric {
            job_id,
            sae,
            step,
            stats,
        } = &event.kind
        else {
            return Ok(());
        };
        let Some(sae_id) = self.sae(attempt_id, event.seq, job_id, sae).await? else {
            return Ok(());
        };
        let n_tokens_so_far = self.add_tokens(sae_id, *step, stats.n_tokens).await?;
        self.intervals.push(Interval {
            sae_id,
            attempt_id,
            step: *step,
            n_tokens_so_far,
            stats,
            time_ms: event.time_ms,
        });
        Ok(())
    }

    /// Adds the tokens of an interval that ends at `step` to those of the SAE before it.
    async fn add_tokens(&mut self, sae_id: i64, step: u64, n_tokens: u64) -> Result<i64, Trouble> {
        let before = match self.n_tokens.get(&sae_id) {
            Some(&before) => before,
            None => metric::n_tokens_before(self.conn, sae_id, step).await?,
        };
        let so_far = before.saturating_add(int(n_tokens));
        self.n_tokens.insert(sae_id, so_far);
        Ok(so_far)
    }

    async fn verdict(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let EventKind::Unhealthy {
            job_id,
            sae,
            step,
            reason,
            is_fatal,
            hint,
        } = &event.kind
        else {
            return Ok(());
        };
        let Some(sae_id) = self.sae(attempt_id, event.seq, job_id, sae).await? else {
            return Ok(());
        };
        let row = Verdict {
            sae_id,
            attempt_id,
            step: *step,
            reason,
            is_fatal: *is_fatal,
            hint: hint.as_deref(),
            time_ms: event.time_ms,
        };
        verdict::add(self.conn, &row).await?;
        if *is_fatal {
            job::mark_failed(self.conn, job_id).await?;
        }
        Ok(())
    }

    /// The SAE's key; `None` if the attempt's events do not count for its job.
    async fn sae(
        &mut self,
        attempt_id: i64,
        seq: u64,
        job_id: &str,
        name: &str,
    ) -> Result<Option<i64>, Trouble> {
        let key = (attempt_id, job_id.to_owned(), name.to_owned());
        if let Some(&known) = self.saes.get(&key) {
            return Ok(known);
        }
        let Some(sae_id) = sae::find(self.conn, self.stream_id, job_id, name).await? else {
            return Err(self.foreign(seq, format!("{job_id}/{name}")));
        };
        let counts = worker::speaks_for(self.conn, attempt_id, job_id).await?;
        let sae_id = counts.then_some(sae_id);
        self.saes.insert(key, sae_id);
        Ok(sae_id)
    }

    /// Whether the attempt's events count for a job of the stream.
    async fn counts(&mut self, attempt_id: i64, seq: u64, job_id: &str) -> Result<bool, Trouble> {
        if !stream::trains(self.conn, self.stream_id, job_id).await? {
            return Err(self.foreign(seq, job_id.to_owned()));
        }
        worker::speaks_for(self.conn, attempt_id, job_id).await
    }

    async fn checkpoint(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let EventKind::Checkpoint {
            job_id,
            step,
            path,
            is_final,
        } = &event.kind
        else {
            return Ok(());
        };
        if !self.counts(attempt_id, event.seq, job_id).await? {
            return Ok(());
        }
        let row = CheckpointRow {
            step: *step,
            path: path.clone(),
            is_final: *is_final,
            created_ms: event.time_ms,
        };
        checkpoint::put(self.conn, attempt_id, job_id, &row).await?;
        if *is_final {
            job::mark_done(self.conn, job_id, event.time_ms).await?;
        }
        Ok(())
    }

    async fn calibration(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let Some(row) = Calibration::of(attempt_id, event) else {
            return Ok(());
        };
        match self
            .sae_of_checkpoint(attempt_id, event.seq, row.checkpoint)
            .await?
        {
            Some(sae_id) => calibration::put(self.conn, sae_id, &row).await,
            None => Ok(()),
        }
    }

    async fn evaluation(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let EventKind::Evaluation {
            job_id,
            sae,
            step,
            stats,
            density,
        } = &event.kind
        else {
            return Ok(());
        };
        let checkpoint = (job_id.as_str(), sae.as_str(), *step);
        let sae_id = self
            .sae_of_checkpoint(attempt_id, event.seq, checkpoint)
            .await?;
        let Some(sae_id) = sae_id else {
            return Ok(());
        };
        let evaluation = Evaluation {
            sae_id,
            step: *step,
            attempt_id: Some(attempt_id),
            stats,
            density,
            time_ms: event.time_ms,
        };
        evaluation::put(self.conn, &evaluation).await
    }

    /// The key of the SAE of a job's checkpoint, given as job, SAE and step. `None` if what the attempt found of it does
    /// not count: the attempt may have trained nothing, so it is the checkpoint that says.
    async fn sae_of_checkpoint(
        &mut self,
        attempt_id: i64,
        seq: u64,
        (job_id, sae, step): (&str, &str, u64),
    ) -> Result<Option<i64>, Trouble> {
        let Some(sae_id) = sae::find(self.conn, self.stream_id, job_id, sae).await? else {
            return Err(self.foreign(seq, format!("{job_id}/{sae}")));
        };
        let counts = checkpoint::is_of(self.conn, attempt_id, job_id, step).await?;
        Ok(counts.then_some(sae_id))
    }

    async fn end(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let (status, last) = match &event.kind {
            EventKind::Failed {
                kind,
                message,
                hint,
            } => {
                let last = LastReport {
                    failure: Some(*kind),
                    reason: Some(message),
                    hint: hint.as_deref(),
                };
                (AttemptStatus::Failed, last)
            }
            EventKind::Interrupted { .. } => (AttemptStatus::Interrupted, LastReport::default()),
            _ => (AttemptStatus::Done, LastReport::default()),
        };
        worker::close_by_event(self.conn, attempt_id, status, last, event.time_ms).await
    }

    fn foreign(&self, seq: u64, what: String) -> Trouble {
        StoreError::ForeignEvent {
            stream_id: self.stream_id.to_owned(),
            seq,
            what,
        }
        .into()
    }
}

#[cfg(test)]
mod tests;
