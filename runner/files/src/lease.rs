//! A lease: a file whose name says who has it, and how often that was renewed. It holds where locks do not, since all that
//! it needs is that of two processes that rename a file from one name, one succeeds.
//!
//! - Who has it renames it from `PREFIX.N` to `PREFIX.N+1`, again and again.
//! - Who waits for it, and sees the same name for the length of the lease by its own clock, renames it away. If it was
//!   renewed meanwhile, that name is gone, and the rename fails: also when the folder was listed from an old copy.
//! - Who has it renews it before it writes anything, once half of the length is over. If the file is gone, the process
//!   ends at once and writes nothing more.
//!
//! So no clocks of two machines are compared. What was stopped between its look at the clock and the write it is about to
//! make, for more than half of the length, may still make that one write.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How many times a lease is renewed in its length.
const RENEWALS: u32 = 4;

/// A lease that was taken.
#[derive(Debug)]
struct Lease {
    /// The path without the count.
    prefix: String,
    /// How often it was renewed.
    count: u64,
    length: Duration,
    renewed: Moment,
}

/// Now, by two clocks: one does not count while the machine sleeps, and the other can be set.
#[derive(Clone, Copy, Debug)]
struct Moment(Instant, SystemTime);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn elapsed(self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

/// Whether a lease is still this process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Yes,
    No,
}

impl Lease {
    /// That whose file is at `path`.
    fn at(path: &Path, length: Duration) -> io::Result<Self> {
        let name = path.to_str().and_then(|path| path.rsplit_once('.'));
        let counted = name.and_then(|(prefix, count)| Some((prefix, count.parse().ok()?)));
        let (prefix, count) = counted.ok_or(ErrorKind::InvalidInput)?;
        Ok(Self {
            prefix: prefix.to_owned(),
            count,
            length,
            // The first look renews it.
            renewed: Moment(Instant::now(), SystemTime::UNIX_EPOCH),
        })
    }

    fn path(&self, count: u64) -> PathBuf {
        PathBuf::from(format!("{}.{count}", self.prefix))
    }

    /// Renews it.
    fn renew(&mut self) -> io::Result<Held> {
        let now = Moment::now();
        let (old, new) = (self.path(self.count), self.path(self.count + 1));
        match fs::rename(&old, &new) {
            Ok(()) => {}
            // A folder of the network may repeat a rename whose answer was lost.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if !new.try_exists()? {
                    return Ok(Held::No);
                }
            }
            Err(error) => return Err(error),
        }
        self.count += 1;
        self.renewed = now;
        Ok(Held::Yes)
    }

    /// Renews it if that is due before anything is written. While the folder gives errors, it tries again for the length of
    /// the lease: after that, it is for others.
    fn check(&mut self, due: Duration) -> Held {
        let begun = Instant::now();
        while self.renewed.elapsed() >= due {
            match self.renew() {
                Ok(held) => return held,
                Err(_) if begun.elapsed() > self.length => return Held::No,
                Err(_) => std::thread::sleep(self.length / (4 * RENEWALS)),
            }
        }
        Held::Yes
    }
}

/// The lease of this process.
static LEASE: OnceLock<Mutex<Lease>> = OnceLock::new();

/// Takes over the lease whose file is at `path`, for the life of this process, which ends when the lease is lost.
///
/// # Errors
/// The name ends in no count, or this process has a lease.
pub fn keep_lease(path: &Path, length: Duration) -> io::Result<()> {
    let lease = Mutex::new(Lease::at(path, length)?);
    LEASE.set(lease).map_err(|_| ErrorKind::AlreadyExists)?;
    check_lease();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(length / RENEWALS);
            check(length / (2 * RENEWALS));
        }
    });
    Ok(())
}

/// Returns if this process may write: it has no lease, or still has it. Else the process ends here.
pub fn check_lease() {
    if let Some(lease) = LEASE.get() {
        let length = lease.lock().unwrap_or_else(PoisonError::into_inner).length;
        check(length / 2);
    }
}

fn check(due: Duration) {
    let Some(lease) = LEASE.get() else { return };
    let mut lease = lease.lock().unwrap_or_else(PoisonError::into_inner);
    if lease.check(due) == Held::No {
        let _ = writeln!(
            io::stderr(),
            "error: another process may have this stream by now; nothing more is written"
        );
        // Nothing that runs at an orderly exit may write either.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(200);

    fn taken() -> (tempfile::TempDir, Lease) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stream.0.host.0");
        fs::write(&path, "content").unwrap();
        let lease = Lease::at(&path, LENGTH).unwrap();
        (dir, lease)
    }

    #[test]
    fn a_lease_is_renewed_when_that_is_due() {
        let (dir, mut lease) = taken();
        let at = |count: u32| dir.path().join(format!("stream.0.host.{count}"));
        assert_eq!(lease.check(LENGTH / 2), Held::Yes);
        assert!(at(1).is_file() && !at(0).exists());
        assert_eq!(lease.check(LENGTH / 2), Held::Yes);
        assert!(at(1).is_file(), "it was not due");
        std::thread::sleep(LENGTH / 2);
        assert_eq!(lease.check(LENGTH / 2), Held::Yes);
        assert_eq!(fs::read_to_string(at(2)).unwrap(), "content");
    }

    #[test]
    fn what_another_took_is_lost() {
        let (dir, mut lease) = taken();
        assert_eq!(lease.renew().unwrap(), Held::Yes);
        let seen = dir.path().join("stream.0.host.1");
        fs::rename(&seen, dir.path().join("stream.1")).unwrap();
        assert_eq!(lease.renew().unwrap(), Held::No);
        assert_eq!(lease.check(Duration::ZERO), Held::No);
        // Renewed since it was seen: who wants it does not get it.
        let (dir, mut lease) = taken();
        lease.renew().unwrap();
        let seen = dir.path().join("stream.0.host.0");
        assert!(fs::rename(&seen, dir.path().join("stream.1")).is_err());
    }

    #[test]
    fn a_rename_that_was_done_and_not_answered_counts() {
        let (dir, mut lease) = taken();
        let at = |count: u32| dir.path().join(format!("stream.0.host.{count}"));
        fs::rename(at(0), at(1)).unwrap();
        assert_eq!(lease.renew().unwrap(), Held::Yes);
        assert!(at(1).is_file());
    }

    #[test]
    fn where_the_folder_is_gone_it_is_lost_after_its_length() {
        let (dir, mut lease) = taken();
        let path = dir.path().to_owned();
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "not a folder").unwrap();
        assert!(lease.renew().is_err());
        let begun = Instant::now();
        assert_eq!(lease.check(Duration::ZERO), Held::No);
        assert!(begun.elapsed() > LENGTH);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_name_without_a_count_is_no_lease() {
        assert!(Lease::at(Path::new("stream"), LENGTH).is_err());
        assert!(Lease::at(Path::new("a.b"), LENGTH).is_err());
    }
}
