//! `sae-run rm`: forgets jobs and sweeps, rows and folders.

use crate::error::CliError;
use crate::run::orphan::lock_stream;
use crate::run::runs_folder::RunsFolder;
use crate::show::job::{self, n_bytes};
use crate::show::json;
use crate::show::table::{self, count, escaped};
use crate::show::yes_or_no::{self, Question};
use crate::sweep::config;
use args::RmArgs;
use files::Claim;
use plan::runs_layout;
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use store::{Removal, RemovedJob};

/// `sae-run rm`.
///
/// # Errors
/// No database, a name that nothing has, a job that another `sae-run` or a worker is at, a person
/// who cannot be asked.
pub(crate) async fn rm(args: &RmArgs) -> Result<u8, CliError> {
    // A folder without a database is not made one.
    job::open(&args.store).await?.close().await;
    let runs_dir = config::runs_dir(&args.store)?;
    let folder = RunsFolder::open(&runs_dir.to_string_lossy())?;
    let store = folder.open_store().await?;
    let removal = store.removal(&args.targets).await?;
    let locks = lock(&folder, &removal)?;
    let folders = folders(&folder, &removal)?;
    announce(&removal, &folders);
    if removal.jobs.is_empty() && removal.sweeps.is_empty() {
        return concluded(args, &removal, &folders, Outcome::Unchanged);
    }
    check_workers(folder.path(), &removal)?;
    let question = Question {
        text: "delete?",
        unchanged: "nothing was deleted",
        yes: "`--yes` deletes without asking",
    };
    if !args.yes && !yes_or_no::ask(&question)? {
        return concluded(args, &removal, &folders, Outcome::Unchanged);
    }
    // Rows first: in the other order, a crash in between would leave jobs listed as done whose files
    // are gone. What a crash leaves now are folders that nothing lists.
    store.remove(&removal).await?;
    store.close().await;
    delete(folder.path(), &folders)?;
    drop(locks);
    table::note(&format!("deleted {}", count(removal.jobs.len(), "job")));
    concluded(args, &removal, &folders, Outcome::Deleted)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Deleted,
    Unchanged,
}

/// Prints the object that was asked for, if it was.
fn concluded(
    args: &RmArgs,
    removal: &Removal,
    folders: &[Doomed],
    outcome: Outcome,
) -> Result<u8, CliError> {
    if !args.json {
        return Ok(0);
    }
    let jobs = removal.jobs.iter();
    let jobs = jobs.map(|job| json!({"job": job.name, "job_id": job.job_id}));
    let kept = removal.kept.iter();
    let kept = kept.map(|job| json!({"job": job.name, "job_id": job.job_id, "reason": job.reason}));
    let folders = folders.iter();
    let folders = folders.map(|folder| json!({"path": folder.path, "n_bytes": folder.n_bytes}));
    json::print(&json!({
        "is_deleted": outcome == Outcome::Deleted,
        "jobs": jobs.collect::<Vec<_>>(),
        "sweeps": removal.sweeps,
        "kept": kept.collect::<Vec<_>>(),
        "folders": folders.collect::<Vec<_>>(),
        "n_rows": removal.n_rows,
    }))
}

/// A folder to delete, relative to the runs folder.
struct Doomed {
    path: PathBuf,
    n_bytes: u64,
}

/// The folders there are, in the order in which they go: streams first. Their events would speak for
/// checkpoints that are gone, were the sweep run again after a crash in the middle of this; then what
/// a resume would take up; the SAEs last.
fn folders(folder: &RunsFolder, removal: &Removal) -> Result<Vec<Doomed>, CliError> {
    let dirs = || removal.jobs.iter().map(|job| job.dir.as_str());
    let streams = removal.stream_dirs.iter().map(PathBuf::from);
    let mut paths: Vec<PathBuf> = streams.collect();
    paths.extend(dirs().map(runs_layout::state_dir));
    paths.extend(dirs().map(runs_layout::best_dir));
    paths.extend(dirs().map(runs_layout::eval_dir));
    paths.extend(dirs().map(PathBuf::from));
    let mut doomed = Vec::new();
    for path in paths {
        check_inside(&path)?;
        let whole = folder.path().join(&path);
        if whole.symlink_metadata().is_ok() {
            let n_bytes = n_bytes(&whole);
            doomed.push(Doomed { path, n_bytes });
        }
    }
    Ok(doomed)
}

/// The database is a file like others: the paths in it are not trusted.
fn check_inside(path: &Path) -> Result<(), CliError> {
    if files::stays_below(path) && path.components().count() > 1 {
        return Ok(());
    }
    let message = format!("the database names `{}` as a job's folder", path.display());
    Err(CliError::environment(message)
        .with_hint("nothing was deleted; a folder is within the runs folder".to_owned()))
}

fn announce(removal: &Removal, folders: &[Doomed]) {
    for job in &removal.kept {
        let (name, reason) = (escaped(&job.name), escaped(&job.reason));
        table::note(&format!("kept: {name} ({}), {reason}", job.job_id));
    }
    for job in &removal.jobs {
        table::note(&format!("job {} ({})", escaped(&job.name), job.job_id));
    }
    for sweep in &removal.sweeps {
        table::note(&format!("sweep {}", escaped(sweep)));
    }
    for folder in folders {
        let path = escaped(&folder.path.display().to_string());
        table::note(&format!("folder {path} ({})", table::bytes(folder.n_bytes)));
    }
    let n_bytes = folders.iter().map(|folder| folder.n_bytes).sum();
    table::note(&format!(
        "to delete: {}, {}, {}, {}",
        count(removal.jobs.len(), "job"),
        count(removal.n_rows as usize, "row"),
        count(folders.len(), "folder"),
        table::bytes(n_bytes)
    ));
}

/// Keeps other processes from the jobs that go.
fn lock(folder: &RunsFolder, removal: &Removal) -> Result<Vec<Claim>, CliError> {
    let lock = |job: &RemovedJob| {
        folder.claim(&job.job_id)?.ok_or_else(|| {
            let (name, holder) = (escaped(&job.name), folder.holder(&job.job_id));
            CliError::environment(format!("{holder} trains job {name} ({}) now", job.job_id))
                .with_hint("nothing was deleted; wait for it to end".to_owned())
        })
    };
    removal.jobs.iter().map(lock).collect()
}

/// A worker that outlived its `sae-run` still saves.
fn check_workers(runs_dir: &Path, removal: &Removal) -> Result<(), CliError> {
    for dir in &removal.all_stream_dirs {
        let path = runs_dir.join(dir);
        if path.is_dir() && lock_stream(&path)?.is_none() {
            return Err(
                CliError::environment(format!("a worker still runs in `{dir}`"))
                    .with_hint("wait for it to end".to_owned()),
            );
        }
    }
    Ok(())
}

fn delete(runs_dir: &Path, folders: &[Doomed]) -> Result<(), CliError> {
    for folder in folders {
        let path = runs_dir.join(&folder.path);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(CliError::io("remove", &path, &error)
                    .with_hint("nothing lists it any more; remove it by hand".to_owned()));
            }
            _ => {}
        }
    }
    for folder in folders {
        remove_empty(runs_dir, &folder.path);
    }
    Ok(())
}

/// Removes what a sweep leaves empty: its shelves, then its folder. Folders that have content stay.
fn remove_empty(runs_dir: &Path, path: &Path) {
    let Some(sweep) = path.components().next() else {
        return;
    };
    let sweep = runs_dir.join(sweep);
    for shelf in runs_layout::SHELVES {
        let _ = fs::remove_dir(sweep.join(shelf));
    }
    let _ = fs::remove_dir(sweep);
}
