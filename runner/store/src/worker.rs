//! What a worker reports of its attempt, and for which jobs that counts.

use crate::attempt::{AttemptStatus, find, job_status_after, take_jobs};
use crate::error::Trouble;
use crate::job;
use crate::open::int;
use fault::FailureKind;
use plan::Event;
use sqlx::SqliteConnection;

/// The attempt that wrote `event`. One that the database does not know is adopted with the stream's
/// jobs: so the events alone restore a database that was lost.
pub(crate) async fn of_event(
    conn: &mut SqliteConnection,
    stream_id: &str,
    event: &Event,
) -> Result<i64, Trouble> {
    if let Some(attempt_id) = find(conn, stream_id, event.attempt).await? {
        return Ok(attempt_id);
    }
    let attempt_id = sqlx::query_scalar(
        "INSERT INTO attempt (stream_id, number, status, started_ms, ended_ms)
         VALUES (?, ?, 'crashed', ?, ?) RETURNING attempt_id",
    )
    .bind(stream_id)
    .bind(event.attempt)
    .bind(event.time_ms)
    .bind(event.time_ms)
    .fetch_one(&mut *conn)
    .await?;
    take_jobs(conn, attempt_id, (stream_id, None)).await?;
    Ok(attempt_id)
}

/// Whether the attempt is the last one that trains the job, so that its events count.
pub(crate) async fn speaks_for(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    job_id: &str,
) -> Result<bool, Trouble> {
    let last: Option<i64> =
        sqlx::query_scalar("SELECT max(attempt_id) FROM attempt_job WHERE job_id = ?")
            .bind(job_id)
            .fetch_one(conn)
            .await?;
    Ok(last == Some(attempt_id))
}

/// Who the worker of an attempt is, as it reports.
pub(crate) struct Worker<'a> {
    pub(crate) host: &'a str,
    pub(crate) pid: u32,
    pub(crate) device: &'a str,
    pub(crate) libtorch: &'a str,
}

/// Notes who the worker of an attempt is.
pub(crate) async fn set_worker(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    worker: Worker<'_>,
) -> Result<(), Trouble> {
    sqlx::query(
        "UPDATE attempt SET host = ?, pid = ?, device = ?, libtorch = ? WHERE attempt_id = ?",
    )
    .bind(worker.host)
    .bind(worker.pid)
    .bind(worker.device)
    .bind(worker.libtorch)
    .bind(attempt_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes the step that an attempt continues from.
pub(crate) async fn set_first_step(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    first_step: u64,
) -> Result<(), Trouble> {
    sqlx::query("UPDATE attempt SET first_step = ? WHERE attempt_id = ?")
        .bind(int(first_step))
        .bind(attempt_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// What a worker said last.
#[derive(Default)]
pub(crate) struct LastReport<'a> {
    pub(crate) failure: Option<FailureKind>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) hint: Option<&'a str>,
}

/// Closes an attempt as its worker said; that counts more than a `crashed` guessed from outside.
pub(crate) async fn close_by_event(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    status: AttemptStatus,
    last: LastReport<'_>,
    time_ms: i64,
) -> Result<(), Trouble> {
    let failure = last.failure.map(|kind| match kind {
        FailureKind::Input => "input",
        FailureKind::Internal => "internal",
    });
    sqlx::query(
        "UPDATE attempt SET status = ?, ended_ms = ?, failure = ?, reason = ?, hint = ?
         WHERE attempt_id = ? AND status IN ('running', 'crashed')",
    )
    .bind(status)
    .bind(time_ms)
    .bind(failure)
    .bind(last.reason)
    .bind(last.hint)
    .bind(attempt_id)
    .execute(&mut *conn)
    .await?;
    job::leave_running(conn, attempt_id, job_status_after(status)).await
}
