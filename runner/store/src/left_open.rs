//! Attempts that are marked as running: those of processes that run, and those that killed ones left.

use crate::error::StoreError;
use crate::open::{Store, now_ms};
use sqlx::FromRow;

/// An attempt whose coordinator died before it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct AbandonedAttempt {
    /// The stream.
    pub stream_id: String,
    /// Which attempt at it.
    pub number: u32,
    /// Host of its worker, if that had reported.
    pub host: Option<String>,
    /// Process id of its worker on that host; it may still be running.
    pub pid: Option<u32>,
}

/// A stream with an attempt that was not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenStream {
    /// The stream.
    pub stream_id: String,
    /// Its folder, relative to the runs folder.
    pub dir: String,
    /// The jobs of that attempt.
    pub job_ids: Vec<String>,
}

impl Store {
    /// The streams with attempts that are marked as running, whatever sweep they are of.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_streams(&self) -> Result<Vec<OpenStream>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let rows: Vec<(String, String, String)> =
                sqlx::query_as(OPEN_STREAMS).fetch_all(&mut *conn).await?;
            let open = |(stream_id, dir, job_ids): (String, String, String)| OpenStream {
                stream_id,
                dir,
                job_ids: serde_json::from_str(&job_ids).unwrap_or_default(),
            };
            Ok(rows.into_iter().map(open).collect())
        })
        .await
    }

    /// Closes the attempts at a stream that are marked as running; their jobs were interrupted. Right only when no
    /// other coordinator can be at the stream: under its lock, when its worker has ended.
    ///
    /// # Errors
    /// The database cannot be written; then nothing was changed.
    pub async fn abandon_dead_attempts(
        &self,
        stream_id: &str,
    ) -> Result<Vec<AbandonedAttempt>, StoreError> {
        self.located(async {
            let mut tx = self.begin().await?;
            let abandoned = sqlx::query_as(
                "UPDATE attempt SET status = 'crashed', ended_ms = ?,
                     reason = coalesce(reason, 'the coordinator ended before the worker')
                 WHERE status = 'running' AND stream_id = ? RETURNING stream_id, number, host, pid",
            )
            .bind(now_ms())
            .bind(stream_id)
            .fetch_all(&mut *tx)
            .await?;
            sqlx::query(INTERRUPT)
                .bind(stream_id)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(abandoned)
        })
        .await
    }
}

const OPEN_STREAMS: &str = "
SELECT stream_id, dir, json_group_array(job_id) FILTER (WHERE job_id IS NOT NULL)
FROM attempt JOIN stream USING (stream_id) LEFT JOIN attempt_job USING (attempt_id)
WHERE status = 'running'
GROUP BY attempt_id ORDER BY attempt_id";

/// The jobs of a stream that are marked as running and that no attempt has.
const INTERRUPT: &str = "
UPDATE job SET status = 'interrupted'
WHERE status = 'running'
    AND job_id IN (SELECT job_id FROM stream_job WHERE stream_id = ?)
    AND job_id NOT IN (
        SELECT job_id FROM attempt_job JOIN attempt USING (attempt_id) WHERE attempt.status = 'running'
    )";
