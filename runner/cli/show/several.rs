//! One runs folder, or several that are read as if they were merged.

use crate::error::CliError;
use crate::show::job;
use crate::show::table::{self, escaped};
use crate::sweep::config;
use args::{StoreArgs, StoresArgs};
use plan::runs_layout::DATABASE;
use std::path::{Path, PathBuf};
use store::{OtherDatabase, Store};
use tempfile::TempDir;

/// A database that is only read.
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// The folder that its paths are relative to, if they are.
    pub(crate) runs_dir: PathBuf,
    /// Where the database of several folders is.
    _merged: Option<TempDir>,
}

/// Opens the database of the runs folders that were named.
///
/// # Errors
/// A folder has no database, or one that cannot be read; or there is no space for that of several folders.
pub(crate) async fn open(args: &StoresArgs) -> Result<Opened, CliError> {
    if let [_, _, ..] = args.runs_dir.as_slice() {
        return open_several(&args.runs_dir).await;
    }
    let runs_dir = config::runs_dir(&StoreArgs {
        runs_dir: args.runs_dir.first().cloned(),
    })?;
    Ok(Opened {
        store: job::open_in(&runs_dir).await?,
        runs_dir,
        _merged: None,
    })
}

async fn open_several(runs_dirs: &[PathBuf]) -> Result<Opened, CliError> {
    let merged = tempfile::Builder::new().prefix("sae-run-").tempdir();
    let merged = merged.map_err(|error| CliError::io("write to", &std::env::temp_dir(), &error))?;
    let path = merged.path().join(DATABASE);
    let writer = Store::open(&path).await?;
    for runs_dir in runs_dirs {
        take_in(&writer, runs_dir).await?;
    }
    writer.close().await;
    Ok(Opened {
        store: Store::open_read_only(&path).await?,
        runs_dir: PathBuf::new(),
        _merged: Some(merged),
    })
}

async fn take_in(writer: &Store, runs_dir: &Path) -> Result<(), CliError> {
    job::open_in(runs_dir).await?.close().await;
    let folder = runs_dir.canonicalize();
    let folder = folder.map_err(|error| CliError::io("find", runs_dir, &error))?;
    let other = OtherDatabase {
        path: &folder.join(DATABASE),
        prefix: &format!("{}/", folder.display()),
    };
    for (old, new) in writer.merge(other).await?.renamed {
        table::note(&escaped(&format!(
            "sweep `{old}` of `{}` is listed as `{new}`",
            runs_dir.display()
        )));
    }
    Ok(())
}
