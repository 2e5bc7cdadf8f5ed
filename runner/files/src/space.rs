//! Whether a disk has room for what is to be written.

use std::path::Path;

/// Bytes that the file system of `folder`, or of the first folder above it that exists, has left for
/// any user; `None` if it does not say.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let space = rustix::fs::statvfs(there).ok()?;
    // File systems of networks may count nothing.
    (space.f_blocks > 0).then(|| space.f_bavail.saturating_mul(space.f_frsize))
}

/// `None`: this system is not asked.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_space_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b/c");
        let free = free_bytes(&below).unwrap();
        assert!((1..u64::MAX / 2).contains(&free), "{free}");
    }
}
