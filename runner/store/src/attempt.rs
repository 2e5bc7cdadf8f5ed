//! Tables `attempt` and `attempt_job`: each try of a worker at a stream, and whom it speaks for.

use crate::error::{StoreError, Trouble};
use crate::job::{self, JobStatus};
use crate::open::{Store, now_ms};
use crate::stream;
use fault::Fault;
use sqlx::{FromRow, SqliteConnection};
use std::fmt;

/// The status of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(rename_all = "lowercase")]
pub enum AttemptStatus {
    /// Its worker runs.
    Running,
    /// It trained all its jobs.
    Done,
    /// It ended in an error that the worker reported.
    Failed,
    /// It was asked to stop, by the user or by the machine, and saved its jobs.
    Interrupted,
    /// It ended without an event that says so.
    Crashed,
}

impl fmt::Display for AttemptStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Crashed => "crashed",
        })
    }
}

/// How an attempt ended, as the coordinator saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It trained all its jobs.
    Done,
    /// It ended in an error.
    Failed,
    /// Someone other than the user asked its worker to stop.
    Interrupted,
    /// The user asked it to stop.
    Stopped,
    /// A signal or an abort ended it.
    Crashed,
}

/// The end of an attempt, as the coordinator saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// How it ended.
    pub outcome: Outcome,
    /// The worker's exit code; `None` if a signal ended it.
    pub exit_code: Option<i32>,
    /// Why, as text; `None` for a good end. What the worker itself said goes before it.
    pub reason: Option<String>,
}

/// One try of a worker at a stream.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct AttemptRow {
    /// The stream.
    pub stream_id: String,
    /// Which attempt at it, from 1.
    pub number: u32,
    /// Its status.
    pub status: AttemptStatus,
    /// Host of the worker.
    pub host: Option<String>,
    /// Process id of the worker.
    pub pid: Option<u32>,
    /// Device it trains on.
    pub device: Option<String>,
    /// Version of libtorch.
    pub libtorch: Option<String>,
    /// Optimizer updates done before it.
    pub first_step: Option<u64>,
    /// File with what the worker printed, relative to the runs folder.
    pub log: Option<String>,
    /// Number of the job of Slurm that it is a run of.
    pub slurm_job_id: Option<u64>,
    /// When it was started, ms since the epoch, UTC.
    pub started_ms: i64,
    /// When it ended, ms since the epoch, UTC.
    pub ended_ms: Option<i64>,
    /// The worker's exit code.
    pub exit_code: Option<i32>,
    /// Why it ended.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl From<Outcome> for AttemptStatus {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Failed => Self::Failed,
            Outcome::Interrupted | Outcome::Stopped => Self::Interrupted,
            Outcome::Crashed => Self::Crashed,
        }
    }
}

impl Store {
    /// Opens an attempt at a stream and gives its number, from 1. The stream's jobs that are not
    /// done are its own, and run from now on. `log` is the file of the worker's output, relative to
    /// the runs folder.
    ///
    /// # Errors
    /// An unknown stream, one whose jobs are all done, one with an attempt still running.
    pub async fn begin_attempt(&self, stream_id: &str, log: &str) -> Result<u32, StoreError> {
        let all = Work {
            train: None,
            evaluate: &[],
            given_to: None,
        };
        self.open_attempt(stream_id, log, all).await
    }

    /// The same, of an attempt that trains only the jobs `train` of the stream, and that also evaluates the jobs
    /// `evaluate`, which are done. With these it need not have anything to train.
    ///
    /// # Errors
    /// As [`Store::begin_attempt`]; or an attempt at another stream still has one of the jobs.
    pub async fn begin_attempt_with(
        &self,
        stream_id: &str,
        log: &str,
        train: &[String],
        evaluate: &[String],
    ) -> Result<u32, StoreError> {
        let work = Work {
            train: Some(train),
            evaluate,
            given_to: None,
        };
        self.open_attempt(stream_id, log, work).await
    }

