//! Removing folders.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Removes a folder, and what an earlier call left of it. A kill in the middle does not leave half a folder
/// under its name.
///
/// # Errors
/// It cannot be removed; a missing folder is not an error.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    let mut name = OsString::from(".removed-");
    name.push(path.file_name().unwrap_or_default());
    let aside = path.with_file_name(name);
    there(fs::remove_dir_all(&aside))?;
    there(fs::rename(path, &aside))?;
    there(fs::remove_dir_all(&aside))
}

fn there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_what_is_left_of_it_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for name in ["a/b", ".removed-a/b"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("file"), "").unwrap();
        }
        remove_dir(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        remove_dir(&path).unwrap();
    }
}
