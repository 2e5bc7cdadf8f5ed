//! Room on the GPUs of this machine, which all its `sae-run` share, whatever their runs folders: so that two of them do not
//! put more on one GPU than it holds. On the CPU they run next to each other.
//!
//! Each GPU has a folder with a file for each stream that trains on it. The file's name says how many bytes the stream is
//! predicted to take, and it is locked as long as it counts: what a killed process leaves counts no more.

use crate::error::CliError;
use crate::sweep::device_memory::Gpu;
use files::{Claim, LockHolder};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// In the folder of temporary files that all users have.
const FOLDER: &str = "/tmp/sae-run-gpus";
/// Held for the moment in which a GPU's folder is looked at.
const LOCK: &str = "lock";

/// Where room is taken.
#[derive(Clone, Debug)]
pub(crate) struct GpuRooms {
    folder: PathBuf,
}

/// Room that was taken, until this ends.
#[derive(Debug, Default)]
pub(crate) struct Room {
    _files: Vec<Claim>,
}

/// What others have of a GPU on which there is too little room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) n_bytes: u64,
    /// One of the processes, for the user.
    pub(crate) holder: String,
}

impl GpuRooms {
    /// Those of this machine.
    pub(crate) fn of_machine() -> Self {
        Self {
            folder: FOLDER.into(),
        }
    }

    /// Takes `n_bytes` on each of `gpus`, on which streams may take `most_bytes` together; what is free is taken
    /// whatever is asked for.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub(crate) fn take(
        &self,
        gpus: &[Gpu],
        (n_bytes, most_bytes): (u64, u64),
    ) -> Result<Result<Room, Taken>, CliError> {
        let mut files = Vec::with_capacity(gpus.len());
        for gpu in gpus {
            let folder = self.folder.join(&gpu.uuid);
            let taken = self.take_one(&folder, n_bytes, most_bytes);
            match taken.map_err(|error| CliError::io("use", &folder, &error))? {
                Ok(file) => files.push(file),
                Err(taken) => return Ok(Err(taken)),
            }
        }
        Ok(Ok(Room { _files: files }))
    }

    fn take_one(
        &self,
        folder: &Path,
        n_bytes: u64,
        most_bytes: u64,
    ) -> io::Result<Result<Claim, Taken>> {
        make_for_all(&self.folder)?;
        make_for_all(folder)?;
        let lock = open_for_all(&folder.join(LOCK))?;
        // The folder's files do not change while this is held, except that some may go.
        lock.lock()?;
        if let Some(taken) = taken(folder)?
            && taken.n_bytes.saturating_add(n_bytes) > most_bytes
        {
            return Ok(Err(taken));
        }
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}-{n_bytes}", std::process::id());
        let path = folder.join(name);
        let claim = Claim::take(&path)?.ok_or(ErrorKind::AlreadyExists)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(Ok(claim))
    }
}

/// What running streams have of the GPU whose folder this is; `None`: no stream. Removes what killed processes left.
fn taken(folder: &Path) -> io::Result<Option<Taken>> {
    let mut sum: Option<Taken> = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let n_bytes = name
            .rsplit('-')
            .next()
            .and_then(|bytes| bytes.parse::<u64>().ok());
        let Some(n_bytes) = n_bytes.filter(|_| name != LOCK) else {
            continue;
        };
        if !Claim::is_held(&path) {
            // That of another user only that user can remove.
            let _ = fs::remove_file(&path);
            continue;
        }
        let before = sum.as_ref().map_or(0, |taken| taken.n_bytes);
        sum = Some(Taken {
            n_bytes: before.saturating_add(n_bytes),
            holder: LockHolder::describe(&path),
        });
    }
    Ok(sum)
}

/// Makes a folder that every user may write to, and remove from it what is theirs.
fn make_for_all(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o1777)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a file that every user may lock; makes it if it is missing. To lock a file it need not be written.
fn open_for_all(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o644).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => File::open(path),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms() -> (tempfile::TempDir, GpuRooms) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("gpus");
        (dir, GpuRooms { folder })
    }

    fn gpu(uuid: &str) -> Gpu {
        Gpu { uuid: uuid.into() }
    }

    #[test]
    fn streams_share_a_gpu_up_to_its_memory() {
        let (_dir, rooms) = rooms();
        let (one, two) = ([gpu("GPU-1")], [gpu("GPU-2")]);
        let first = rooms.take(&one, (60, 100)).unwrap().unwrap();
        let second = rooms.take(&one, (40, 100)).unwrap().unwrap();
        let taken = rooms.take(&one, (1, 100)).unwrap().unwrap_err();
        assert_eq!(taken.n_bytes, 100);
        assert!(taken.holder.contains(&std::process::id().to_string()));
        rooms.take(&two, (1, 100)).unwrap().unwrap();
        drop(first);
        rooms.take(&one, (60, 100)).unwrap().unwrap();
        drop(second);
        // Alone, a stream is begun whatever was predicted.
        let large = rooms.take(&one, (500, 100)).unwrap().unwrap();
        assert!(rooms.take(&one, (1, 100)).unwrap().is_err());
        drop(large);
    }

    #[test]
    fn ranks_take_all_their_gpus_or_none() {
        let (_dir, rooms) = rooms();
        let second = rooms.take(&[gpu("GPU-2")], (80, 100)).unwrap().unwrap();
        let both = [gpu("GPU-1"), gpu("GPU-2")];
        rooms.take(&both, (80, 100)).unwrap().unwrap_err();
        drop(rooms.take(&[gpu("GPU-1")], (80, 100)).unwrap().unwrap());
        drop(second);
        rooms.take(&both, (80, 100)).unwrap().unwrap();
    }

    #[test]
    fn what_a_killed_process_left_takes_no_room() {
        let (_dir, rooms) = rooms();
        drop(rooms.take(&[gpu("GPU-1")], (1, 100)).unwrap().unwrap());
        let left = rooms.folder.join("GPU-1/4194305-0-100");
        fs::write(&left, "4194305 here").unwrap();
        rooms.take(&[gpu("GPU-1")], (1, 100)).unwrap().unwrap();
        assert!(!left.exists());
    }
}
