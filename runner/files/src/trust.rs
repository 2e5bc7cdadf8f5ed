//! Which files only this user can have written: machine code in them is run as it is.
//!
//! A cache may be shared by a group, and be in a folder that the whole group may write to. What is run from it must
//! belong to this user or to root, and be closed to others: the folder, the link to it if it is one, and the file.

use crate::{dir_of, user_id};
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bits of a mode that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// The folders below `cache_dir` where machine code of the kind `name` may be: one for all, and one of this user, in
/// case the first belongs to another user.
pub fn code_folders(cache_dir: &Path, name: &str) -> [PathBuf; 2] {
    let own = format!("{name}-{}", user_id());
    [cache_dir.join(name), cache_dir.join(own)]
}

/// The first of these folders that is this user's and closed to others; made if it is missing.
pub fn own_code_folder(cache_dir: &Path, name: &str) -> Option<PathBuf> {
    fs::create_dir_all(cache_dir).ok()?;
    code_folders(cache_dir, name).into_iter().find(|folder| {
        // Closed whatever the umask is. One that is there stays as it is.
        let _ = DirBuilder::new().mode(0o755).create(folder);
        let is_own = |metadata: Metadata| metadata.uid() == user_id();
        is_closed_folder(folder) && fs::metadata(folder).is_ok_and(is_own)
    })
}

/// Opens a file that only this user or root can have written; `None`: there is no such file.
pub fn open_code(path: &Path) -> Option<File> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if !is_file || !is_closed_folder(path.parent()?) {
        return None;
    }
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    // A second name may be in a folder of another user, who then chose what is here.
    (is_closed(&metadata) && metadata.nlink() == 1).then_some(file)
}

/// Writes a file as a whole, closed to others whatever the umask is, so that [`open_code`] opens it.
///
/// # Errors
/// A folder that cannot be written to, or a full disk.
pub fn write_code(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mode = Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new()
        .permissions(mode)
        .tempfile_in(dir_of(path))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

fn is_closed_folder(folder: &Path) -> bool {
    // The owner of a link decides where it leads.
    let link_is_ours = fs::symlink_metadata(folder).is_ok_and(|link| is_ours(&link));
    let is_closed_folder = |metadata: Metadata| metadata.is_dir() && is_closed(&metadata);
    link_is_ours && fs::metadata(folder).is_ok_and(is_closed_folder)
}

fn is_closed(metadata: &Metadata) -> bool {
    is_ours(metadata) && metadata.mode() & OTHERS_WRITE == 0
}

/// Root could as well replace the program.
fn is_ours(metadata: &Metadata) -> bool {
    [0, user_id()].contains(&metadata.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};
    use tempfile::{TempDir, tempdir};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// A cache with a file in its own folder.
    fn cache() -> (TempDir, PathBuf) {
        let dir = tempdir().unwrap();
        let path = own_code_folder(dir.path(), "wasm").unwrap().join("entry");
        fs::write(&path, "code").unwrap();
        set_mode(&path, 0o644);
        assert!(open_code(&path).is_some());
        (dir, path)
    }

    #[test]
    fn what_others_can_write_is_not_opened() {
        for mode in [0o664, 0o646, 0o666, 0o620, 0o602] {
            let (_dir, path) = cache();
            set_mode(&path, mode);
            assert!(open_code(&path).is_none(), "file {mode:o}");
        }
        for mode in [0o775, 0o757, 0o777, 0o2775, 0o1777] {
            let (_dir, path) = cache();
            set_mode(path.parent().unwrap(), mode);
            assert!(open_code(&path).is_none(), "folder {mode:o}");
        }
    }

    #[test]
    fn links_to_what_others_chose_are_not_followed() {
        let (dir, path) = cache();
        let link = path.with_file_name("link");
        symlink(&path, &link).unwrap();
        assert!(open_code(&link).is_none());
        fs::remove_file(&link).unwrap();
        fs::hard_link(&path, dir.path().join("elsewhere")).unwrap();
        assert!(open_code(&path).is_none());
    }

    #[test]
    fn a_folder_behind_a_link_of_ones_own_is_ones_own() {
        let (dir, path) = cache();
        let other = tempdir().unwrap();
        symlink(dir.path().join("wasm"), other.path().join("wasm")).unwrap();
        assert!(open_code(&other.path().join("wasm/entry")).is_some());
        assert_eq!(
            own_code_folder(other.path(), "wasm").unwrap(),
            other.path().join("wasm")
        );
        drop(path);
    }

    /// Only root can give files away.
    #[test]
    fn what_is_of_another_user_is_not_opened() {
        if user_id() != 0 {
            return;
        }
        let nobody = Some(65534);
        let (_dir, path) = cache();
        chown(&path, nobody, None).unwrap();
        assert!(open_code(&path).is_none());

        let (dir, path) = cache();
        chown(path.parent().unwrap(), nobody, None).unwrap();
        assert!(open_code(&path).is_none());
        assert_eq!(
            own_code_folder(dir.path(), "wasm").unwrap(),
            dir.path().join("wasm-0")
        );

        let (dir, path) = cache();
        let real = dir.path().join("real");
        fs::rename(dir.path().join("wasm"), &real).unwrap();
        symlink(&real, dir.path().join("wasm")).unwrap();
        assert!(open_code(&path).is_some());
        std::os::unix::fs::lchown(dir.path().join("wasm"), nobody, None).unwrap();
        assert!(open_code(&path).is_none());
    }

    #[test]
    fn a_folder_that_others_write_to_is_passed_over_for_one_of_ones_own() {
        let dir = tempdir().unwrap();
        let shared = dir.path().join("wasm");
        fs::create_dir(&shared).unwrap();
        set_mode(&shared, 0o775);
        let own = own_code_folder(dir.path(), "wasm").unwrap();
        assert_eq!(own, dir.path().join(format!("wasm-{}", user_id())));
        set_mode(&own, 0o777);
        assert!(own_code_folder(dir.path(), "wasm").is_none());
    }
}
