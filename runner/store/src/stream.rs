//! Tables `stream` and `stream_job`: jobs that share a forward pass, and how far their events are in.

use crate::error::{StoreError, Trouble};
use crate::open::{Store, int};
use fault::Fault;
use plan::{Event, Stream};
use sqlx::{FromRow, SqliteConnection};

/// How far the events of a stream are folded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub(crate) struct Position {
    /// Number of the last event; 0 before the first.
    #[sqlx(rename = "last_event_seq")]
    pub(crate) seq: u64,
    /// The attempt that wrote it.
    #[sqlx(rename = "last_event_attempt")]
    pub(crate) attempt: u32,
}

impl Store {
    /// Number of the last event of a stream that is folded in; 0 before the first.
    ///
    /// # Errors
    /// A stream that was never planned.
    pub async fn last_event_seq(&self, stream_id: &str) -> Result<u64, StoreError> {
        let mut conn = self.acquire().await?;
        self.located(async { Ok(position(&mut conn, stream_id).await?.seq) })
            .await
    }
}

impl Store {
    /// The jobs that a stream trains.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn jobs_of_stream(&self, stream_id: &str) -> Result<Vec<String>, StoreError> {
        let mut conn = self.acquire().await?;
        let sql = "SELECT job_id FROM stream_job WHERE stream_id = ? ORDER BY job_id";
        let jobs = sqlx::query_scalar(sql).bind(stream_id);
        self.located(async { Ok(jobs.fetch_all(&mut *conn).await?) })
            .await
    }
}

/// How far the events of a stream are folded in.
pub(crate) async fn position(
    conn: &mut SqliteConnection,
    stream_id: &str,
) -> Result<Position, Trouble> {
    let sql = "SELECT last_event_seq, last_event_attempt FROM stream WHERE stream_id = ?";
    let position = sqlx::query_as(sql).bind(stream_id).fetch_optional(conn);
    let position = position
        .await?
        .ok_or_else(|| Fault::input(format!("there is no stream `{stream_id}`")))?;
    Ok(position)
}

/// Notes that `last` is the last event folded in.
pub(crate) async fn advance(
    conn: &mut SqliteConnection,
    stream_id: &str,
    last: &Event,
) -> Result<(), Trouble> {
    sqlx::query(
        "UPDATE stream SET last_event_seq = ?, last_event_attempt = ?, last_event_ms = ?
         WHERE stream_id = ?",
    )
    .bind(int(last.seq))
    .bind(last.attempt)
    .bind(last.time_ms)
    .bind(stream_id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes how long the stream is, as a worker has counted.
pub(crate) async fn set_length(
    conn: &mut SqliteConnection,
    stream_id: &str,
    n_steps: u64,
    tokens_per_step: u64,
) -> Result<(), Trouble> {
    sqlx::query("UPDATE stream SET n_steps = ?, tokens_per_step = ? WHERE stream_id = ?")
        .bind(int(n_steps))
        .bind(int(tokens_per_step))
        .bind(stream_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Records a stream and its jobs, if it is new; gives its folder and its last event's number.
pub(crate) async fn record(
    conn: &mut SqliteConnection,
    stream: &Stream,
    dir: &str,
    now_ms: i64,
) -> Result<(String, u64), Trouble> {
    insert(conn, stream, dir, now_ms).await?;
    for job_id in &stream.job_ids {
        sqlx::query(
            "INSERT INTO stream_job (stream_id, job_id) VALUES (?, ?)
             ON CONFLICT (stream_id, job_id) DO NOTHING",
        )
        .bind(&stream.stream_id)
        .bind(job_id)
        .execute(&mut *conn)
        .await?;
    }
    let row = sqlx::query_as("SELECT dir, last_event_seq FROM stream WHERE stream_id = ?");
    Ok(row.bind(&stream.stream_id).fetch_one(conn).await?)
}

async fn insert(
    conn: &mut SqliteConnection,
    stream: &Stream,
    dir: &str,
    now_ms: i64,
) -> Result<(), Trouble> {
    let key = serde_json::to_string(&stream.key).expect("plain data serialises to JSON");
    sqlx::query(
        "INSERT INTO stream (stream_id, dir, key, n_layers_run, model_bytes, sae_bytes,
             workspace_bytes, created_ms)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (stream_id) DO NOTHING",
    )
    .bind(&stream.stream_id)
    .bind(dir)
    .bind(key)
    .bind(int(stream.n_layers_run))
    .bind(int(stream.memory.model_bytes))
    .bind(int(stream.memory.sae_bytes))
    .bind(int(stream.memory.workspace_bytes))
    .bind(now_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// The folders of the streams that train a job; the one heard of last comes first.
pub(crate) async fn dirs_of_job(
    conn: &mut SqliteConnection,
    job_id: &str,
) -> Result<Vec<String>, Trouble> {
    let dirs = sqlx::query_scalar(
        "SELECT dir FROM stream_job JOIN stream USING (stream_id) WHERE job_id = ?
         ORDER BY last_event_ms DESC NULLS LAST, stream_id",
    );
    Ok(dirs.bind(job_id).fetch_all(conn).await?)
}

/// Whether the stream trains the job.
pub(crate) async fn trains(
    conn: &mut SqliteConnection,
    stream_id: &str,
    job_id: &str,
) -> Result<bool, Trouble> {
    let sql = "SELECT count(*) FROM stream_job WHERE stream_id = ? AND job_id = ?";
    let n: i64 = sqlx::query_scalar(sql)
        .bind(stream_id)
        .bind(job_id)
        .fetch_one(conn)
        .await?;
    Ok(n > 0)
}
