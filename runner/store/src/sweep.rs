//! Tables `sweep` and `sweep_job`: which jobs each version of a sweep file asks for.

use crate::error::{StoreError, Trouble, unknown_name};
use crate::open::{Store, int, now_ms};
use plan::{Job, Plan, digest_json, nearest};
use sqlx::{FromRow, SqliteConnection};

/// A sweep at a glance. Jobs are counted once each, over the current version of the sweep.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct SweepSummary {
    /// Name of the sweep.
    pub sweep: String,
    /// Name or path of its recipe.
    pub recipe: String,
    /// Jobs it asks for.
    pub n_jobs: u64,
    /// Jobs that are done.
    pub n_done: u64,
    /// Jobs that failed.
    pub n_failed: u64,
    /// Jobs that are being trained.
    pub n_running: u64,
    /// Jobs that the user stopped.
    pub n_stopped: u64,
    /// Jobs that were cut off.
    pub n_interrupted: u64,
    /// Jobs that wait for a worker.
    pub n_queued: u64,
    /// Time that its workers took, in ms; those that run count until now.
    pub worker_ms: u64,
    /// Its tags, with spaces between.
    pub tags: Option<String>,
    /// The newest note on it.
    pub note: Option<String>,
    /// When a version of it was first run, ms since the epoch, UTC.
    pub created_ms: i64,
    /// When something last happened in it, ms since the epoch, UTC.
    pub last_activity_ms: i64,
}

impl Store {
    /// All sweeps, the most recently active first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn sweeps(&self) -> Result<Vec<SweepSummary>, StoreError> {
        let mut conn = self.acquire().await?;
        let summaries = sqlx::query_as(SUMMARIES).bind(now_ms());
        self.located(async { Ok(summaries.fetch_all(&mut *conn).await?) })
            .await
    }
}

/// A job as the current version of a sweep asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedJob {
    /// Name of the job in the sweep.
    pub name: String,
    /// The job.
    pub job_id: String,
    /// Round of the recipe that asked for it.
    pub round: u32,
    /// Its resolved settings, a JSON object.
    pub config: serde_json::Value,
}

impl Store {
    /// The jobs of the current version of a sweep, in the order of its plan; none for a sweep that was
    /// never run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn planned_jobs(&self, sweep: &str) -> Result<Vec<PlannedJob>, StoreError> {
        let mut conn = self.acquire().await?;
        let rows = self.located(async {
            let rows: Vec<(String, String, i64, String)> = sqlx::query_as(PLANNED_JOBS)
                .bind(sweep)
                .fetch_all(&mut *conn)
                .await?;
            Ok(rows)
        });
        let planned = |(name, job_id, round, config): (String, String, i64, String)| PlannedJob {
            name,
            job_id,
            round: u32::try_from(round).unwrap_or(0),
            config: serde_json::from_str(&config).unwrap_or_default(),
        };
        Ok(rows.await?.into_iter().map(planned).collect())
    }
}

const PLANNED_JOBS: &str = "
SELECT
    sweep_job.name,
    job_id,
    (
        SELECT coalesce(max(round.number), 0) FROM round
        WHERE round.sweep_id = sweep_job.sweep_id AND round.first_ordinal <= sweep_job.ordinal
    ) AS round,
    job.config
FROM sweep_job
JOIN current_sweep USING (sweep_id)
JOIN job USING (job_id)
WHERE current_sweep.name = ?1
ORDER BY current_sweep.revision, sweep_job.ordinal";

