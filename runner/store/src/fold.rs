//! Folding a worker's events into the tables, each exactly once.

use crate::attempt::AttemptStatus;
use crate::checkpoint::CheckpointRow;
use crate::error::{StoreError, Trouble};
use crate::evaluation::Evaluation;
use crate::metric::Interval;
use crate::open::Store;
use crate::stream::Position;
use crate::verdict::Verdict;
use crate::worker::{LastWords, Worker};
use crate::{checkpoint, evaluation, job, metric, sae, stream, verdict, worker};
use plan::{Event, EventKind};
use sqlx::SqliteConnection;
use std::collections::HashMap;

impl Store {
    /// Takes in the events of a stream, in the order of their numbers, in one transaction; gives how
    /// many were new. Events that are in already are skipped, so folding a file twice, or from its
    /// start after a crash, changes nothing.
    ///
    /// An event about a job counts while its attempt is the last that trains the job; a late word of
    /// an older attempt, or of one before a reset, is taken in without effect on the job. An attempt
    /// the database does not know is adopted: a lost database comes back from the events.
    ///
    /// # Errors
    /// An unknown stream; a number left out (then lines were lost, and with them metrics); a new
    /// attempt that counts from an old number; an event about a job or SAE the stream does not train.
    /// On an error nothing is taken in.
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
                intervals: Vec::new(),
            };
            for event in new {
                fold.apply(event).await?;
            }
            fold.put_intervals().await?;
            stream::advance(&mut tx, stream_id, last).await?;
            tx.commit().await?;
            Ok(new.len())
        })
        .await
    }
}

