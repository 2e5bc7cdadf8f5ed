//! The runs folder: where everything of a sweep is, and who may write to it. Its names are in
//! `plan/src/runs_layout.rs`.

use crate::error::CliError;
use crate::run::event_tail::EventTail;
use crate::run::unreadable::rename_aside;
use plan::runs_layout::{DATABASE, EVENTS, LOCK, state_dir};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A runs folder that no other process writes to while this lives.
#[derive(Debug)]
pub(crate) struct RunsFolder {
    path: PathBuf,
    _lock: File,
}

impl RunsFolder {
    /// Makes the folder if it is missing, and locks it.
    ///
    /// # Errors
    /// A folder that cannot be written, or that another `sae-run` works in.
    pub(crate) fn lock(path: &str) -> Result<Self, CliError> {
        let unwritable = |error: &std::io::Error| {
            CliError::io("write to the runs folder", Path::new(path), error)
                .with_hint("can you write there, and is there space?".to_owned())
        };
        fs::create_dir_all(path).map_err(|error| unwritable(&error))?;
        let path = PathBuf::from(path)
            .canonicalize()
            .map_err(|error| unwritable(&error))?;
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).read(true).write(true);
        let mut lock = lock
            .open(path.join(LOCK))
            .map_err(|error| unwritable(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(&path, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(unwritable(&error)),
        }
        let holder = format!("process {}", std::process::id());
        let written = lock
            .set_len(0)
            .and_then(|()| lock.write_all(holder.as_bytes()));
        written.map_err(|error| unwritable(&error))?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
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

    /// Forgets how far a job was.
    pub(crate) fn remove_state(&self, job_dir: &str) -> Result<(), CliError> {
        let path = self.path.join(state_dir(job_dir));
        files::remove_dir(&path).map_err(|error| CliError::io("remove", &path, &error))
    }
}

fn held(path: &Path, lock: &mut File) -> CliError {
    let mut holder = String::new();
    let read = lock
        .rewind()
        .and_then(|()| lock.read_to_string(&mut holder));
    let holder = if read.is_ok() && !holder.is_empty() {
        holder
    } else {
        "another process".into()
    };
    CliError::environment(format!("`{}` is in use by {holder}", path.display()))
        .with_hint("wait for it to end".to_owned())
}
