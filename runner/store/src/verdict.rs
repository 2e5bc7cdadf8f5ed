//! Tables `verdict` and `attempt_note`: what workers found and remarked.

use crate::error::Trouble;
use crate::open::int;
use plan::Event;
use sqlx::SqliteConnection;

/// What is wrong with an SAE in training.
pub(crate) struct Verdict<'a> {
    pub(crate) sae_id: i64,
    pub(crate) attempt_id: i64,
    pub(crate) step: u64,
    pub(crate) reason: &'a str,
    pub(crate) is_fatal: bool,
    pub(crate) hint: Option<&'a str>,
    pub(crate) time_ms: i64,
}

/// Records a verdict.
pub(crate) async fn add(conn: &mut SqliteConnection, verdict: &Verdict<'_>) -> Result<(), Trouble> {
    sqlx::query(
        "INSERT INTO verdict (sae_id, attempt_id, step, reason, is_fatal, hint, time_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(verdict.sae_id)
    .bind(verdict.attempt_id)
    .bind(int(verdict.step))
    .bind(verdict.reason)
    .bind(verdict.is_fatal)
    .bind(verdict.hint)
    .bind(verdict.time_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// Records a remark of an attempt.
pub(crate) async fn add_note(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    event: &Event,
    message: &str,
) -> Result<(), Trouble> {
    sqlx::query(
        "INSERT OR REPLACE INTO attempt_note (attempt_id, event_seq, message, time_ms)
         VALUES (?, ?, ?, ?)",
    )
    .bind(attempt_id)
    .bind(int(event.seq))
    .bind(message)
    .bind(event.time_ms)
    .execute(conn)
    .await?;
    Ok(())
}
