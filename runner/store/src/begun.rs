//! How far jobs are, and which other sweeps ask for them: what starting them again would lose.

use crate::error::StoreError;
use crate::job::JobStatus;
use crate::open::Store;
use sqlx::FromRow;

/// A job that was asked for, and what it has so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunJob {
    /// The job.
    pub job_id: String,
    /// Its folder, relative to the runs folder.
    pub dir: String,
    /// Its status.
    pub status: JobStatus,
    /// Optimizer updates done, as far as is known.
    pub n_steps: u64,
    /// Other sweeps whose current version asks for it.
    pub other_sweeps: Vec<String>,
}

impl BegunJob {
    /// Whether there is nothing yet.
    pub fn is_new(&self) -> bool {
        self.status == JobStatus::Queued && self.n_steps == 0
    }
}

#[derive(FromRow)]
struct Row {
    job_id: String,
    dir: String,
    status: JobStatus,
    n_steps: i64,
    other_sweeps: String,
}

impl Store {
    /// How far the jobs of the current version of a sweep are, each once and in its order.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn begun_jobs(&self, sweep: &str) -> Result<Vec<BegunJob>, StoreError> {
        self.located(async {
            let mut conn = self.acquire().await?;
            let rows: Vec<Row> = sqlx::query_as(BEGUN_JOBS)
                .bind(sweep)
                .fetch_all(&mut *conn)
                .await?;
            let begun = rows.into_iter().map(|row| BegunJob {
                job_id: row.job_id,
                dir: row.dir,
                status: row.status,
                n_steps: row.n_steps.cast_unsigned(),
                other_sweeps: serde_json::from_str(&row.other_sweeps).unwrap_or_default(),
            });
            Ok(begun.collect())
        })
        .await
    }
}

const BEGUN_JOBS: &str = "
SELECT
    job.job_id,
    job.dir,
    job.status,
    max(
        coalesce((SELECT max(step) FROM checkpoint WHERE checkpoint.job_id = job.job_id), 0),
        coalesce((SELECT max(step) FROM metric JOIN sae USING (sae_id) WHERE sae.job_id = job.job_id), 0)
    ) AS n_steps,
    (
        SELECT json_group_array(sweep) FROM (
            SELECT DISTINCT other.sweep AS sweep FROM sweep_listing AS other
            WHERE other.job_id = job.job_id AND other.is_current AND other.sweep <> ?1 ORDER BY 1
        )
    ) AS other_sweeps
FROM sweep_listing JOIN job USING (job_id)
WHERE sweep_listing.sweep = ?1 AND sweep_listing.is_current
GROUP BY job.job_id
ORDER BY min(sweep_listing.ordinal)";

#[cfg(test)]
mod tests {
    use crate::JobStatus;
    use crate::testing::{Script, TestStore, plan, stats};
    use serde_json::json;

    #[tokio::test]
    async fn what_jobs_have_and_who_else_asks_for_them() {
        let test = TestStore::new().await;
        let ours = plan("ours", &[json!({"k": 4}), json!({"k": 2}), json!({"k": 8})]);
        test.record(&ours).await;
        let theirs = plan("theirs", &[json!({"k": 2})]);
        test.record(&theirs).await;
        let (stream, [done, begun, new]) = (
            &ours.streams[0].stream_id,
            [0, 1, 2].map(|index| &ours.jobs[index].job_id),
        );
        let train = [done.clone(), begun.clone()];
        let attempt = test.store.begin_attempt_with(stream, "log", &train, &[]);
        attempt.await.unwrap();
        let mut script = Script::new();
        script.start(1, 0).metric(begun, 7, stats(4.0));
        script.checkpoint(done, 20, true);
        test.store.fold(stream, &script.events).await.unwrap();
        let jobs = test.store.begun_jobs("ours").await.unwrap();
        let ids: Vec<_> = jobs.iter().map(|job| &job.job_id).collect();
        assert_eq!(ids, [done, begun, new]);
        let steps: Vec<_> = jobs.iter().map(|job| (job.status, job.n_steps)).collect();
        let expected = [
            (JobStatus::Done, 20),
            (JobStatus::Running, 7),
            (JobStatus::Queued, 0),
        ];
        assert_eq!(steps, expected);
        assert_eq!(jobs[1].other_sweeps, ["theirs"]);
        assert!(jobs[0].other_sweeps.is_empty());
        assert!(jobs[2].is_new() && !jobs[1].is_new());

        // An earlier version of a sweep no longer asks for it.
        let edited = plan("theirs", &[json!({"k": 16})]);
        test.record_text("edited", &edited).await.unwrap();
        let jobs = test.store.begun_jobs("ours").await.unwrap();
        assert!(jobs[1].other_sweeps.is_empty());
    }

    #[tokio::test]
    async fn a_job_is_in_one_running_attempt_at_a_time() {
        let test = TestStore::new().await;
        let ours = plan("ours", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&ours).await;
        let theirs = plan("theirs", &[json!({"k": 2}), json!({"k": 8})]);
        test.record(&theirs).await;
        let [shared, own] = [0, 1].map(|index| theirs.jobs[index].job_id.clone());
        let (first, second) = (&ours.streams[0].stream_id, &theirs.streams[0].stream_id);
        let store = &test.store;
        let (shared_alone, own_alone) = ([shared.clone()], [own.clone()]);
        let both = [shared.clone(), own.clone()];
        let begun = store.begin_attempt_with(first, "log", &shared_alone, &[]);
        begun.await.unwrap();
        let refused = store.begin_attempt_with(second, "log", &both, &[]);
        let told = format!("job `{shared}` is still being trained in stream `{first}`");
        assert_eq!(refused.await.unwrap_err().to_string(), told);
        let begun = store.begin_attempt_with(second, "log", &own_alone, &[]);
        begun.await.unwrap();
        let open = store.open_streams().await.unwrap();
        let jobs: Vec<_> = open.into_iter().map(|open| open.job_ids).collect();
        assert_eq!(jobs, [shared_alone, own_alone]);

        // Closing one leaves the other alone.
        test.store.abandon_dead_attempts(first).await.unwrap();
        assert_eq!(test.status(&shared).await, "interrupted");
        assert_eq!(test.status(&own).await, "running");
        assert_eq!(test.status(&ours.jobs[0].job_id).await, "queued");
    }
}
