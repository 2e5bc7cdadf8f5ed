//! Table `job`: the status of each job.

use crate::error::{StoreError, Trouble};
use crate::open::Store;
use plan::{Job, TRAINER_VERSION};
use sqlx::SqliteConnection;
use std::fmt;

/// The status of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(rename_all = "lowercase")]
pub enum JobStatus {
    /// Waits for a worker.
    Queued,
    /// A worker trains it.
    Running,
    /// Its final checkpoint is on disk.
    Done,
    /// Its last attempt ended in an error.
    Failed,
    /// Its last attempt was cut off: killed, preempted, a machine that went down.
    Interrupted,
    /// The user stopped its last attempt.
    Stopped,
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Stopped => "stopped",
        })
    }
}

/// A job that was begun with updates of another size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunOtherwise {
    /// Its name.
    pub job: String,
    /// Tokens of an update that it was begun with.
    pub tokens_before: u64,
    /// Those of the job of the same name and settings that is asked for now.
    pub tokens_now: u64,
}

impl Store {
    /// The first job of a sweep's current version that was not begun, while one was that only differs in the tokens of
    /// an update.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn begun_otherwise(&self, sweep: &str) -> Result<Option<BegunOtherwise>, StoreError> {
        self.located(async {
            let mut conn = self.acquire().await?;
            let found: Option<(String, i64, i64)> = sqlx::query_as(BEGUN_OTHERWISE)
                .bind(sweep)
                .fetch_optional(&mut *conn)
                .await?;
            Ok(found.map(|(job, before, now)| BegunOtherwise {
                job,
                tokens_before: before.cast_unsigned(),
                tokens_now: now.cast_unsigned(),
            }))
        })
        .await
    }

    /// The status of a job; `None`: there is no such job.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn job_status(&self, job_id: &str) -> Result<Option<JobStatus>, StoreError> {
        self.located(async {
            let mut conn = self.acquire().await?;
            let status = sqlx::query_scalar("SELECT status FROM job WHERE job_id = ?");
            Ok(status.bind(job_id).fetch_optional(&mut *conn).await?)
        })
        .await
    }

    /// Forgets the metrics, calibrations, evaluations and checkpoints of these jobs and queues them again (`--fresh`).
    ///
    /// What they saved for a resume, and the streams' `events.jsonl`, are the caller's to delete; event numbers still
    /// continue. What attempts so far still report of these jobs is ignored.
    ///
    /// # Errors
    /// The database cannot be written; then nothing was reset.
    pub async fn reset_jobs(&self, job_ids: &[impl AsRef<str>]) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            for job_id in job_ids {
                reset(&mut tx, job_id.as_ref()).await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }
}

/// What a reset deletes. The links to attempts go too, so that late events count for no job.
const RESET: [&str; 8] = [
    "DELETE FROM verdict WHERE sae_id IN (SELECT sae_id FROM sae WHERE job_id = ?)",
    "DELETE FROM metric WHERE sae_id IN (SELECT sae_id FROM sae WHERE job_id = ?)",
    "DELETE FROM calibration WHERE sae_id IN (SELECT sae_id FROM sae WHERE job_id = ?)",
    "DELETE FROM evaluation WHERE sae_id IN (SELECT sae_id FROM sae WHERE job_id = ?)",
    "DELETE FROM checkpoint WHERE job_id = ?",
    "DELETE FROM extension WHERE job_id = ?",
    "DELETE FROM attempt_job WHERE job_id = ?",
    "UPDATE job SET status = 'queued', done_ms = NULL WHERE job_id = ?",
];

