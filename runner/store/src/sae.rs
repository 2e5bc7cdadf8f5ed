//! Table `sae`: the autoencoders of each job.

use crate::error::Trouble;
use crate::k::StoredK;
use crate::open::int;
use plan::{Job, K};
use sqlx::{FromRow, SqliteConnection};

/// One SAE of a job and how far it has come; see the view `sae_result` for the exact meanings.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct SaeRow {
    /// Folder below the job's: the hookpoint, and the seed if the job has several.
    pub name: String,
    /// Submodule of the model.
    pub hookpoint: String,
    /// Seed of the initial weights.
    pub seed: i64,
    /// Width of the activations.
    pub d_in: u64,
    /// Number of latents.
    pub num_latents: u64,
    /// Latents a token may use.
    #[sqlx(try_from = "StoredK")]
    pub k: K,
    /// Learning rate.
    pub lr: f64,
    /// Optimizer updates done; `None` before the first metrics, and then so are the rest.
    pub step: Option<u64>,
    /// Tokens trained on.
    pub n_tokens: Option<u64>,
    /// Fraction of variance unexplained over the last tenth of the steps; `None` if it diverged.
    pub fvu: Option<f64>,
    /// Mean number of active latents a token, over the same steps.
    pub l0: Option<f64>,
    /// Dead latents, in percent.
    pub dead_pct: Option<f64>,
    /// Tokens a second through the language model.
    pub tokens_per_s: Option<f64>,
    /// Folder of the newest checkpoint, relative to the runs folder.
    pub checkpoint: Option<String>,
}

/// Records the SAEs of a job, if they are new.
pub(crate) async fn record(conn: &mut SqliteConnection, job: &Job) -> Result<(), Trouble> {
    for sae in &job.saes {
        sqlx::query(
            "INSERT INTO sae (job_id, name, hookpoint, seed, d_in, num_latents, k, lr)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id, name) DO NOTHING",
        )
        .bind(&job.job_id)
        .bind(&sae.name)
        .bind(&sae.hookpoint)
        .bind(sae.seed)
        .bind(int(sae.d_in))
        .bind(int(sae.num_latents))
        .bind(StoredK::from(sae.k))
        .bind(sae.lr)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// The SAEs of a job, in the order of its plan.
pub(crate) async fn of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<SaeRow>, Trouble> {
    let rows = sqlx::query_as(
        "SELECT sae.*, sae_result.* FROM sae LEFT JOIN sae_result USING (sae_id)
         WHERE sae.job_id = ? ORDER BY sae.sae_id",
    );
    Ok(rows.bind(job_id).fetch_all(conn).await?)
}

/// The SAE of this name, if the stream trains it.
pub(crate) async fn find(
    conn: &mut SqliteConnection,
    stream_id: &str,
    job_id: &str,
    name: &str,
) -> Result<Option<i64>, Trouble> {
    let sae_id = sqlx::query_scalar(
        "SELECT sae.sae_id FROM sae JOIN stream_job USING (job_id)
         WHERE stream_job.stream_id = ? AND sae.job_id = ? AND sae.name = ?",
    )
    .bind(stream_id)
    .bind(job_id)
    .bind(name)
    .fetch_optional(conn)
    .await?;
    Ok(sae_id)
}
