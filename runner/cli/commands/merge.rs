//! `sae-run merge`: what another runs folder has becomes part of this one. The other folder is only read.

use crate::error::CliError;
use crate::run::claims::take_in;
use crate::run::left_over;
use crate::run::runs_folder::RunsFolder;
use crate::show::job::n_bytes;
use crate::show::json;
use crate::show::table::{self, count, escaped};
use crate::sweep::config;
use args::MergeArgs;
use files::{Claim, LockHolder};
use plan::runs_layout::{DATABASE, LOCKS, STREAM_LOCK, job_folders};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use store::{Merged, OtherDatabase, Store, StoreError};
use tempfile::TempDir;

/// The lock of a merge into a folder.
const LOCK: &str = "merge";
/// What is copied is here until it is whole.
const STAGING: &str = ".merging-";

/// `sae-run merge`.
///
/// # Errors
/// No database in the other folder, jobs that a process is at in either, or a folder that cannot be read or written.
pub(crate) async fn merge(args: &MergeArgs) -> Result<u8, CliError> {
    let other = find(&args.other)?;
    let runs_dir = config::runs_dir(&args.store)?;
    let folder = RunsFolder::open(&runs_dir.to_string_lossy())?;
    if folder.path() == other {
        return Err(
            CliError::input(format!("`{}` is this runs folder itself", other.display()))
                .with_hint("`--runs-dir` names the folder to merge into".to_owned()),
        );
    }
    let _lock = folder.claim(LOCK)?.ok_or_else(|| {
        let message = format!("{} merges into this folder now", folder.holder(LOCK));
        CliError::environment(message).with_hint("wait for it to end".to_owned())
    })?;
    let store = folder.open_store().await?;
    left_over::close(folder.path(), &store).await?;
    let staging = staging(folder.path())?;
    let database = copy_database(&other, staging.path()).await?;
    let source = OtherDatabase {
        path: &database,
        prefix: "",
    };
    let planned = store.merge_plan(source).await?;
    let _locks = lock(&folder, &planned)?;
    if store.merge_plan(source).await? != planned {
        return Err(
            CliError::environment("the jobs here have changed meanwhile")
                .with_hint("nothing was changed; run the same command again".to_owned()),
        );
    }
    let folders = folders(&other, &planned)?;
    let all_bytes = folders.iter().map(|path| n_bytes(&other.join(path))).sum();
    if !planned.jobs.is_empty() && !args.quiet {
        table::note(&format!(
            "copying {}, {}",
            count(planned.jobs.len(), "job"),
            table::bytes(all_bytes)
        ));
    }
    copy(&other, &folders, staging.path())?;
    put_in_place(&folder, &folders, &planned, staging.path())?;
    store.merge(source).await?;
    store.close().await;
    remove_replaced(&folder, &planned, &folders)?;
    if !args.quiet {
        say(&planned);
    }
    if args.json {
        return json::print(&as_json(&planned, all_bytes));
    }
    Ok(0)
}

fn as_json(merged: &Merged, n_bytes: u64) -> Value {
    let jobs = merged.jobs.iter();
    let jobs = jobs.map(|job| json!({"job_id": job.job_id, "dir": job.dir}));
    let renamed = merged.renamed.iter();
    let renamed = renamed.map(|(old, new)| json!({"sweep": old, "renamed_to": new}));
    json!({
        "jobs": jobs.collect::<Vec<_>>(),
        "n_known": merged.n_known,
        "renamed": renamed.collect::<Vec<_>>(),
        "n_bytes": n_bytes,
    })
}

/// The runs folder that is merged, where no process may be at work.
fn find(other: &Path) -> Result<PathBuf, CliError> {
    let path = other.join(DATABASE);
    if !path.is_file() {
        return Err(StoreError::NoDatabase { path }.into());
    }
    let other = other.canonicalize();
    let other = other.map_err(|error| CliError::io("find", &path, &error))?;
    match at_work(&other) {
        None => Ok(other),
        Some(holder) => {
            let message = format!("{holder} works in `{}` now", other.display());
            Err(CliError::environment(message)
                .with_hint("nothing was changed; wait for it to end".to_owned()))
        }
    }
}

/// A process that has a lock in the folder, for the user.
fn at_work(runs_dir: &Path) -> Option<String> {
    let locks = fs::read_dir(runs_dir.join(LOCKS)).ok()?;
    let paths = locks.filter_map(|entry| Some(entry.ok()?.path()));
    let held = paths.into_iter().find(|path| Claim::is_held(path))?;
    Some(LockHolder::describe(&held))
}

