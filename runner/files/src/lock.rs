//! Locks: files that a process holds while it works, and that say which process that is.

use crate::{bound, read_text};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

/// A lock whose file is there only while it is held, so that thousands of them leave nothing. It ends with the
/// process, however that ends; the file that a killed process leaves is taken over by the next one.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    _file: File,
}

impl Claim {
    /// Takes the lock at `path`; `None` while another process holds it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let Some(file) = lock(path)? else {
                return Ok(None);
            };
            // Its last holder may have removed the file after it was opened here.
            if is_at(&file, path)? {
                return Ok(Some(Self {
                    path: path.into(),
                    _file: file,
                }));
            }
        }
    }

    /// Whether a process holds the lock at `path`, or a file that cannot be opened. Makes no file.
    pub fn is_held(path: &Path) -> bool {
        match File::open(path) {
            Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
            Err(error) => error.kind() == ErrorKind::PermissionDenied,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While it is still held: another process that opened the file sees that it is gone. One that stays does no
        // harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether `path` is still the file that was opened as `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(now) => Ok((now.dev(), now.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
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

    /// The holder of the lock at `path`, for people.
    pub fn describe(path: &Path) -> String {
        let of_control = |character: char| character.is_control();
        match Self::read(path) {
            Some(Self { pid, host }) => {
                format!("process {pid} on {}", host.replace(of_control, "?"))
            }
            None => "another process".to_owned(),
        }
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

    #[test]
    fn a_claim_is_held_once_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        assert!(!Claim::is_held(&path) && !path.exists());
        let held = Claim::take(&path).unwrap().unwrap();
        assert!(Claim::is_held(&path));
        assert!(Claim::take(&path).unwrap().is_none());
        drop(held);
        assert!(!path.exists() && !Claim::is_held(&path));
        // What a killed process leaves.
        fs::write(&path, "1 elsewhere").unwrap();
        assert!(!Claim::is_held(&path));
        let held = Claim::take(&path).unwrap().unwrap();
        assert!(LockHolder::read(&path).unwrap().is_here());
        drop(held);
    }

    #[test]
    fn of_many_that_want_a_claim_one_has_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        let n_holders = std::sync::atomic::AtomicUsize::new(0);
        let order = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut n_taken = 0;
                    while n_taken < 200 {
                        if let Some(_claim) = Claim::take(&path).unwrap() {
                            assert_eq!(n_holders.fetch_add(1, order), 0);
                            n_holders.fetch_sub(1, order);
                            n_taken += 1;
                        }
                    }
                });
            }
        });
    }
}
