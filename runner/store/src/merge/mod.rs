//! Joining databases: what another runs folder has becomes part of this one.
//!
//! A job that is in both is kept once: as it is here, unless only the other one is done. Keys that a database gives out
//! itself (of sweeps, SAEs, attempts, publications) are given out again. `rows.rs`: the tables; `sweeps.rs`: versions of
//! sweeps of one name.

mod rows;
mod sweeps;

use crate::error::{StoreError, Trouble};
use crate::job;
use crate::open::Store;
use sqlx::{Connection, FromRow, SqliteConnection};
use std::path::Path;

/// Another database, as a file that no other process has.
#[derive(Clone, Copy, Debug)]
pub struct OtherDatabase<'a> {
    /// The file. It must have the schema of this version.
    pub path: &'a Path,
    /// What its paths begin with here: empty, or a folder and `/`.
    pub prefix: &'a str,
}

/// What joins a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Jobs that come.
    pub jobs: Vec<MergedJob>,
    /// Jobs of both that stay as they are here.
    pub n_known: u64,
    /// Streams that come: their ids and folders, relative to the runs folder.
    pub streams: Vec<(String, String)>,
    /// Sweeps that get another name, since another sweep has theirs: old and new name.
    pub renamed: Vec<(String, String)>,
}

/// A job that comes from another database.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct MergedJob {
    /// The job.
    pub job_id: String,
    /// Its folder, relative to the runs folder.
    pub dir: String,
    /// The folder that it had here, if it was here and not done.
    pub replaced: Option<String>,
}

impl Store {
    /// What [`Store::merge`] would do; changes nothing.
    ///
    /// # Errors
    /// As [`Store::merge`].
    pub async fn merge_plan(&self, other: OtherDatabase<'_>) -> Result<Merged, StoreError> {
        self.merge_with(other, false).await
    }

    /// Takes in another database, in one transaction. The files are the caller's to copy, before.
    ///
    /// # Errors
    /// The database cannot be written, or the other one not be read; then nothing was taken in.
    pub async fn merge(&self, other: OtherDatabase<'_>) -> Result<Merged, StoreError> {
        self.merge_with(other, true).await
    }

    async fn merge_with(
        &self,
        other: OtherDatabase<'_>,
        for_good: bool,
    ) -> Result<Merged, StoreError> {
        self.located(async {
            let mut conn = self.acquire().await?;
            sqlx::query("ATTACH DATABASE ? AS other")
                .bind(other.path.to_string_lossy())
                .execute(&mut *conn)
                .await?;
            let merged = merge_attached(&mut conn, other.prefix, for_good).await;
            sqlx::query("DETACH DATABASE other")
                .execute(&mut *conn)
                .await?;
            merged
        })
        .await
    }
}

async fn merge_attached(
    conn: &mut SqliteConnection,
    prefix: &str,
    for_good: bool,
) -> Result<Merged, Trouble> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    let merged = merge_rows(&mut tx, prefix).await?;
    if for_good {
        rows::drop_maps(&mut tx).await?;
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok(merged)
}

async fn merge_rows(conn: &mut SqliteConnection, prefix: &str) -> Result<Merged, Trouble> {
    rows::choose_jobs(conn, prefix).await?;
    let jobs: Vec<MergedJob> =
        sqlx::query_as("SELECT job_id, dir, replaced FROM temp.merge_job ORDER BY dir")
            .fetch_all(&mut *conn)
            .await?;
    let n_known: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM other.job WHERE job_id NOT IN (SELECT job_id FROM temp.merge_job)",
    )
    .fetch_one(&mut *conn)
    .await?;
    for job in jobs.iter().filter(|job| job.replaced.is_some()) {
        // One that is trained now cannot be locked; this is then only planned.
        let stop =
            "UPDATE main.job SET status = 'interrupted' WHERE job_id = ? AND status = 'running'";
        sqlx::query(stop)
            .bind(&job.job_id)
            .execute(&mut *conn)
            .await?;
        job::reset(conn, &job.job_id).await?;
        sqlx::query("UPDATE main.job SET dir = ? WHERE job_id = ?")
            .bind(&job.dir)
            .bind(&job.job_id)
            .execute(&mut *conn)
            .await?;
    }
    let renamed = sweeps::choose(conn).await?;
    rows::copy_all(conn, prefix).await?;
    let streams = sqlx::query_as(
        "SELECT stream_id, stream.dir FROM temp.merge_stream JOIN main.stream AS stream USING (stream_id)
         WHERE is_new ORDER BY stream.dir",
    );
    Ok(Merged {
        jobs,
        n_known: n_known.cast_unsigned(),
        streams: streams.fetch_all(conn).await?,
        renamed,
    })
}

#[cfg(test)]
mod tests;
