//! How far a sweep is at this moment, for someone who looks on.

use crate::error::StoreError;
use crate::open::Store;
use crate::sweep;
use sqlx::FromRow;

/// A sweep's current version at this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchedSweep {
    /// Its name.
    pub sweep: String,
    /// Jobs that it asks for.
    pub n_jobs: u64,
    /// Jobs that are done.
    pub n_done: u64,
    /// Jobs that failed.
    pub n_failed: u64,
    /// Its streams, in the order in which they were planned.
    pub streams: Vec<WatchedStream>,
}

/// A stream at this moment.
#[derive(Clone, Debug, PartialEq, FromRow)]
pub struct WatchedStream {
    /// The stream.
    pub stream_id: String,
    /// Its folder, relative to the runs folder.
    pub dir: String,
    /// What was predicted of its time; a JSON object.
    pub predicted: Option<String>,
    /// Jobs that are not done.
    pub n_left: u64,
    /// The attempt that is running.
    pub attempt: Option<u32>,
    /// When that was started, ms since the epoch, UTC.
    pub started_ms: Option<i64>,
}

#[derive(FromRow)]
struct Counts {
    name: String,
    n_jobs: u64,
    n_done: u64,
    n_failed: u64,
}

impl Store {
    /// The sweep of this name; without a name the one that is running, or else the one that was active last. `None`:
    /// there is no sweep at all.
    ///
    /// # Errors
    /// A sweep that was never run.
    pub async fn watched(&self, sweep: Option<&str>) -> Result<Option<WatchedSweep>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            if let Some(sweep) = sweep {
                sweep::check_name(&mut conn, sweep).await?;
            }
            let counts: Option<Counts> = sqlx::query_as(COUNTS)
                .bind(sweep)
                .fetch_optional(&mut *conn)
                .await?;
            let Some(counts) = counts else {
                return Ok(None);
            };
            let streams: Vec<WatchedStream> = sqlx::query_as(STREAMS)
                .bind(&counts.name)
                .fetch_all(&mut *conn)
                .await?;
            Ok(Some(WatchedSweep {
                sweep: counts.name,
                n_jobs: counts.n_jobs,
                n_done: counts.n_done,
                n_failed: counts.n_failed,
                streams,
            }))
        })
        .await
    }

    /// Notes what is predicted of the time of streams, by their ids; JSON objects.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn note_predictions(
        &self,
        predictions: &[(String, String)],
    ) -> Result<(), StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            for (stream_id, predicted) in predictions {
                sqlx::query("UPDATE stream SET predicted = ? WHERE stream_id = ?")
                    .bind(predicted)
                    .bind(stream_id)
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(tx.commit().await?)
        })
        .await
    }
}

const COUNTS: &str = "
SELECT
    sweep.name,
    count(DISTINCT job.job_id) AS n_jobs,
    count(DISTINCT CASE WHEN job.status = 'done' THEN job.job_id END) AS n_done,
    count(DISTINCT CASE WHEN job.status = 'failed' THEN job.job_id END) AS n_failed
FROM sweep
JOIN current_sweep ON current_sweep.sweep_id = sweep.sweep_id
JOIN sweep_job ON sweep_job.sweep_id = sweep.sweep_id
JOIN job USING (job_id)
LEFT JOIN stream_job USING (job_id)
LEFT JOIN stream USING (stream_id)
LEFT JOIN attempt ON attempt.stream_id = stream.stream_id AND attempt.status = 'running'
WHERE ?1 IS NULL OR sweep.name = ?1
GROUP BY sweep.name
ORDER BY
    count(attempt.attempt_id) > 0 DESC,
    -- A sweep that shares jobs with one that runs does not run.
    max(substr(stream.dir, 1, length(sweep.name) + 1) = sweep.name || '/' AND attempt.attempt_id IS NOT NULL) DESC,
    max(max(sweep.created_ms), coalesce(max(stream.last_event_ms), 0)) DESC
LIMIT 1";

const STREAMS: &str = "
SELECT
    stream.stream_id,
    stream.dir,
    stream.predicted,
    (
        SELECT count(*) FROM stream_job JOIN job USING (job_id)
        WHERE stream_job.stream_id = stream.stream_id AND job.status <> 'done'
    ) AS n_left,
    attempt.number AS attempt,
    attempt.started_ms
FROM stream
LEFT JOIN attempt ON attempt.stream_id = stream.stream_id AND attempt.status = 'running'
WHERE NOT EXISTS (
    SELECT 1 FROM stream_job WHERE stream_job.stream_id = stream.stream_id
        AND stream_job.job_id NOT IN (
            SELECT job_id FROM sweep_job JOIN current_sweep USING (sweep_id) WHERE current_sweep.name = ?1
        )
)
ORDER BY stream.created_ms, stream.rowid";

#[cfg(test)]
mod tests {
    use crate::testing::{Script, TestStore, plan};
    use serde_json::json;

    #[tokio::test]
    async fn the_sweep_that_runs_is_the_one_to_look_at() {
        let test = TestStore::new().await;
        assert_eq!(test.store.watched(None).await.unwrap(), None);
        let first = plan("first", &[json!({"k": 4}), json!({"k": 2})]);
        test.record(&first).await;
        test.record(&plan("second", &[json!({"k": 8})])).await;
        let stream = &first.streams[0].stream_id;
        test.store.begin_attempt(stream, "log").await.unwrap();
        let predictions = [(stream.clone(), "{}".to_owned())];
        test.store.note_predictions(&predictions).await.unwrap();
        let watched = test.store.watched(None).await.unwrap().unwrap();
        assert_eq!((&*watched.sweep, watched.n_jobs), ("first", 2));
        let [own] = &watched.streams[..] else {
            panic!("{watched:?}")
        };
        assert_eq!((own.attempt, own.n_left), (Some(1), 2));
        assert_eq!(own.predicted.as_deref(), Some("{}"));
        let mut script = Script::new();
        script
            .start(1, 0)
            .checkpoint(&first.jobs[0].job_id, 20, true);
        test.store.fold(stream, &script.events).await.unwrap();
        let watched = test.store.watched(Some("first")).await.unwrap().unwrap();
        assert_eq!((watched.n_done, watched.streams[0].n_left), (1, 1));
        let second = test.store.watched(Some("second")).await.unwrap().unwrap();
        assert_eq!((second.n_done, second.streams[0].attempt), (0, None));
        assert!(test.store.watched(Some("third")).await.is_err());
    }
}
