//! The lock that keeps a second worker from a stream.

use crate::TrainError;
use crate::process::host_name;
use files::bound;
use plan::runs_layout::STREAM_LOCK;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

/// The lock that keeps a second worker from the stream whose folder is `dir`, for the life of the
/// returned file, which says who holds it; `None` while a worker holds it.
///
/// # Errors
/// A folder that cannot be written.
pub fn lock_stream(dir: &Path) -> Result<Option<File>, TrainError> {
    let path = dir.join(STREAM_LOCK);
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true);
    let mut file = options
        .open(&path)
        .map_err(TrainError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => {
            let holder = format!("{} {}", std::process::id(), host_name());
            let written = file
                .set_len(0)
                .and_then(|()| file.write_all(holder.as_bytes()));
            written.map_err(TrainError::io("write", &path))?;
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &path)(error)),
    }
}

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its id.
    pub pid: u32,
    /// The machine that it runs on.
    pub host: String,
}

impl LockHolder {
    /// The one that holds, or held, the lock of the stream whose folder is `dir`; `None`: it has not said.
    pub fn of_stream(dir: &Path) -> Option<Self> {
        let text = files::read_text(&dir.join(STREAM_LOCK), bound::SETTINGS).ok()?;
        let (pid, host) = text.split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            host: host.into(),
        })
    }

    /// Whether it is a process of this machine.
    pub fn is_here(&self) -> bool {
        self.host == host_name()
    }
}
