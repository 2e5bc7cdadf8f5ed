//! All that is known of one sweep.

use crate::annotation::{self, Subject, UserNote};
use crate::error::{StoreError, Trouble};
use crate::failure::JobFailure;
use crate::job::JobStatus;
use crate::open::Store;
use crate::{failure, sweep};
use sqlx::{FromRow, SqliteConnection};

/// All that is known of one sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepDetails {
    /// Its name.
    pub sweep: String,
    /// Its versions, the current one last.
    pub versions: Vec<SweepVersionRow>,
    /// The jobs of the current version, in its order.
    pub jobs: Vec<SweepJobRow>,
    /// The notes on it.
    pub notes: Vec<UserNote>,
    /// Its tags.
    pub tags: Vec<String>,
}

/// A version of a sweep.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct SweepVersionRow {
    /// Counts the versions from 1.
    pub revision: u32,
    /// Name or path of the recipe.
    pub recipe: String,
    /// The file as the user wrote it.
    pub text: String,
    /// What its recipe was asked first: its settings with all overrides of the file; JSON object.
    pub request: String,
    /// Whether `sae-run train` made it: its job is added to those of the versions before it.
    pub accumulates: bool,
    /// Jobs that it asks for.
    pub n_jobs: u64,
    /// When it was first run, ms since the epoch, UTC.
    pub created_ms: i64,
}

/// A job of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepJobRow {
    /// Its name in the sweep.
    pub job: String,
    /// The job.
    pub job_id: String,
    /// Its status.
    pub status: JobStatus,
    /// Its SAEs.
    pub n_saes: u64,
    /// The smallest FVU among them, on held-out sequences or in training.
    pub best_fvu: Option<f64>,
    /// Why it failed.
    pub failure: Option<JobFailure>,
}

#[derive(FromRow)]
struct JobRow {
    job: String,
    job_id: String,
    status: JobStatus,
    n_saes: u64,
    best_fvu: Option<f64>,
}

const VERSIONS: &str = "
SELECT revision, recipe, text, accumulates, created_ms,
    coalesce((
        SELECT request FROM round WHERE round.sweep_id = sweep.sweep_id AND number = 0
    ), '{}') AS request,
    (SELECT count(DISTINCT job_id) FROM sweep_job WHERE sweep_job.sweep_id = sweep.sweep_id) AS n_jobs
FROM sweep WHERE name = ? ORDER BY revision";

const JOBS: &str = "
SELECT sweep_listing.job, job_id, job.status,
    (SELECT count(*) FROM sae WHERE sae.job_id = job.job_id) AS n_saes,
    (
        SELECT min(coalesce(sae_evaluation.fvu, sae_result.fvu)) FROM sae
        JOIN sae_result USING (sae_id) LEFT JOIN sae_evaluation USING (sae_id) WHERE sae.job_id = job.job_id
    ) AS best_fvu
FROM sweep_listing JOIN job USING (job_id)
WHERE sweep = ? AND is_current
ORDER BY revision, ordinal";

impl Store {
    /// All that is known of the sweep called `name`.
    ///
    /// # Errors
    /// A sweep that was never run.
    pub async fn sweep(&self, name: &str) -> Result<SweepDetails, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            sweep::check_name(&mut conn, name).await?;
            let versions = sqlx::query_as(VERSIONS).bind(name);
            let subject = Subject::Sweep(name.to_owned());
            Ok(SweepDetails {
                sweep: name.to_owned(),
                versions: versions.fetch_all(&mut *conn).await?,
                jobs: jobs(&mut conn, name).await?,
                notes: annotation::notes(&mut conn, &subject).await?,
                tags: annotation::tags(&mut conn, &subject).await?,
            })
        })
        .await
    }
}

async fn jobs(conn: &mut SqliteConnection, name: &str) -> Result<Vec<SweepJobRow>, Trouble> {
    let rows: Vec<JobRow> = sqlx::query_as(JOBS)
        .bind(name)
        .fetch_all(&mut *conn)
        .await?;
    let mut jobs = Vec::with_capacity(rows.len());
    for row in rows {
        jobs.push(SweepJobRow {
            failure: failure::of_job(conn, &row.job_id).await?,
            job: row.job,
            job_id: row.job_id,
            status: row.status,
            n_saes: row.n_saes,
            best_fvu: row.best_fvu,
        });
    }
    Ok(jobs)
}
