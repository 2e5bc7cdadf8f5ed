//! Table `checkpoint`: what is complete on disk.

use crate::error::Trouble;
use crate::open::int;
use sqlx::{FromRow, SqliteConnection};

/// A checkpoint that was complete on disk; only the newest of a job is still there.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct CheckpointRow {
    /// Optimizer updates done.
    pub step: u64,
    /// The job's folder, relative to the runs folder.
    pub path: String,
    /// True when training of the job is over.
    pub is_final: bool,
    /// When it was complete, ms since the epoch, UTC.
    pub created_ms: i64,
}

/// Records a checkpoint; one of the same step is replaced.
pub(crate) async fn put(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    job_id: &str,
    row: &CheckpointRow,
) -> Result<(), Trouble> {
    sqlx::query(
        "INSERT OR REPLACE INTO checkpoint (job_id, step, attempt_id, path, is_final, created_ms)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(job_id)
    .bind(int(row.step))
    .bind(attempt_id)
    .bind(&row.path)
    .bind(row.is_final)
    .bind(row.created_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// The checkpoints of a job, in the order of training.
pub(crate) async fn of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<CheckpointRow>, Trouble> {
    let rows = sqlx::query_as("SELECT * FROM checkpoint WHERE job_id = ? ORDER BY step");
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

/// Whether the job's checkpoint after `step` updates is there, and is not of an attempt after this
/// one: only then does what the attempt has calibrated or evaluated belong to it.
pub(crate) async fn is_of(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    job_id: &str,
    step: u64,
) -> Result<bool, Trouble> {
    let sql = "SELECT count(*) FROM checkpoint WHERE job_id = ? AND step = ? AND attempt_id <= ?";
    let n: i64 = sqlx::query_scalar(sql)
        .bind(job_id)
        .bind(int(step))
        .bind(attempt_id)
        .fetch_one(conn)
        .await?;
    Ok(n > 0)
}
