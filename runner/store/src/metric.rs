//! Tables `metric` and `progress`: sums over intervals of training.

use crate::error::Trouble;
use crate::open::int;
use plan::SaeStats;
use sqlx::{QueryBuilder, SqliteConnection};

/// One interval's sums of one SAE.
pub(crate) struct Interval<'a> {
    pub(crate) sae_id: i64,
    pub(crate) attempt_id: i64,
    pub(crate) step: u64,
    pub(crate) n_tokens_so_far: i64,
    pub(crate) stats: &'a SaeStats,
    pub(crate) time_ms: i64,
}

/// Rows in one statement; SQLite takes 32 766 values.
const ROWS_PER_STATEMENT: usize = 500;

/// Records intervals; a step that was done before is replaced.
pub(crate) async fn put(
    conn: &mut SqliteConnection,
    intervals: &[Interval<'_>],
) -> Result<(), Trouble> {
    for rows in intervals.chunks(ROWS_PER_STATEMENT) {
        let mut insert = QueryBuilder::new(
            "INSERT OR REPLACE INTO metric (sae_id, step, attempt_id, n_tokens, n_tokens_so_far,
                 squared_error, total_variance, l0_sum, n_dead, time_ms) ",
        );
        insert.push_values(rows, |mut row, interval| {
            let stats = interval.stats;
            row.push_bind(interval.sae_id)
                .push_bind(int(interval.step))
                .push_bind(interval.attempt_id)
                .push_bind(int(stats.n_tokens))
                .push_bind(interval.n_tokens_so_far)
                .push_bind(finite(stats.squared_error))
                .push_bind(finite(stats.total_variance))
                .push_bind(finite(stats.l0))
                .push_bind(int(stats.n_dead))
                .push_bind(interval.time_ms);
        });
        insert.build().execute(&mut *conn).await?;
    }
    for interval in intervals {
        put_terms(conn, interval).await?;
    }
    Ok(())
}

/// Tokens an SAE was trained on before `step`.
pub(crate) async fn n_tokens_before(
    conn: &mut SqliteConnection,
    sae_id: i64,
    step: u64,
) -> Result<i64, Trouble> {
    let n_tokens: Option<i64> = sqlx::query_scalar(
        "SELECT n_tokens_so_far FROM metric WHERE sae_id = ? AND step < ?
         ORDER BY step DESC LIMIT 1",
    )
    .bind(sae_id)
    .bind(int(step))
    .fetch_optional(conn)
    .await?;
    Ok(n_tokens.unwrap_or(0))
}

/// Records what the loss has besides.
async fn put_terms(conn: &mut SqliteConnection, interval: &Interval<'_>) -> Result<(), Trouble> {
    let stats = interval.stats;
    let has_terms =
        stats.auxk != 0.0 || stats.multi_topk != 0.0 || stats.sparsity != 0.0 || stats.n_output > 0;
    if !has_terms {
        return Ok(());
    }
    sqlx::query(
        "INSERT OR REPLACE INTO metric_term (sae_id, step, auxk_sum, multi_topk_sum,
             output_loss_sum, n_output, sparsity_sum)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(interval.sae_id)
    .bind(int(interval.step))
    .bind(used(stats.auxk))
    .bind(used(stats.multi_topk))
    .bind(finite(stats.output_loss).filter(|_| stats.n_output > 0))
    .bind(int(stats.n_output))
    .bind(used(stats.sparsity))
    .execute(conn)
    .await?;
    Ok(())
}

/// A sum that is 0 is that of a term which is not part of the loss.
fn used(sum: f64) -> Option<f64> {
    finite(sum).filter(|sum| *sum != 0.0)
}

/// SQL has no NaN, and an infinite sum says no more than NULL does.
pub(crate) fn finite(sum: f64) -> Option<f64> {
    sum.is_finite().then_some(sum)
}

/// Deletes what an earlier attempt reported beyond the point this one continues from: its intervals may end at other
/// steps, and a step must not count twice.
///
/// That point is `first_step`, or the job's last checkpoint if the job is ahead of its stream.
pub(crate) async fn delete_undone(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    first_step: u64,
) -> Result<(), Trouble> {
    sqlx::query(
        "DELETE FROM metric
         WHERE sae_id IN (
             SELECT sae.sae_id FROM sae JOIN attempt_job USING (job_id)
             WHERE attempt_job.attempt_id = ?1 AND ?1 = (
                 SELECT max(link.attempt_id) FROM attempt_job AS link
                 WHERE link.job_id = sae.job_id
             )
         )
         AND step > max(?2, coalesce((
             SELECT max(checkpoint.step) FROM checkpoint JOIN sae USING (job_id)
             WHERE sae.sae_id = metric.sae_id
         ), 0))",
    )
    .bind(attempt_id)
    .bind(int(first_step))
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds to the speed of an attempt.
pub(crate) async fn add_progress(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    step: u64,
    n_tokens: u64,
    elapsed_ms: u64,
) -> Result<(), Trouble> {
    sqlx::query(
        "INSERT INTO progress (attempt_id, step, n_tokens, elapsed_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (attempt_id, step) DO UPDATE SET
             n_tokens = progress.n_tokens + excluded.n_tokens,
             elapsed_ms = progress.elapsed_ms + excluded.elapsed_ms",
    )
    .bind(attempt_id)
    .bind(int(step))
    .bind(int(n_tokens))
    .bind(int(elapsed_ms))
    .execute(conn)
    .await?;
    Ok(())
}