/// The events after `position`; they must follow on it, and on each other.
fn unseen<'a>(
    stream_id: &str,
    position: Position,
    events: &'a [Event],
) -> Result<&'a [Event], StoreError> {
    let n_seen = events.iter().take_while(|e| e.seq <= position.seq).count();
    let (seen, new) = events.split_at(n_seen);
    if let Some(event) = seen.iter().find(|e| e.attempt > position.attempt) {
        return Err(StoreError::EventsRestarted {
            stream_id: stream_id.to_owned(),
            attempt: event.attempt,
            expected: position.seq + 1,
            got: event.seq,
        });
    }
    for (event, expected) in new.iter().zip(position.seq + 1..) {
        if event.seq != expected {
            return Err(StoreError::EventGap {
                stream_id: stream_id.to_owned(),
                expected,
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
    /// Keys of the SAEs seen, by attempt, job and name; `None` where the attempt's word does not
    /// count for the job.
    saes: HashMap<(i64, String, String), Option<i64>>,
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
            EventKind::Unhealthy { .. } => self.verdict(attempt_id, event).await,
            EventKind::Metric { .. } => self.metric(attempt_id, event).await,
            EventKind::Checkpoint { .. } => self.checkpoint(attempt_id, event).await,
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
                metric::delete_undone(self.conn, attempt_id, *first_step).await
            }
            _ => Ok(()),
        }
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
        self.intervals.push(Interval {
            sae_id,
            attempt_id,
            step: *step,
            stats,
            time_ms: event.time_ms,
        });
        Ok(())
    }

    async fn verdict(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let EventKind::Unhealthy {
            job_id,
            sae,
            step,
            reason,
            is_fatal,
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
            time_ms: event.time_ms,
        };
        verdict::add(self.conn, &row).await?;
        if *is_fatal {
            job::mark_failed(self.conn, job_id).await?;
        }
        Ok(())
    }

    /// The SAE's key; `None` where the attempt's word does not count for its job.
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
        if !stream::trains(self.conn, self.stream_id, job_id).await? {
            return Err(self.foreign(event.seq, job_id.clone()));
        }
        if !worker::speaks_for(self.conn, attempt_id, job_id).await? {
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

    /// An evaluation may come from an attempt that trained nothing, so it is the checkpoint that says
    /// whether it counts.
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
        let Some(sae_id) = sae::find(self.conn, self.stream_id, job_id, sae).await? else {
            return Err(self.foreign(event.seq, format!("{job_id}/{sae}")));
        };
        if !evaluation::is_of_checkpoint(self.conn, attempt_id, job_id, *step).await? {
            return Ok(());
        }
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

    async fn end(&mut self, attempt_id: i64, event: &Event) -> Result<(), Trouble> {
        let (status, words) = match &event.kind {
            EventKind::Failed {
                kind,
                message,
                hint,
            } => {
                let words = LastWords {
                    failure: Some(*kind),
                    reason: Some(message),
                    hint: hint.as_deref(),
                };
                (AttemptStatus::Failed, words)
            }
            EventKind::Interrupted { .. } => (AttemptStatus::Interrupted, LastWords::default()),
            _ => (AttemptStatus::Done, LastWords::default()),
        };
        worker::close_by_event(self.conn, attempt_id, status, words, event.time_ms).await
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
mod tests {
    use super::*;
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::{FailureKind, Plan};
    use serde_json::json;

    async fn running() -> (TestStore, Plan) {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let stream = &plan.streams[0].stream_id;
        test.store.begin_attempt(stream, "log").await.unwrap();
        (test, plan)
    }

    /// Two jobs over 20 steps; the first ends well, the second not.
    fn script(plan: &Plan) -> Script {
        let [a, b] = [&plan.jobs[0].job_id, &plan.jobs[1].job_id];
        let mut script = Script::new();
        script.start(1, 0);
        for step in [10, 20] {
            script
                .metric(a, step, stats(2.0))
                .metric(b, step, stats(4.0));
            script.push(EventKind::Progress {
                step,
                n_tokens: 100,
                elapsed_ms: 50,
            });
        }
        script.checkpoint(a, 20, true);
        script.push(EventKind::Failed {
            kind: FailureKind::Internal,
            message: "no memory".into(),
            hint: Some("get more".into()),
        });
        script
    }

    #[tokio::test]
    async fn folding_twice_changes_nothing() {
        let (test, plan) = running().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let events = script(&plan).events;
        assert_eq!(store.fold(stream, &events).await.unwrap(), events.len());
        let rows = test.dump().await;
        assert_eq!(store.fold(stream, &events).await.unwrap(), 0);
        assert_eq!(store.fold(stream, &[]).await.unwrap(), 0);
        assert_eq!(test.dump().await, rows);
        assert_eq!(
            store.last_event_seq(stream).await.unwrap(),
            events.len() as u64
        );
        let again = test.record(&plan).await;
        assert_eq!(
            again.stream(stream).unwrap().last_event_seq,
            events.len() as u64
        );
    }

    #[tokio::test]
    async fn folding_in_pieces_is_folding_at_once() {
        let (at_once, plan) = running().await;
        let (in_pieces, _) = running().await;
        let stream = &plan.streams[0].stream_id;
        let events = script(&plan).events;
        at_once.store.fold(stream, &events).await.unwrap();
        for end in 1..=events.len() {
            // As a coordinator does that reads the whole file again each time.
            let n_new = in_pieces.store.fold(stream, &events[..end]).await.unwrap();
            assert_eq!(n_new, 1);
        }
        for table in ["metric", "progress", "checkpoint"] {
            let sql = format!("SELECT * FROM {table}");
            assert_eq!(
                at_once.rows(&sql).await,
                in_pieces.rows(&sql).await,
                "{table}"
            );
        }
    }

    #[tokio::test]
    async fn each_event_finds_its_place() {
        let (test, plan) = running().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        store.fold(stream, &script(&plan).events).await.unwrap();
        assert_eq!(test.status(&plan.jobs[0].job_id).await, "done");
        let failed = store.job(&plan.jobs[1].job_id).await.unwrap();
        assert_eq!(failed.status.to_string(), "failed");
        let attempt = &failed.attempts[0];
        assert_eq!(attempt.status, AttemptStatus::Failed);
        assert_eq!(attempt.pid, Some(41));
        assert_eq!(attempt.device.as_deref(), Some("cpu"));
        assert_eq!(attempt.first_step, Some(0));
        assert_eq!(attempt.reason.as_deref(), Some("no memory"));
        assert_eq!(attempt.hint.as_deref(), Some("get more"));
        let length = test
            .rows("SELECT n_steps, tokens_per_step FROM stream")
            .await;
        assert_eq!(json!(length), json!([[20, 10]]));
    }

    #[tokio::test]
    async fn what_a_resumed_attempt_does_again_counts_once() {
        let (test, plan) = running().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let job = &plan.jobs[0].job_id;
        let mut script = Script::new();
        script
            .start(1, 0)
            .metric(job, 4, stats(8.0))
            .metric(job, 8, stats(8.0));
        script
            .checkpoint(job, 8, false)
            .metric(job, 12, stats(8.0))
            .metric(job, 16, stats(8.0));
        store.fold(stream, &script.events).await.unwrap();
        store.abandon_dead_attempts().await.unwrap();
        store.begin_attempt(stream, "log").await.unwrap();

        // From the checkpoint, and with another interval between metrics.
        script
            .start(2, 8)
            .metric(job, 13, stats(2.0))
            .metric(job, 16, stats(1.0));
        store.fold(stream, &script.events).await.unwrap();
        let rows = test
            .rows("SELECT step, squared_error, number FROM metric JOIN attempt USING (attempt_id)")
            .await;
        assert_eq!(
            json!(rows),
            json!([[4, 8.0, 1], [8, 8.0, 1], [13, 2.0, 2], [16, 1.0, 2]])
        );
    }

    #[tokio::test]
    async fn a_job_ahead_of_its_stream_keeps_its_metrics() {
        let (test, plan) = running().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let job = &plan.jobs[0].job_id;
        let mut script = Script::new();
        script
            .start(1, 0)
            .metric(job, 8, stats(8.0))
            .checkpoint(job, 8, false);
        script.metric(job, 12, stats(8.0));
        script.start(2, 0);
        store.fold(stream, &script.events).await.unwrap();
        assert_eq!(test.rows("SELECT step FROM metric").await, [[json!(8)]]);
    }

    #[tokio::test]
    async fn lost_restarted_and_foreign_events_are_refused_whole() {
        let (test, plan) = running().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let all = script(&plan).events;
        store.fold(stream, &all[..3]).await.unwrap();
        let rows = test.dump().await;

        let error = store.fold(stream, &all[4..]).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::EventGap {
                    expected: 4,
                    got: 5,
                    ..
                }
            ),
            "{error:?}"
        );
        let mut with_hole = all.clone();
        with_hole.remove(5);
        let error = store.fold(stream, &with_hole).await.unwrap_err();
        assert!(matches!(
            error,
            StoreError::EventGap {
                expected: 6,
                got: 7,
                ..
            }
        ));

        let mut anew = Script::new();
        anew.start(2, 0);
        let error = store.fold(stream, &anew.events).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::EventsRestarted {
                    attempt: 2,
                    expected: 4,
                    got: 1,
                    ..
                }
            ),
            "{error:?}"
        );

        for foreign in ["metric", "checkpoint"] {
            let mut script = Script::new();
            script.events = all[..5].to_vec();
            match foreign {
                "metric" => script.metric("other", 5, stats(1.0)),
                _ => script.checkpoint("other", 5, true),
            };
            let error = store.fold(stream, &script.events).await.unwrap_err();
            assert!(
                matches!(&error, StoreError::ForeignEvent { seq: 6, what, .. }
                if what.starts_with("other"))
            );
            assert!(error.hint().is_some());
        }
        let error = store.fold("none", &all).await.unwrap_err();
        assert!(matches!(error, StoreError::UnknownStream { .. }));
        assert_eq!(test.dump().await, rows, "nothing was taken in");
    }

    #[tokio::test]
    async fn an_older_attempt_no_longer_speaks_for_a_job() {
        let (test, a) = running().await;
        let (store, old) = (&test.store, &a.streams[0].stream_id);
        let job = &a.jobs[0].job_id;
        store.abandon_dead_attempts().await.unwrap();
        // The same job, in another stream.
        let b = plan("b", &[json!({"k": 4}), json!({"k": 8})]);
        test.record(&b).await;
        let new = &b.streams[0].stream_id;
        store.begin_attempt(new, "log").await.unwrap();
        let mut late = Script::new();
        late.start(1, 0)
            .metric(job, 10, stats(8.0))
            .checkpoint(job, 20, true);
        assert_eq!(store.fold(old, &late.events).await.unwrap(), 4);
        assert_eq!(test.rows("SELECT count(*) FROM metric").await, [[json!(0)]]);
        assert_eq!(test.status(job).await, "running");
    }

    #[tokio::test]
    async fn a_lost_database_comes_back_from_the_events() {
        let (lost, plan) = running().await;
        let stream = &plan.streams[0].stream_id;
        let events = script(&plan).events;
        lost.store.fold(stream, &events).await.unwrap();
        let test = TestStore::new().await;
        test.record(&plan).await;
        test.store.fold(stream, &events).await.unwrap();
        let results = test.store.results("s").await.unwrap();
        assert_eq!(results.len(), 2);
        let before = lost.store.results("s").await.unwrap();
        assert_eq!(results[0], before[0], "done, with the same numbers");
        assert_eq!(test.status(&plan.jobs[1].job_id).await, "queued");
        let attempts = test.rows("SELECT number, status, pid FROM attempt").await;
        assert_eq!(json!(attempts), json!([[1, "failed", 41]]));
    }

    #[tokio::test]
    async fn a_diverged_run_is_null_and_not_flattered() {
        let (test, plan) = running().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let [a, b] = [&plan.jobs[0].job_id, &plan.jobs[1].job_id];
        let mut script = Script::new();
        script
            .start(1, 0)
            .metric(a, 19, stats(2.0))
            .metric(a, 20, stats(f64::NAN));
        script.metric(b, 20, stats(f64::INFINITY));
        store.fold(stream, &script.events).await.unwrap();
        let results = store.results("s").await.unwrap();
        assert_eq!([results[0].fvu, results[1].fvu], [None, None]);
        assert_eq!(results[0].l0, Some(4.0));
        let curve = test
            .rows("SELECT step, fvu FROM curve ORDER BY step, fvu")
            .await;
        assert_eq!(json!(curve), json!([[19, 0.25], [20, null], [20, null]]));
    }
}
