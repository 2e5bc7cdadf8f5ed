//! All that is known of one job.

use crate::annotation::{self, Subject, UserNote};
use crate::attempt::{self, AttemptRow};
use crate::calibration::{self, CalibratedSae};
use crate::checkpoint::{self, CheckpointRow};
use crate::error::{StoreError, Trouble};
use crate::extension::{self, Extension};
use crate::failure::{self, JobFailure};
use crate::history::{self, EvaluatedSae, JobCurvePoint, NoteRow, VerdictRow};
use crate::job::JobStatus;
use crate::job_name::resolve;
use crate::open::Store;
use crate::publication::{self, JobPublication};
use crate::sae::{self, SaeRow};
use crate::stream;
use sqlx::{FromRow, SqliteConnection};

/// All that is known of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobDetails {
    /// The job.
    pub job_id: String,
    /// Its status.
    pub status: JobStatus,
    /// Its folder, relative to the runs folder.
    pub dir: String,
    /// Its resolved settings, a JSON object.
    pub config: serde_json::Value,
    /// Kind of its SAEs, such as `matryoshka batchtopk`; the table `job` defines it.
    pub kind: String,
    /// When it was first asked for, ms since the epoch, UTC.
    pub created_ms: i64,
    /// When its final checkpoint was complete, ms since the epoch, UTC.
    pub done_ms: Option<i64>,
    /// The sweeps that ask for it.
    pub names: Vec<JobName>,
    /// Its SAEs and how far they have come.
    pub saes: Vec<SaeRow>,
    /// The attempts that trained it.
    pub attempts: Vec<AttemptRow>,
    /// Its checkpoints.
    pub checkpoints: Vec<CheckpointRow>,
    /// Folders of its streams, relative to the runs folder; the one heard of last comes first.
    pub stream_dirs: Vec<String>,
    /// How the FVU fell, SAE by SAE.
    pub curve: Vec<JobCurvePoint>,
    /// How the thresholds of its SAEs were calibrated.
    pub calibrations: Vec<CalibratedSae>,
    /// What held-out sequences say of its SAEs.
    pub evaluations: Vec<EvaluatedSae>,
    /// What workers found wrong with its SAEs.
    pub verdicts: Vec<VerdictRow>,
    /// What its workers remarked.
    pub notes: Vec<NoteRow>,
    /// Where its SAEs were published.
    pub publications: Vec<JobPublication>,
    /// Where it continued from, if it was not trained from the start.
    pub extension: Option<Extension>,
    /// Why it failed, if it did.
    pub failure: Option<JobFailure>,
    /// The notes of users on it.
    pub user_notes: Vec<UserNote>,
    /// Its tags.
    pub tags: Vec<String>,
}

impl JobDetails {
    /// What a sweep calls it that asks for it now, or else one that did.
    pub fn newest_name(&self) -> Option<&JobName> {
        let current = self.names.iter().find(|name| name.is_current);
        current.or(self.names.first())
    }
}

/// What a sweep calls a job.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct JobName {
    /// Name of the sweep.
    pub sweep: String,
    /// Name of the job in it.
    pub job: String,
    /// False when the sweep was edited since and no longer asks for the job.
    pub is_current: bool,
}

#[derive(FromRow)]
struct JobRow {
    job_id: String,
    status: JobStatus,
    dir: String,
    config: String,
    kind: String,
    created_ms: i64,
    done_ms: Option<i64>,
}

impl Store {
    /// All that is known about the job that `wanted` means: its id or the start of it, its name,
    /// `sweep/name`, or the start of a name that nothing else fits.
    ///
    /// # Errors
    /// A job that was never planned, or several that fit.
    pub async fn job(&self, wanted: &str) -> Result<JobDetails, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let job_id = resolve(&mut conn, wanted).await?;
            details(&mut conn, &job_id).await
        })
        .await
    }
}

async fn details(conn: &mut SqliteConnection, job_id: &str) -> Result<JobDetails, Trouble> {
    let row: JobRow = sqlx::query_as("SELECT * FROM job WHERE job_id = ?")
        .bind(job_id)
        .fetch_one(&mut *conn)
        .await?;
    let names = sqlx::query_as(
        "SELECT sweep, job, is_current FROM sweep_listing WHERE job_id = ? ORDER BY sweep, ordinal",
    );
    let subject = Subject::Job(job_id.to_owned());
    Ok(JobDetails {
        extension: extension::of_job(conn, job_id).await?,
        failure: failure::of_job(conn, job_id).await?,
        user_notes: annotation::notes(conn, &subject).await?,
        tags: annotation::tags(conn, &subject).await?,
        names: names.bind(job_id).fetch_all(&mut *conn).await?,
        saes: sae::of_job(conn, job_id).await?,
        attempts: attempt::of_job(conn, job_id).await?,
        checkpoints: checkpoint::of_job(conn, job_id).await?,
        stream_dirs: stream::dirs_of_job(conn, job_id).await?,
        curve: history::curve_of_job(conn, job_id).await?,
        calibrations: calibration::of_job(conn, job_id).await?,
        evaluations: history::evaluations_of_job(conn, job_id).await?,
        verdicts: history::verdicts_of_job(conn, job_id).await?,
        notes: history::notes_of_job(conn, job_id).await?,
        publications: publication::of_job(conn, job_id).await?,
        job_id: row.job_id,
        status: row.status,
        dir: row.dir,
        config: serde_json::from_str(&row.config).unwrap_or_default(),
        kind: row.kind,
        created_ms: row.created_ms,
        done_ms: row.done_ms,
    })
}

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan, stats};
    use serde_json::json;

    #[tokio::test]
    async fn a_job_is_found_by_id_and_name_and_shown_whole() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (stream, job) = (&plan.streams[0].stream_id, &plan.jobs[0]);
        test.store.begin_attempt(stream, "a.log").await.unwrap();
        let mut script = Script::new();
        script
            .start(1, 0)
            .metric(&job.job_id, 10, stats(2.0))
            .checkpoint(&job.job_id, 10, false);
        test.store.fold(stream, &script.events).await.unwrap();

        let shown = test.store.job(&job.job_id).await.unwrap();
        for wanted in [
            &job.job_id[..8],
            &job.name,
            &format!("s/{}", job.name),
            r#"{"k":4"#,
        ] {
            assert_eq!(test.store.job(wanted).await.unwrap(), shown, "{wanted}");
        }
        assert_eq!(shown.config["num_latents"], 32);
        assert_eq!(shown.dir, format!("s/{}", job.folder()));
        assert_eq!(shown.saes[0].fvu, Some(0.25));
        assert_eq!(shown.saes[0].name, "layers.0");
        assert_eq!(shown.attempts[0].log.as_deref(), Some("a.log"));
        assert_eq!(shown.stream_dirs, [format!("s/.streams/{stream}")]);
        assert_eq!(shown.checkpoints[0].step, 10);
        assert!(!shown.checkpoints[0].is_final);
        let untrained = test.store.job(&plan.jobs[1].job_id).await.unwrap();
        assert_eq!(
            (untrained.saes[0].k, untrained.saes[0].step),
            (2.into(), None)
        );
    }
}
