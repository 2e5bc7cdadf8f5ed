//! The runs folder: where everything of a sweep is. Several processes write to it; what each of them works on, it locks.
//! The names in the folder are in `plan/src/runs_layout.rs`.

use crate::error::CliError;
use crate::run::event_tail::EventTail;
use crate::run::unreadable::rename_aside;
use crate::show::table;
use files::{Claim, LockHolder};
use plan::runs_layout::{DATABASE, EVENTS, LOCKS, lock_path, state_dir};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use store::Store;

/// A runs folder that can be written to.
#[derive(Debug)]
pub(crate) struct RunsFolder {
    path: PathBuf,
}

/// The lock of the database, held while it is opened.
const DATABASE_LOCK: &str = "database";
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it takes before the user hears of it.
const PATIENCE: Duration = Duration::from_secs(2);

impl RunsFolder {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn open(path: &str) -> Result<Self, CliError> {
        let unwritable = |error: std::io::Error| {
            CliError::io("write to the runs folder", Path::new(path), &error)
                .with_hint("can you write there, and is there space?".to_owned())
        };
        let open = || {
            fs::create_dir_all(path)?;
            let path = PathBuf::from(path).canonicalize()?;
            fs::create_dir_all(path.join(LOCKS))?;
            Ok(Self { path })
        };
        open().map_err(unwritable)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the database for writing; makes it if it is missing.
    ///
    /// # Errors
    /// As [`Store::open`], or a folder that cannot be locked.
    pub(crate) async fn open_store(&self) -> Result<Store, CliError> {
        // Two processes that make the database, or bring it up to date, would be in each other's way.
        let begun = Instant::now();
        let mut is_told = false;
        let _lock = loop {
            if let Some(lock) = self.claim(DATABASE_LOCK)? {
                break lock;
            }
            if begun.elapsed() > PATIENCE && !std::mem::replace(&mut is_told, true) {
                let holder = self.holder(DATABASE_LOCK);
                table::note(&format!("waiting for {holder}, which opens the database"));
            }
            tokio::time::sleep(PAUSE).await;
        };
        Ok(Store::open(&self.path.join(DATABASE)).await?)
    }

    /// Takes the lock of the job or stream with this id; `None` while another process has it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn claim(&self, id: &str) -> Result<Option<Claim>, CliError> {
        let path = self.path.join(lock_path(id));
        Claim::take(&path).map_err(|error| CliError::io("lock", &path, &error))
    }

    /// Which process has the lock of the job or stream with this id, for the user.
    pub(crate) fn holder(&self, id: &str) -> String {
        LockHolder::describe(&self.path.join(lock_path(id)))
    }

    /// A reader of a stream's events, from their beginning.
    pub(crate) fn tail(&self, stream_dir: &str) -> EventTail {
        EventTail::new(self.path.join(stream_dir).join(EVENTS))
    }

    /// Removes a stream's events without reading them; numbers continue after the last one that the database has.
    pub(crate) fn remove_events(&self, stream_dir: &str) -> Result<(), CliError> {
        let path = self.path.join(stream_dir).join(EVENTS);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            // A folder, say.
            Err(_) => rename_aside(&path)
                .map(drop)
                .map_err(|error| CliError::io("put aside", &path, &error)),
        }
    }

    /// Whether a job has what a resume needs.
    pub(crate) fn has_state(&self, job_dir: &str) -> bool {
        self.path.join(state_dir(job_dir)).exists()
    }

    /// Forgets how far a job was.
    pub(crate) fn remove_state(&self, job_dir: &str) -> Result<(), CliError> {
        let path = self.path.join(state_dir(job_dir));
        files::remove_dir(&path).map_err(|error| CliError::io("remove", &path, &error))
    }
}
