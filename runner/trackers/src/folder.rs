//! The folder that trackers of this machine write to, and its locks: one process writes a sweep's runs for a tracker.

use fault::Fault;
use files::{Claim, LockHolder};
use plan::TrackerKind;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder that trackers of this machine write to.
#[derive(Clone, Debug)]
pub struct TrackerFolder {
    path: PathBuf,
}

/// The right to write the runs of a sweep for a tracker.
#[derive(Debug)]
pub struct TrackerLock {
    _claim: Claim,
}

impl TrackerFolder {
    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let made = fs::create_dir_all(path).and_then(|()| path.canonicalize());
        let path = made.map_err(Fault::own_io("create", path))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock of a sweep's runs in a tracker; `None` while another process has it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn lock(&self, sweep: &str, kind: TrackerKind) -> Result<Option<TrackerLock>, Fault> {
        let path = self.lock_path(sweep, kind);
        let claim = Claim::take(&path).map_err(Fault::own_io("lock", &path))?;
        Ok(claim.map(|claim| TrackerLock { _claim: claim }))
    }

    /// Which process has the lock of a sweep's runs, for the user.
    pub fn holder(&self, sweep: &str, kind: TrackerKind) -> String {
        LockHolder::describe(&self.lock_path(sweep, kind))
    }

    fn lock_path(&self, sweep: &str, kind: TrackerKind) -> PathBuf {
        self.path.join(format!(".{sweep}.{kind}.lock"))
    }
}