const SUMMARIES: &str = "
SELECT
    sweep.name AS sweep,
    sweep.recipe,
    count(DISTINCT job.job_id) AS n_jobs,
    count(DISTINCT CASE WHEN job.status = 'done' THEN job.job_id END) AS n_done,
    count(DISTINCT CASE WHEN job.status = 'failed' THEN job.job_id END) AS n_failed,
    count(DISTINCT CASE WHEN job.status = 'running' THEN job.job_id END) AS n_running,
    count(DISTINCT CASE WHEN job.status = 'stopped' THEN job.job_id END) AS n_stopped,
    count(DISTINCT CASE WHEN job.status = 'interrupted' THEN job.job_id END) AS n_interrupted,
    count(DISTINCT CASE WHEN job.status = 'queued' THEN job.job_id END) AS n_queued,
    (
        SELECT coalesce(sum(coalesce(attempt.ended_ms, ?1) - attempt.started_ms), 0) FROM attempt
        WHERE attempt.attempt_id IN (
            SELECT attempt_job.attempt_id FROM attempt_job JOIN sweep_job AS own USING (job_id)
            JOIN current_sweep AS version ON version.sweep_id = own.sweep_id WHERE version.name = sweep.name
        )
    ) AS worker_ms,
    (SELECT group_concat(tag.tag, ' ' ORDER BY tag.tag) FROM tag WHERE tag.sweep = sweep.name) AS tags,
    (SELECT note.text FROM note WHERE note.sweep = sweep.name ORDER BY note.note_id DESC LIMIT 1) AS note,
    (SELECT min(first.created_ms) FROM sweep AS first WHERE first.name = sweep.name) AS created_ms,
    max(
        max(sweep.created_ms),
        coalesce(max(job.done_ms), 0),
        -- A stream may be at work for another sweep: only attempts at the jobs themselves count.
        coalesce(max(coalesce(attempt.ended_ms, stream.last_event_ms, attempt.started_ms)), 0)
    ) AS last_activity_ms
FROM sweep
JOIN sweep_job USING (sweep_id)
JOIN job USING (job_id)
LEFT JOIN attempt_job USING (job_id)
LEFT JOIN attempt USING (attempt_id)
LEFT JOIN stream USING (stream_id)
WHERE sweep.sweep_id IN (SELECT current_sweep.sweep_id FROM current_sweep)
GROUP BY sweep.name
ORDER BY last_activity_ms DESC, sweep.name";

/// The names of all sweeps.
pub(crate) async fn names(conn: &mut SqliteConnection) -> Result<Vec<String>, Trouble> {
    let names = sqlx::query_scalar("SELECT DISTINCT name FROM sweep ORDER BY name");
    Ok(names.fetch_all(conn).await?)
}

/// Checks that there is a sweep of this name.
///
/// # Errors
/// A sweep that was never run.
pub(crate) async fn check_name(conn: &mut SqliteConnection, sweep: &str) -> Result<(), Trouble> {
    let names = names(conn).await?;
    if names.iter().any(|name| name == sweep) {
        return Ok(());
    }
    let nearest = nearest(sweep, names.iter().map(String::as_str), 3);
    Err(unknown_name(format!("no sweep is called `{sweep}`"), &nearest).into())
}

/// Records this version of the sweep, makes it the current one, and gives its key.
pub(crate) async fn record(
    conn: &mut SqliteConnection,
    text: &str,
    plan: &Plan,
    now_ms: i64,
) -> Result<i64, Trouble> {
    let newest = "SELECT coalesce(max(revision), 0) FROM sweep WHERE name = ?";
    let newest: i64 = sqlx::query_scalar(newest)
        .bind(&plan.sweep)
        .fetch_one(&mut *conn)
        .await?;
    let Some(SweepVersion { sweep_id, revision }) = find(conn, text, plan).await? else {
        return insert(conn, text, plan, newest + 1, now_ms).await;
    };
    if revision < newest {
        // The user went back to an earlier text.
        sqlx::query("UPDATE sweep SET revision = ? WHERE sweep_id = ?")
            .bind(newest + 1)
            .bind(sweep_id)
            .execute(conn)
            .await?;
    }
    Ok(sweep_id)
}

/// A version of a sweep in the database.
#[derive(FromRow)]
pub(crate) struct SweepVersion {
    pub(crate) sweep_id: i64,
    revision: i64,
}