/// A folder for unfinished copies. Those of merges that were killed go.
fn staging(runs_dir: &Path) -> Result<TempDir, CliError> {
    let failed = |error| CliError::io("write to", runs_dir, &error);
    for entry in fs::read_dir(runs_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with(STAGING) {
            files::remove_dir(&entry.path()).map_err(failed)?;
        }
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(STAGING).tempdir_in(runs_dir).map_err(failed)
}

/// Copies the database of the other folder, and takes in what killed processes left there.
async fn copy_database(other: &Path, staging: &Path) -> Result<PathBuf, CliError> {
    let path = staging.join(DATABASE);
    for suffix in ["", "-wal"] {
        let name = format!("{DATABASE}{suffix}");
        match fs::copy(other.join(&name), staging.join(&name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(CliError::io("copy", &other.join(&name), &error)),
            Ok(_) => {}
        }
    }
    let copied = Store::open(&path).await?;
    take_in(&copied, other).await?;
    copied.close().await;
    Ok(path)
}

/// Keeps other processes from the jobs and streams that come.
fn lock(folder: &RunsFolder, planned: &Merged) -> Result<Vec<Claim>, CliError> {
    let jobs = planned.jobs.iter().map(|job| &job.job_id);
    let ids = jobs.chain(planned.streams.iter().map(|(id, _)| id));
    let lock = |id: &String| {
        folder.claim(id)?.ok_or_else(|| {
            CliError::environment(format!("{} trains `{id}` here now", folder.holder(id)))
                .with_hint("nothing was changed; wait for it to end".to_owned())
        })
    };
    ids.map(lock).collect()
}

/// The folders that come, relative to both runs folders.
fn folders(other: &Path, planned: &Merged) -> Result<Vec<PathBuf>, CliError> {
    let jobs = planned.jobs.iter().flat_map(|job| job_folders(&job.dir));
    let streams = planned.streams.iter().map(|(_, dir)| PathBuf::from(dir));
    let mut folders = Vec::new();
    for path in jobs.chain(streams) {
        if !files::stays_below(&path) || path.components().count() < 2 {
            let message = format!("the other database names `{}` as a folder", path.display());
            return Err(CliError::environment(message)
                .with_hint("nothing was changed; a folder is within the runs folder".to_owned()));
        }
        if other.join(&path).is_dir() {
            folders.push(path);
        }
    }
    Ok(folders)
}

fn copy(other: &Path, folders: &[PathBuf], staging: &Path) -> Result<(), CliError> {
    for (index, path) in folders.iter().enumerate() {
        let (from, to) = (other.join(path), staging.join(index.to_string()));
        copy_dir(&from, &to).map_err(|error| CliError::io("copy", &from, &error))?;
    }
    Ok(())
}

/// Copies the folders and plain files in a folder, each file synced. A lock is no part of what is copied.
fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&entry.path(), &to)?;
        } else if kind.is_file() && entry.file_name() != STREAM_LOCK {
            fs::copy(entry.path(), &to)?;
            File::open(&to)?.sync_all()?;
        }
    }
    Ok(())
}

/// Renames the copies. What is there goes aside: that of a job that was not done here is removed in the end.
fn put_in_place(
    folder: &RunsFolder,
    folders: &[PathBuf],
    planned: &Merged,
    staging: &Path,
) -> Result<(), CliError> {
    let is_listed = |path: &Path| {
        let replaced = planned
            .jobs
            .iter()
            .filter_map(|job| job.replaced.as_deref());
        let mut dirs = replaced.flat_map(job_folders);
        dirs.any(|dir| dir == path)
    };
    for (index, path) in folders.iter().enumerate() {
        let target = folder.path().join(path);
        let failed = |error: io::Error| CliError::io("write", &target, &error);
        if target.symlink_metadata().is_ok() {
            let aside = if is_listed(path) {
                staging.join(format!("{index}-before"))
            } else {
                free_name(&target)
            };
            fs::rename(&target, &aside).map_err(failed)?;
            if !aside.starts_with(staging) {
                table::note(&escaped(&format!(
                    "`{}` was no job's folder and is now `{}`",
                    target.display(),
                    aside.display()
                )));
            }
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::rename(staging.join(index.to_string()), &target).map_err(failed)?;
    }
    Ok(())
}

/// Removes what is left here of jobs that were not done and that came.
fn remove_replaced(
    folder: &RunsFolder,
    planned: &Merged,
    folders: &[PathBuf],
) -> Result<(), CliError> {
    for dir in planned
        .jobs
        .iter()
        .filter_map(|job| job.replaced.as_deref())
    {
        let left = job_folders(dir).into_iter();
        for path in left.filter(|path| !folders.contains(path) && files::stays_below(path)) {
            let path = folder.path().join(path);
            files::remove_dir(&path).map_err(|error| CliError::io("remove", &path, &error))?;
        }
    }
    Ok(())
}

/// A name that nothing has, for what was at `path` before.
fn free_name(path: &Path) -> PathBuf {
    let mut names = (1..u32::MAX).map(|n| path.with_added_extension(format!("before-merge-{n}")));
    let free = names.find(|name| name.symlink_metadata().is_err());
    free.unwrap_or_else(|| path.with_added_extension("before-merge"))
}

fn say(merged: &Merged) {
    for (old, new) in &merged.renamed {
        table::note(&escaped(&format!(
            "sweep `{old}` is called `{new}` here, where another sweep is called `{old}`"
        )));
    }
    let known = match merged.n_known {
        0 => String::new(),
        1 => "; 1 was here already".to_owned(),
        n => format!("; {n} were here already"),
    };
    table::note(&format!(
        "merged {}{known}",
        count(merged.jobs.len(), "job")
    ));
}
