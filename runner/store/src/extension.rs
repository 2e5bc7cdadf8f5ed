//! Table `extension`: jobs that continue from the state of a shorter training.

use crate::error::{StoreError, Trouble};
use crate::open::{Store, int};
use sqlx::{FromRow, SqliteConnection};

/// Where a job continued from.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Extension {
    /// The job whose state it was.
    pub base_job_id: String,
    /// Optimizer updates that they have in common.
    pub step: u64,
}

impl Store {
    /// The other jobs that begin like this one, and their folders.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn alike(&self, job_id: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.located(async {
            let mut conn = self.acquire().await?;
            let others = sqlx::query_as(
                "SELECT other.job_id, other.dir FROM job JOIN job AS other USING (course_id)
                 WHERE job.job_id = ? AND other.job_id <> job.job_id ORDER BY other.job_id",
            );
            Ok(others.bind(job_id).fetch_all(&mut *conn).await?)
        })
        .await
    }
}

/// Records that a job continues from `base_job_id`, and copies what was reported of that until there.
pub(crate) async fn put(
    conn: &mut SqliteConnection,
    attempt_id: i64,
    (job_id, base_job_id): (&str, &str),
    step: u64,
) -> Result<(), Trouble> {
    let record = "INSERT OR REPLACE INTO extension (job_id, base_job_id, step) VALUES (?, ?, ?)";
    let record = sqlx::query(record).bind(job_id).bind(base_job_id);
    record.bind(int(step)).execute(&mut *conn).await?;
    let copy = |sql| {
        sqlx::query(sql)
            .bind(job_id)
            .bind(base_job_id)
            .bind(int(step))
    };
    copy(COPY_METRICS)
        .bind(attempt_id)
        .execute(&mut *conn)
        .await?;
    copy(COPY_TERMS).execute(conn).await?;
    Ok(())
}

const COPY_METRICS: &str = "
INSERT OR REPLACE INTO metric (sae_id, step, attempt_id, n_tokens, n_tokens_so_far,
    squared_error, total_variance, l0_sum, n_dead, time_ms)
SELECT own.sae_id, metric.step, ?4, metric.n_tokens, metric.n_tokens_so_far,
    metric.squared_error, metric.total_variance, metric.l0_sum, metric.n_dead, metric.time_ms
FROM sae AS own JOIN sae AS base USING (name) JOIN metric ON metric.sae_id = base.sae_id
WHERE own.job_id = ?1 AND base.job_id = ?2 AND metric.step <= ?3";

const COPY_TERMS: &str = "
INSERT OR REPLACE INTO metric_term (sae_id, step, auxk_sum, multi_topk_sum, output_loss_sum, n_output, sparsity_sum)
SELECT own.sae_id, term.step, term.auxk_sum, term.multi_topk_sum, term.output_loss_sum, term.n_output,
    term.sparsity_sum
FROM sae AS own JOIN sae AS base USING (name) JOIN metric_term AS term ON term.sae_id = base.sae_id
WHERE own.job_id = ?1 AND base.job_id = ?2 AND term.step <= ?3";

/// Where a job continued from; `None`: it was trained from the start.
pub(crate) async fn of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Option<Extension>, Trouble> {
    let row = sqlx::query_as("SELECT base_job_id, step FROM extension WHERE job_id = ?");
    Ok(row.bind(job_id).fetch_optional(conn).await?)
}
