//! The folder for files that are written to be uploaded. It is removed with the process; if that was killed, the next
//! process removes it.
//!
//! ```text
//! runs/.publish/.lock             held while folders are made and looked through
//! runs/.publish/staging-*/        of one process each, for no other user to read
//! runs/.publish/staging-*/.lock   held as long as that process lives
//! ```

use crate::error::CliError;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Name of the folder within the runs folder: no sweep has such a name.
const SHELF: &str = ".publish";
const LOCK: &str = ".lock";
const PREFIX: &str = "staging-";
/// For the user alone: no one else may see the weights of a private repository.
const OWN_FOLDER: u32 = 0o700;
const OWN_FILE: u32 = 0o600;

/// A folder of this process's own.
#[derive(Debug)]
pub(super) struct Staging {
    // Before the lock: it is removed while no other process can take it for an abandoned folder.
    dir: TempDir,
    _lock: File,
}

impl Staging {
    /// Makes the folder, and removes those of processes that were killed.
    ///
    /// # Errors
    /// A runs folder that cannot be written.
    pub(super) fn make(runs_dir: &Path) -> Result<Self, CliError> {
        let shelf = runs_dir.join(SHELF);
        Self::make_on(&shelf).map_err(|error| CliError::io("make a folder in", &shelf, &error))
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn make_on(shelf: &Path) -> io::Result<Self> {
        make_shelf(shelf)?;
        // No other process sees a folder without its lock.
        let guard = open_lock(shelf)?;
        guard.lock()?;
        for dir in left_behind(shelf)? {
            fs::remove_dir_all(dir)?;
        }
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(OWN_FOLDER))
            .tempdir_in(shelf)?;
        let lock = open_lock(dir.path())?;
        lock.lock()?;
        Ok(Self { dir, _lock: lock })
    }
}

fn make_shelf(shelf: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(OWN_FOLDER).create(shelf) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if fs::symlink_metadata(shelf)?.is_dir() {
        fs::set_permissions(shelf, Permissions::from_mode(OWN_FOLDER))
    } else {
        Err(io::Error::new(
            ErrorKind::NotADirectory,
            "it is not a folder",
        ))
    }
}

/// The lock of a folder, which is made if it is missing.
fn open_lock(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true);
    options.mode(OWN_FILE).open(dir.join(LOCK))
}

/// The folders whose process is certainly gone: no one holds their locks.
fn left_behind(shelf: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(shelf)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && entry.file_type()?.is_dir() && open_lock(&entry.path())?.try_lock().is_ok() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn folders(runs_dir: &Path) -> usize {
        let entries = fs::read_dir(runs_dir.join(SHELF)).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    }

    #[test]
    fn a_folder_is_ones_own_and_goes_with_its_process() {
        let runs_dir = tempfile::tempdir().unwrap();
        let one = Staging::make(runs_dir.path()).unwrap();
        let other = Staging::make(runs_dir.path()).unwrap();
        assert_eq!(mode(one.path()), 0o700);
        assert_eq!(mode(&runs_dir.path().join(SHELF)), 0o700);
        assert!(one.path().is_dir(), "that of a live process was removed");
        assert_eq!(folders(runs_dir.path()), 2);
        drop((one, other));
        assert_eq!(folders(runs_dir.path()), 0);
    }

    #[test]
    fn what_was_left_behind_is_removed_and_nothing_else() {
        let runs_dir = tempfile::tempdir().unwrap();
        let shelf = runs_dir.path().join(SHELF);
        // Killed between the folder and its lock, and killed later.
        fs::create_dir_all(shelf.join("staging-a")).unwrap();
        fs::create_dir_all(shelf.join("staging-b/sparsify/1")).unwrap();
        fs::write(shelf.join("staging-b/.lock"), "").unwrap();
        fs::create_dir_all(shelf.join("notes")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), shelf.join("staging-link")).unwrap();
        let staging = Staging::make(runs_dir.path()).unwrap();
        assert!(!shelf.join("staging-a").exists() && !shelf.join("staging-b").exists());
        assert!(shelf.join("notes").is_dir() && elsewhere.path().is_dir());
        assert_eq!(mode(&shelf), 0o700);
        drop(staging);
    }

    #[test]
    fn a_link_in_place_of_the_folder_is_refused() {
        let (runs_dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(elsewhere.path(), runs_dir.path().join(SHELF)).unwrap();
        Staging::make(runs_dir.path()).unwrap_err();
    }
}