pub(crate) async fn reset(conn: &mut SqliteConnection, job_id: &str) -> Result<(), Trouble> {
    for sql in RESET {
        sqlx::query(sql).bind(job_id).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Records a job, if it is new.
pub(crate) async fn record(
    conn: &mut SqliteConnection,
    job: &Job,
    dir: &str,
    now_ms: i64,
) -> Result<(), Trouble> {
    let config = serde_json::Value::Object(job.config.to_map()).to_string();
    sqlx::query(
        "INSERT INTO job (job_id, dir, model, model_digest, second_model_digest, dataset, token_digest,
             trainer_version, config, course_id, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO NOTHING",
    )
    .bind(&job.job_id)
    .bind(dir)
    .bind(&job.config.model)
    .bind(&job.model_digest)
    .bind(&job.second_model_digest)
    .bind(&job.config.dataset)
    .bind(&job.token_digest)
    .bind(TRAINER_VERSION)
    .bind(config)
    .bind(&job.course_id)
    .bind(now_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// By the sweep: name of the job, and tokens of an update before and now.
const BEGUN_OTHERWISE: &str = "
WITH listed AS MATERIALIZED (
    SELECT
        sweep_listing.job, is_current, ordinal, status, created_ms, model_digest, token_digest,
        json_extract(config, '$.tokens_per_update') AS tokens,
        json_remove(config, '$.tokens_per_update') AS other_settings
    FROM sweep_listing JOIN job USING (job_id)
    WHERE sweep = ?
)
SELECT asked.job, begun.tokens, asked.tokens
FROM listed AS asked JOIN listed AS begun USING (job, model_digest, token_digest, other_settings)
WHERE asked.is_current AND asked.status = 'queued' AND begun.status <> 'queued' AND begun.tokens <> asked.tokens
ORDER BY asked.ordinal, begun.created_ms DESC LIMIT 1";

/// The folder and the status of a job that is recorded.
pub(crate) async fn dir_and_status(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<(String, JobStatus), Trouble> {
    let row = sqlx::query_as("SELECT dir, status FROM job WHERE job_id = ?");
    Ok(row.bind(job_id).fetch_one(conn).await?)
}

/// Marks a job as done, whatever its status was: its last event may arrive late.
pub(crate) async fn mark_done(
    conn: &mut SqliteConnection,
    job_id: &str,
    time_ms: i64,
) -> Result<(), Trouble> {
    sqlx::query(
        "UPDATE job SET status = 'running'
         WHERE job_id = ? AND status IN ('queued', 'failed', 'interrupted', 'stopped')",
    )
    .bind(job_id)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "UPDATE job SET status = 'done', done_ms = ? WHERE job_id = ? AND status = 'running'",
    )
    .bind(time_ms)
    .bind(job_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// A job that its worker trains no further.
pub(crate) async fn mark_failed(conn: &mut SqliteConnection, job_id: &str) -> Result<(), Trouble> {
    sqlx::query("UPDATE job SET status = 'failed' WHERE job_id = ? AND status = 'running'")
        .bind(job_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives the running jobs of an attempt another status; not those that a later attempt has. That a worker was cut off is what it says itself; that the
/// user asked for it says more.
pub(crate) async fn leave_running(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    status: JobStatus,
) -> Result<(), Trouble> {
    sqlx::query(
        "UPDATE job SET status = ?1
         WHERE (status = 'running' OR (status = 'interrupted' AND ?1 = 'stopped'))
             AND job_id IN (SELECT job_id FROM attempt_job WHERE attempt_id = ?2)
             AND ?2 = (SELECT max(attempt_id) FROM attempt_job WHERE attempt_job.job_id = job.job_id)",
    )
    .bind(status)
    .bind(attempt_id)
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::StoreError;
    use crate::testing::{Script, TestStore, plan, stats};
    use serde_json::json;

    async fn set(test: &TestStore, status: &str) -> Result<u64, StoreError> {
        let done_ms = if status == "done" { "1" } else { "NULL" };
        let sql = format!("UPDATE job SET status = '{status}', done_ms = {done_ms}");
        test.execute(&sql).await
    }

    #[tokio::test]
    async fn only_the_allowed_changes_of_status_happen() {
        let allowed = [
            ("queued", vec!["running"]),
            ("running", vec!["done", "failed", "interrupted", "stopped"]),
            ("failed", vec!["queued", "running"]),
            ("interrupted", vec!["queued", "running", "stopped"]),
            ("stopped", vec!["queued", "running"]),
        ];
        for (from, to) in &allowed {
            for status in allowed.each_ref().map(|(status, _)| *status) {
                let test = TestStore::new().await;
                test.record(&plan("s", &[json!({"k": 4})])).await;
                if *from != "queued" {
                    set(&test, "running").await.unwrap();
                    set(&test, from).await.unwrap();
                }
                let changed = set(&test, status).await;
                if status == *from || to.contains(&status) {
                    assert_eq!(changed.unwrap(), 1, "{from} -> {status}");
                } else {
                    let error = changed.unwrap_err();
                    assert!(
                        matches!(&error, StoreError::Constraint { rule, .. }
                            if rule.contains("job_status_transition")),
                        "{from} -> {status}: {error:?}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn a_done_job_is_reset_with_all_it_left_or_not_at_all() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script
            .start(1, 0)
            .metric(job, 20, stats(4.0))
            .checkpoint(job, 20, true);
        script.metric(&plan.jobs[1].job_id, 20, stats(4.0));
        test.store.fold(stream, &script.events).await.unwrap();
        for status in ["queued", "running", "failed", "interrupted", "stopped"] {
            let sql = format!(
                "UPDATE job SET status = '{status}', done_ms = NULL WHERE job_id = '{job}'"
            );
            assert!(test.execute(&sql).await.is_err(), "done -> {status}");
        }

        test.store.reset_jobs(&[job]).await.unwrap();
        assert_eq!(test.status(job).await, "queued");
        assert_eq!(
            test.rows("SELECT count(*) FROM checkpoint").await,
            [[json!(0)]]
        );
        let left = test.rows("SELECT job_id FROM result").await;
        assert_eq!(
            json!(left),
            json!([[plan.jobs[1].job_id]]),
            "the other job stays"
        );

        script.metric(job, 21, stats(4.0)).checkpoint(job, 21, true);
        test.store.fold(stream, &script.events).await.unwrap();
        assert_eq!(
            test.status(job).await,
            "queued",
            "a late word does not bring it back"
        );
        assert_eq!(test.rows("SELECT count(*) FROM metric").await, [[json!(1)]]);
    }

    #[tokio::test]
    async fn a_job_cannot_begin_as_done() {
        let test = TestStore::new().await;
        let sql =
            "INSERT INTO job (job_id, dir, status, model, model_digest, dataset, token_digest,
                       trainer_version, config, created_ms, done_ms)
                   VALUES ('j', 'd', 'done', 'm', 'm', 'd', 't', 1, '{}', 1, 1)";
        assert!(matches!(
            test.execute(sql).await.unwrap_err(),
            StoreError::Constraint { .. }
        ));
    }
}
