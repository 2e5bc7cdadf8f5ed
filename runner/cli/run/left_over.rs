//! What killed processes left open, for commands that only read: jobs that the database has as running, and that no
//! process trains. They are closed as the next run would close them, or a note says so.

use crate::error::CliError;
use crate::run::claims::Claims;
use crate::run::runs_folder::RunsFolder;
use crate::show::table::{self, count};
use crate::slurm::Looks;
use files::Claim;
use plan::runs_layout::lock_path;
use std::path::Path;
use store::{OpenStream, Store};

/// Closes what no process is at any more; says so if that is not possible here or now.
///
/// # Errors
/// The database cannot be read.
pub(crate) async fn close(runs_dir: &Path, store: &Store) -> Result<(), CliError> {
    if left_open(runs_dir, store).await?.is_empty() {
        return Ok(());
    }
    // A folder that cannot be written can still be read.
    let _ = try_to_close(runs_dir, store).await;
    let mut left = left_open(runs_dir, store).await?;
    // A job of Slurm, or a machine of the pool, needs no `sae-run`.
    left.retain(|open| !open.is_given());
    let n_jobs = left.iter().map(|open| open.job_ids.len()).sum();
    if n_jobs > 0 {
        table::note(&format!(
            "{} listed as running: the `sae-run` that trained them was killed; the next run continues them",
            count(n_jobs, "job")
        ));
    }
    Ok(())
}

async fn try_to_close(runs_dir: &Path, store: &Store) -> Result<(), CliError> {
    let folder = RunsFolder::open(&runs_dir.to_string_lossy())?;
    let writer = folder.open_store().await?;
    let claims = Claims {
        store: &writer,
        folder: &folder,
        take_over: false,
        slurm: &Looks::new(1),
    };
    let left = left_open(runs_dir, store).await?;
    claims.expect(&left);
    for open in left {
        claims
            .recover_stream((&open.stream_id, &open.dir), false)
            .await?;
    }
    writer.close().await;
    Ok(())
}

async fn left_open(runs_dir: &Path, store: &Store) -> Result<Vec<OpenStream>, CliError> {
    let mut open = store.open_streams().await?;
    open.retain(|open| !Claim::is_held(&runs_dir.join(lock_path(&open.stream_id))));
    Ok(open)
}