/// The version of a sweep that has this text and these first jobs.
pub(crate) async fn find(
    conn: &mut SqliteConnection,
    text: &str,
    plan: &Plan,
) -> Result<Option<SweepVersion>, Trouble> {
    let row = sqlx::query_as(
        "SELECT sweep_id, revision FROM sweep
         WHERE name = ? AND text_digest = ? AND recipe_digest = ? AND request_digest = ?
             AND jobs_digest = ?",
    )
    .bind(&plan.sweep)
    .bind(digest_json(&text))
    .bind(&plan.recipe.recipe_digest)
    .bind(&plan.recipe.request_digest)
    .bind(jobs_digest(plan))
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

fn jobs_digest(plan: &Plan) -> String {
    // Those of later rounds depend on results: they do not make it another version.
    let jobs: Vec<_> = plan
        .first_jobs()
        .iter()
        .map(|job| (&job.job_id, &job.name))
        .collect();
    digest_json(&jobs)
}

async fn insert(
    conn: &mut SqliteConnection,
    text: &str,
    plan: &Plan,
    revision: i64,
    now_ms: i64,
) -> Result<i64, Trouble> {
    let sweep_id = sqlx::query_scalar(
        "INSERT INTO sweep (name, revision, text, text_digest, recipe, recipe_digest,
             request_digest, jobs_digest, fuel, accumulates, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING sweep_id",
    )
    .bind(&plan.sweep)
    .bind(revision)
    .bind(text)
    .bind(digest_json(&text))
    .bind(&plan.recipe.recipe)
    .bind(&plan.recipe.recipe_digest)
    .bind(&plan.recipe.request_digest)
    .bind(jobs_digest(plan))
    .bind(int(plan.recipe.fuel))
    .bind(plan.accumulates())
    .bind(now_ms)
    .fetch_one(conn)
    .await?;
    Ok(sweep_id)
}

/// Links a sweep to its `ordinal`-th job.
pub(crate) async fn link(
    conn: &mut SqliteConnection,
    sweep_id: i64,
    ordinal: usize,
    job: &Job,
) -> Result<(), Trouble> {
    let overrides = serde_json::Value::Object(job.overrides.clone()).to_string();
    sqlx::query(
        "INSERT INTO sweep_job (sweep_id, ordinal, job_id, name, note, overrides)
         VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (sweep_id, ordinal) DO NOTHING",
    )
    .bind(sweep_id)
    .bind(int(ordinal))
    .bind(&job.job_id)
    .bind(&job.name)
    .bind(&job.note)
    .bind(overrides)
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan};
    use serde_json::json;

    #[tokio::test]
    async fn sweeps_are_counted_and_the_most_recent_comes_first() {
        let test = TestStore::new().await;
        let old = plan(
            "old",
            &[
                json!({"k": 4}),
                json!({"k": 2}),
                json!({"k": 1, "batch_size": 1}),
            ],
        );
        test.record(&old).await;
        test.record(&plan("new", &[json!({"k": 4})])).await;
        let (stream, job) = (&old.streams[0].stream_id, &old.jobs[0].job_id);
        test.store.begin_attempt(stream, "log").await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).checkpoint(job, 20, true);
        for event in &mut script.events {
            event.time_ms += 4_000_000_000_000;
        }
        test.store.fold(stream, &script.events).await.unwrap();
        let sweeps = test.store.sweeps().await.unwrap();
        let counts: Vec<_> = sweeps
            .iter()
            .map(|s| {
                (
                    s.sweep.as_str(),
                    s.n_jobs,
                    s.n_done,
                    s.n_running,
                    s.n_failed,
                )
            })
            .collect();
        assert_eq!(counts, [("new", 1, 1, 0, 0), ("old", 3, 1, 1, 0)]);
        assert_eq!(sweeps[1].last_activity_ms, 4_000_000_001_003);
        assert!(sweeps[1].created_ms < sweeps[1].last_activity_ms);
    }
}
