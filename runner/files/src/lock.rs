//! Locks: files that a process holds while it works, and that say which process that is.

use crate::{bound, read_text};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;

/// Takes the lock at `path` for the life of the returned file; `None` while another process holds it.
///
/// # Errors
/// A file that cannot be written.
pub fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true);
    let mut file = options.open(path)?;
    match file.try_lock() {
        Ok(()) => {
            let holder = format!("{} {}", std::process::id(), host_name());
            file.set_len(0)?;
            file.write_all(holder.as_bytes())?;
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process that holds a lock, or held it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its id.
    pub pid: u32,
    /// The machine that it runs on.
    pub host: String,
}

impl LockHolder {
    /// The holder of the lock at `path`; `None`: the file does not say.
    pub fn read(path: &Path) -> Option<Self> {
        let text = read_text(path, bound::SETTINGS).ok()?;
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

/// The name of this machine.
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        assert_eq!(LockHolder::read(&path), None);
        let held = lock(&path).unwrap().unwrap();
        assert!(lock(&path).unwrap().is_none());
        let holder = LockHolder::read(&path).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(holder.is_here());
        drop(held);
        assert!(lock(&path).unwrap().is_some());
    }
}