    /// The same, of an attempt whose worker this process does not start itself.
    ///
    /// # Errors
    /// As [`Store::begin_attempt_with`].
    pub async fn begin_given_attempt(
        &self,
        (stream_id, given_to): (&str, GivenTo<'_>),
        log: &str,
        train: &[String],
        evaluate: &[String],
    ) -> Result<u32, StoreError> {
        let work = Work {
            train: Some(train),
            evaluate,
            given_to: Some(given_to),
        };
        self.open_attempt(stream_id, log, work).await
    }

    async fn open_attempt(
        &self,
        stream_id: &str,
        log: &str,
        work: Work<'_>,
    ) -> Result<u32, StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            stream::position(&mut tx, stream_id).await?;
            refuse_second(&mut tx, stream_id).await?;
            let number = next_number(&mut tx, stream_id).await?;
            let attempt_id = insert_running(&mut tx, (stream_id, number), log, &work).await?;
            let n_jobs = take_jobs(&mut tx, attempt_id, (stream_id, work.train)).await?;
            for job_id in work.evaluate {
                take_job(&mut tx, attempt_id, job_id).await?;
            }
            refuse_shared(&mut tx, attempt_id).await?;
            if n_jobs == 0 && work.evaluate.is_empty() {
                let message = format!("all jobs of stream `{stream_id}` are done");
                return Err(Fault::input(message).into());
            }
            start_jobs(&mut tx, attempt_id).await?;
            tx.commit().await?;
            Ok(number)
        })
        .await
    }

    /// Closes an attempt. If the worker's events have closed it already, what they say counts, and
    /// only what they cannot know (the exit code, who asked for the end) is added. Its jobs that still
    /// run become `interrupted`, `stopped` or `failed`.
    ///
    /// Fold the stream's events first, so that the worker's last events are in.
    ///
    /// # Errors
    /// An attempt that was never begun.
    pub async fn end_attempt(
        &self,
        stream_id: &str,
        number: u32,
        end: &AttemptEnd,
    ) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            let attempt_id = find(&mut tx, stream_id, number).await?;
            let attempt_id = attempt_id.ok_or_else(|| {
                Fault::input(format!("stream `{stream_id}` has no attempt {number}"))
            })?;
            let status = close(&mut tx, attempt_id, end).await?;
            let job_status = match (status, end.outcome) {
                (AttemptStatus::Interrupted, Outcome::Stopped) => JobStatus::Stopped,
                _ => job_status_after(status),
            };
            job::leave_running(&mut tx, attempt_id, job_status).await?;
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// What an attempt is to do.
#[derive(Clone, Copy)]
struct Work<'a> {
    /// Jobs to train; `None`: all of the stream that are not done.
    train: Option<&'a [String]>,
    /// Jobs that are done, to evaluate.
    evaluate: &'a [String],
    /// What does it, if not a process that the coordinator starts.
    given_to: Option<GivenTo<'a>>,
}

