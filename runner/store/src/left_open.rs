//! Attempts that are marked as running: those of processes that run, and those that killed ones left.

use crate::error::StoreError;
use crate::open::{Store, int, now_ms};
use sqlx::{AssertSqlSafe, FromRow};

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
    /// Which attempt at it is open.
    pub number: u32,
    /// The job of Slurm that trains it, if one does.
    pub slurm: Option<SlurmAttempt>,
    /// Its entry in the pool, if it was offered there.
    pub pool_entry: Option<String>,
}

impl OpenStream {
    /// Whether its worker does not need the `sae-run` that began the attempt.
    pub fn is_given(&self) -> bool {
        self.slurm.is_some() || self.pool_entry.is_some()
    }
}

/// An attempt whose worker is a job of Slurm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmAttempt {
    /// Which attempt at the stream it is.
    pub number: u32,
    /// Name of the job.
    pub name: String,
    /// Slurm's number for it; `None`: Slurm's answer is not recorded.
    pub job_id: Option<u64>,
}

#[derive(FromRow)]
struct OpenRow {
    stream_id: String,
    dir: String,
    number: u32,
    slurm_name: Option<String>,
    slurm_job_id: Option<u64>,
    pool_entry: Option<String>,
    job_ids: String,
}

impl From<OpenRow> for OpenStream {
    fn from(row: OpenRow) -> Self {
        let (number, job_id) = (row.number, row.slurm_job_id);
        Self {
            stream_id: row.stream_id,
            dir: row.dir,
            job_ids: serde_json::from_str(&row.job_ids).unwrap_or_default(),
            number,
            pool_entry: row.pool_entry,
            slurm: row.slurm_name.map(|name| SlurmAttempt {
                number,
                name,
                job_id,
            }),
        }
    }
}

impl Store {
    /// The streams with attempts that are marked as running, whatever sweep they are of.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_streams(&self) -> Result<Vec<OpenStream>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let rows: Vec<OpenRow> = sqlx::query_as(OPEN_STREAMS).fetch_all(&mut *conn).await?;
            Ok(rows.into_iter().map(OpenStream::from).collect())
        })
        .await
    }

    /// The stream, if it has an attempt that is marked as running.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_stream(&self, stream_id: &str) -> Result<Option<OpenStream>, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            let sql = OPEN_STREAMS.replace("GROUP BY", "AND stream_id = ? GROUP BY");
            let row = sqlx::query_as(AssertSqlSafe(sql)).bind(stream_id);
            let row: Option<OpenRow> = row.fetch_optional(&mut *conn).await?;
            Ok(row.map(OpenStream::from))
        })
        .await
    }

    /// The number of the attempt at a stream that is marked as running.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_number(&self, stream_id: &str) -> Result<Option<u32>, StoreError> {
        let open = self.open_stream(stream_id).await?;
        Ok(open.map(|open| open.number))
    }

    /// The streams, other than `stream_id`, with an attempt that is marked as running and that has one of the jobs.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn open_elsewhere(
        &self,
        stream_id: &str,
        job_ids: &[String],
    ) -> Result<Vec<OpenStream>, StoreError> {
        let job_ids = serde_json::to_string(job_ids).expect("strings serialise to JSON");
        let mut conn = self.acquire().await?;
        self.located(async {
            let shared = "AND stream_id <> ?1 AND attempt_id IN (
                    SELECT attempt_id FROM attempt_job WHERE job_id IN (SELECT value FROM json_each(?2))
                ) GROUP BY";
            let sql = OPEN_STREAMS.replace("GROUP BY", shared);
            let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(stream_id).bind(job_ids);
            let rows: Vec<OpenRow> = rows.fetch_all(&mut *conn).await?;
            Ok(rows.into_iter().map(OpenStream::from).collect())
        })
        .await
    }

    /// Records which number Slurm gave the job of an attempt.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn set_slurm_job(
        &self,
        stream_id: &str,
        number: u32,
        job_id: u64,
    ) -> Result<(), StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async {
            sqlx::query("UPDATE attempt SET slurm_job_id = ? WHERE stream_id = ? AND number = ?")
                .bind(int(job_id))
                .bind(stream_id)
                .bind(number)
                .execute(&mut *conn)
                .await?;
            Ok(())
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
SELECT stream_id, dir, number, slurm_name, slurm_job_id, pool_entry,
    json_group_array(job_id) FILTER (WHERE job_id IS NOT NULL) AS job_ids
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
