//! Each stream of a sweep with its last attempt: where a cluster has it.

use crate::error::StoreError;
use crate::open::Store;
use crate::sweep;
use sqlx::FromRow;

/// A stream and its last attempt.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct StreamState {
    /// The stream.
    pub stream_id: String,
    /// Its folder, relative to the runs folder.
    pub dir: String,
    /// Its jobs.
    pub n_jobs: u64,
    /// Those that are done.
    pub n_done: u64,
    /// Attempts so far.
    pub n_attempts: u64,
    /// Status of the last one; `None`: there was none.
    pub status: Option<String>,
    /// Number of the job of Slurm that it is a run of.
    pub slurm_job_id: Option<u64>,
    /// Name of the entry in the pool that it is a run of.
    pub pool_entry: Option<String>,
    /// Machine of its worker.
    pub host: Option<String>,
    /// Why it ended.
    pub reason: Option<String>,
    /// Optimizer updates that it has made.
    pub step: Option<u64>,
    /// Optimizer updates in all.
    pub n_steps: Option<u64>,
}

impl Store {
    /// The streams of a sweep, in the order in which they were planned.
    ///
    /// # Errors
    /// A sweep that was never run.
    pub async fn stream_states(&self, sweep: &str) -> Result<Vec<StreamState>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            sweep::check_name(&mut conn, sweep).await?;
            let rows = sqlx::query_as(STATES).bind(sweep);
            Ok(rows.fetch_all(&mut *conn).await?)
        })
        .await
    }
}

const STATES: &str = "
SELECT
    stream.stream_id,
    stream.dir,
    count(DISTINCT job.job_id) AS n_jobs,
    count(DISTINCT CASE WHEN job.status = 'done' THEN job.job_id END) AS n_done,
    (SELECT count(*) FROM attempt WHERE attempt.stream_id = stream.stream_id) AS n_attempts,
    last.status,
    last.slurm_job_id,
    last.pool_entry,
    last.host,
    last.reason,
    (SELECT max(step) FROM progress WHERE progress.attempt_id = last.attempt_id) AS step,
    stream.n_steps
FROM sweep_job
JOIN current_sweep USING (sweep_id)
JOIN job USING (job_id)
JOIN stream_job USING (job_id)
JOIN stream USING (stream_id)
LEFT JOIN attempt AS last ON last.stream_id = stream.stream_id
    AND last.number = (SELECT max(number) FROM attempt WHERE attempt.stream_id = stream.stream_id)
WHERE current_sweep.name = ?1 AND NOT EXISTS (
    SELECT 1 FROM stream_job AS other WHERE other.stream_id = stream.stream_id
        AND other.job_id NOT IN (
            SELECT job_id FROM sweep_job JOIN current_sweep USING (sweep_id) WHERE current_sweep.name = ?1
        )
)
GROUP BY stream.stream_id
ORDER BY stream.created_ms, stream.rowid";

#[cfg(test)]
mod tests {
    use crate::GivenTo;
    use crate::testing::{Script, TestStore, plan, stats};
    use plan::EventKind;
    use serde_json::json;

    #[tokio::test]
    async fn each_stream_has_its_last_attempt() {
        let test = TestStore::new().await;
        let plan = plan("s", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&plan).await;
        let (store, stream) = (&test.store, &plan.streams[0].stream_id);
        let before = store.stream_states("s").await.unwrap().remove(0);
        assert_eq!(
            (before.n_jobs, before.n_attempts, before.status),
            (2, 0, None)
        );
        let both = [plan.jobs[0].job_id.clone(), plan.jobs[1].job_id.clone()];
        let begun = store.begin_given_attempt((stream, GivenTo::Slurm("name")), "log", &both, &[]);
        begun.await.unwrap();
        store.set_slurm_job(stream, 1, 77).await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).metric(&both[0], 4, stats(8.0));
        script.push(EventKind::Progress {
            step: 4,
            n_tokens: 40,
            elapsed_ms: 9,
        });
        script.checkpoint(&both[0], 8, true);
        store.fold(stream, &script.events).await.unwrap();
        let now = store.stream_states("s").await.unwrap().remove(0);
        assert_eq!((now.n_jobs, now.n_done, now.slurm_job_id), (2, 1, Some(77)));
        assert_eq!(
            (now.step, now.status.as_deref()),
            (Some(4), Some("running"))
        );
        assert!(store.stream_states("other").await.is_err());
    }
}