/// What does an attempt whose worker the coordinator does not start itself. It may begin it again, and each time is a
/// further attempt.
#[derive(Clone, Copy, Debug)]
pub enum GivenTo<'a> {
    /// The job of Slurm with this name.
    Slurm(&'a str),
    /// Who takes this entry of the pool.
    Pool(&'a str),
}

/// Refuses an attempt that has a job of another one that runs.
async fn refuse_shared(conn: &mut SqliteConnection, attempt_id: i64) -> Result<(), Trouble> {
    let sql = "SELECT job_id, other.stream_id
         FROM attempt_job JOIN attempt_job AS taken USING (job_id)
         JOIN attempt AS other ON other.attempt_id = taken.attempt_id
         WHERE attempt_job.attempt_id = ?1 AND taken.attempt_id <> ?1 AND other.status = 'running' LIMIT 1";
    let shared: Option<(String, String)> = sqlx::query_as(sql)
        .bind(attempt_id)
        .fetch_optional(conn)
        .await?;
    match shared {
        None => Ok(()),
        Some((job_id, stream_id)) => Err(Fault::internal(format!(
            "job `{job_id}` is still being trained in stream `{stream_id}`"
        ))
        .with_hint("run the same command again: it waits until that has ended")
        .into()),
    }
}

async fn refuse_second(conn: &mut SqliteConnection, stream_id: &str) -> Result<(), Trouble> {
    let sql = "SELECT number FROM attempt WHERE stream_id = ? AND status = 'running'";
    let running: Option<u32> = sqlx::query_scalar(sql)
        .bind(stream_id)
        .fetch_optional(conn)
        .await?;
    match running {
        None => Ok(()),
        Some(number) => Err(Fault::input(format!(
            "attempt {number} at stream `{stream_id}` is still running"
        ))
        .with_hint("wait for it, or end its worker")
        .into()),
    }
}

async fn next_number(conn: &mut SqliteConnection, stream_id: &str) -> Result<u32, Trouble> {
    let sql = "SELECT coalesce(max(number), 0) + 1 FROM attempt WHERE stream_id = ?";
    Ok(sqlx::query_scalar(sql)
        .bind(stream_id)
        .fetch_one(conn)
        .await?)
}

async fn insert_running(
    conn: &mut SqliteConnection,
    (stream_id, number): (&str, u32),
    log: &str,
    work: &Work<'_>,
) -> Result<i64, Trouble> {
    let (slurm_name, pool_entry) = match work.given_to {
        None => (None, None),
        Some(GivenTo::Slurm(name)) => (Some(name), None),
        Some(GivenTo::Pool(entry)) => (None, Some(entry)),
    };
    let attempt_id = sqlx::query_scalar(
        "INSERT INTO attempt (stream_id, number, status, log, slurm_name, pool_entry, started_ms)
         VALUES (?, ?, 'running', ?, ?, ?, ?) RETURNING attempt_id",
    )
    .bind(stream_id)
    .bind(number)
    .bind(log)
    .bind(slurm_name)
    .bind(pool_entry)
    .bind(now_ms())
    .fetch_one(conn)
    .await?;
    Ok(attempt_id)
}

/// Gives the attempt the stream's jobs that are not done, or only those `among` them; how many.
pub(crate) async fn take_jobs(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    (stream_id, among): (&str, Option<&[String]>),
) -> Result<u64, Trouble> {
    let among = among.map(|ids| serde_json::to_string(ids).expect("strings serialise to JSON"));
    let taken = sqlx::query(
        "INSERT INTO attempt_job (attempt_id, job_id)
         SELECT ?1, job_id FROM stream_job JOIN job USING (job_id)
         WHERE stream_job.stream_id = ?2 AND job.status <> 'done'
             AND (?3 IS NULL OR job_id IN (SELECT value FROM json_each(?3)))",
    )
    .bind(attempt_id)
    .bind(stream_id)
    .bind(among)
    .execute(conn)
    .await?;
    Ok(taken.rows_affected())
}

/// Gives the attempt a job that is done, to evaluate.
async fn take_job(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    job_id: &str,
) -> Result<(), Trouble> {
    sqlx::query(
        "INSERT INTO attempt_job (attempt_id, job_id) VALUES (?, ?)
         ON CONFLICT (attempt_id, job_id) DO NOTHING",
    )
    .bind(attempt_id)
    .bind(job_id)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn start_jobs(
    conn: &mut SqliteConnection,
    attempt_id: i64,
) -> Result<(), Trouble> {
    sqlx::query(
        "UPDATE job SET status = 'running'
         WHERE status <> 'done'
             AND job_id IN (SELECT job_id FROM attempt_job WHERE attempt_id = ?)",
    )
    .bind(attempt_id)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn find(
    conn: &mut SqliteConnection,
    stream_id: &str,
    number: u32,
) -> Result<Option<i64>, Trouble> {
    let sql = "SELECT attempt_id FROM attempt WHERE stream_id = ? AND number = ?";
    let attempt_id = sqlx::query_scalar(sql).bind(stream_id).bind(number);
    Ok(attempt_id.fetch_optional(conn).await?)
}

/// Closes an attempt as the coordinator saw it; gives its status now.
async fn close(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    end: &AttemptEnd,
) -> Result<AttemptStatus, Trouble> {
    let status = sqlx::query_scalar(
        "UPDATE attempt SET
             status = CASE status WHEN 'running' THEN ? ELSE status END,
             ended_ms = coalesce(ended_ms, ?),
             exit_code = coalesce(?, exit_code),
             reason = coalesce(reason, ?)
         WHERE attempt_id = ? RETURNING status",
    )
    .bind(AttemptStatus::from(end.outcome))
    .bind(now_ms())
    .bind(end.exit_code)
    .bind(&end.reason)
    .bind(attempt_id)
    .fetch_one(conn)
    .await?;
    Ok(status)
}

/// What becomes of a job that still runs when its attempt has ended: without a final checkpoint it
/// is not done, whatever the worker says.
pub(crate) fn job_status_after(status: AttemptStatus) -> JobStatus {
    match status {
        AttemptStatus::Interrupted => JobStatus::Interrupted,
        _ => JobStatus::Failed,
    }
}

/// The attempts that trained a job, in the order of time.
pub(crate) async fn of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<AttemptRow>, Trouble> {
    let rows = sqlx::query_as(
        "SELECT attempt.* FROM attempt JOIN attempt_job USING (attempt_id)
         WHERE attempt_job.job_id = ? ORDER BY attempt_id",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AbandonedAttempt;
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::{EventKind, Plan};
    use serde_json::json;

    async fn two_jobs() -> (TestStore, Plan) {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        (test, plan)
    }

    fn end(outcome: Outcome) -> AttemptEnd {
        AttemptEnd {
            outcome,
            exit_code: Some(1),
            reason: Some("as seen from outside".into()),
        }
    }

    #[tokio::test]
    async fn attempts_count_from_one_and_their_jobs_run() {
        let (test, plan) = two_jobs().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let job = &plan.jobs[0].job_id;
        assert_eq!(store.begin_attempt(stream, "log").await.unwrap(), 1);
        assert_eq!(test.status(job).await, "running");
        let error = store.begin_attempt(stream, "log").await.unwrap_err();
        let running = format!("attempt 1 at stream `{stream}` is still running");
        assert_eq!(error.to_string(), running);
        store
            .end_attempt(stream, 1, &end(Outcome::Crashed))
            .await
            .unwrap();
        assert_eq!(test.status(job).await, "failed");
        assert_eq!(store.begin_attempt(stream, "log").await.unwrap(), 2);
        store
            .end_attempt(stream, 2, &end(Outcome::Interrupted))
            .await
            .unwrap();
        assert_eq!(test.status(job).await, "interrupted");
        assert_eq!(store.begin_attempt(stream, "log").await.unwrap(), 3);
        assert_eq!(test.status(job).await, "running");
        let mut script = Script::new();
        script.start(3, 0).push(EventKind::Interrupted { step: 0 });
        store.fold(stream, &script.events).await.unwrap();
        assert_eq!(test.status(job).await, "interrupted", "as its worker says");
        store
            .end_attempt(stream, 3, &end(Outcome::Stopped))
            .await
            .unwrap();
        assert_eq!(test.status(job).await, "stopped", "as the user wanted");
        let statuses = test.rows("SELECT number, status FROM attempt").await;
        assert_eq!(
            json!(statuses),
            json!([[1, "crashed"], [2, "interrupted"], [3, "interrupted"]])
        );
    }

    #[tokio::test]
    async fn unknown_streams_and_attempts_are_told() {
        let (test, plan) = two_jobs().await;
        let error = test.store.begin_attempt("none", "log").await.unwrap_err();
        assert_eq!(error.to_string(), "there is no stream `none`");
        let stream = &plan.streams[0].stream_id;
        let error = test.store.end_attempt(stream, 1, &end(Outcome::Done)).await;
        let unknown = format!("stream `{stream}` has no attempt 1");
        assert_eq!(error.unwrap_err().to_string(), unknown);
    }

    #[tokio::test]
    async fn a_stream_of_done_jobs_needs_no_attempt() {
        let (test, plan) = two_jobs().await;
        let stream = &plan.streams[0].stream_id;
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0);
        for job in &plan.jobs {
            script.checkpoint(&job.job_id, 20, true);
        }
        script.push(EventKind::Finished);
        test.store.fold(stream, &script.events).await.unwrap();
        let ended = AttemptEnd {
            outcome: Outcome::Crashed,
            exit_code: Some(139),
            reason: None,
        };
        test.store.end_attempt(stream, 1, &ended).await.unwrap();
        let attempt = &test.store.job(&plan.jobs[0].job_id).await.unwrap().attempts[0];
        assert_eq!(
            attempt.status,
            AttemptStatus::Done,
            "the worker's word counts"
        );
        assert_eq!(attempt.exit_code, Some(139));
        let error = test.store.begin_attempt(stream, "log").await.unwrap_err();
        let done = format!("all jobs of stream `{stream}` are done");
        assert_eq!(error.to_string(), done);
        assert_eq!(
            test.rows("SELECT count(*) FROM attempt").await,
            [[json!(1)]]
        );
    }

    #[tokio::test]
    async fn attempts_of_a_dead_coordinator_are_closed_and_their_last_words_still_count() {
        let (test, plan) = two_jobs().await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let [done, open] = [&plan.jobs[0].job_id, &plan.jobs[1].job_id];
        store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).metric(open, 10, stats(4.0));
        store.fold(stream, &script.events).await.unwrap();

        let abandoned = store.abandon_dead_attempts(stream).await.unwrap();
        let expected = AbandonedAttempt {
            stream_id: stream.clone(),
            number: 1,
            host: Some("here".into()),
            pid: Some(41),
        };
        assert_eq!(abandoned, [expected]);
        assert_eq!(test.status(open).await, "interrupted");
        assert_eq!(store.abandon_dead_attempts(stream).await.unwrap(), []);

        script.checkpoint(done, 20, true);
        script.push(EventKind::Interrupted { step: 20 });
        assert_eq!(store.fold(stream, &script.events).await.unwrap(), 2);
        assert_eq!(test.status(done).await, "done");
        assert_eq!(test.status(open).await, "interrupted");
        assert_eq!(store.begin_attempt(stream, "log").await.unwrap(), 2);
        assert_eq!(test.status(done).await, "done");
    }
}
