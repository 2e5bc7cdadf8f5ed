//! Reading plain files.

use crate::lfs::refuse_pointer;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a plain file for reading; links are followed.
///
/// # Errors
/// A file that cannot be opened; a folder, a pipe, a socket or a device; a pointer of Git LFS.
pub fn open(path: &Path) -> io::Result<File> {
    // To open some devices is to use them, so a look comes first.
    must_be_plain(path.metadata()?.file_type())?;
    // What is there may have changed since. Without this flag, opening a pipe that has no writer would wait;
    // for a plain file the flag means nothing.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    must_be_plain(file.metadata()?.file_type())?;
    refuse_pointer(&file)?;
    Ok(file)
}

/// Opens a plain file of at most `bound` bytes.
///
/// # Errors
/// As [`open`]; a file that is longer.
pub fn open_within(path: &Path, bound: u64) -> io::Result<File> {
    let file = open(path)?;
    match file.metadata()?.len() {
        n_bytes if n_bytes > bound => Err(too_long(n_bytes, bound)),
        _ => Ok(file),
    }
}

/// The bytes of a plain file of at most `bound` bytes.
///
/// # Errors
/// As [`open_within`].
pub fn read(path: &Path, bound: u64) -> io::Result<Vec<u8>> {
    let file = open_within(path, bound)?;
    let n_bytes = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(n_bytes as usize);
    // It may grow meanwhile, and files of /proc have no length at all.
    file.take(bound.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bound {
        Err(too_long(bytes.len() as u64, bound))
    } else {
        Ok(bytes)
    }
}

/// The text of a plain file of at most `bound` bytes.
///
/// # Errors
/// As [`read`]; a file that is not UTF-8.
pub fn read_text(path: &Path, bound: u64) -> io::Result<String> {
    String::from_utf8(read(path, bound)?)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

fn must_be_plain(file_type: FileType) -> io::Result<()> {
    let what = match file_type {
        of if of.is_file() => return Ok(()),
        of if of.is_dir() => "a folder",
        of if of.is_fifo() => "a pipe",
        of if of.is_socket() => "a socket",
        _ => "a device",
    };
    let message = format!("it is {what}, not a plain file");
    Err(io::Error::new(ErrorKind::InvalidInput, message))
}

fn too_long(n_bytes: u64, bound: u64) -> io::Error {
    let message = format!("it has {n_bytes} bytes or more; at most {bound} are read");
    io::Error::new(ErrorKind::FileTooLarge, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    fn reason(path: &Path) -> String {
        read(path, 10).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a"), dir.path().join("link"));
        fs::write(&path, "0123456789").unwrap();
        symlink("a", &link).unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read_text(&link, 10).unwrap(), "0123456789");
        let error = read(&path, 9).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(
            error.to_string(),
            "it has 10 bytes or more; at most 9 are read"
        );
        fs::write(&path, [0xE9]).unwrap();
        assert_eq!(
            read_text(&path, 10).unwrap_err().kind(),
            ErrorKind::InvalidData
        );
        assert_eq!(
            read(&dir.path().join("absent"), 1).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn a_file_without_a_length_is_read_and_bounded() {
        let path = Path::new("/proc/self/status");
        assert!(
            read_text(path, bound())
                .unwrap()
                .contains(&std::process::id().to_string())
        );
        assert_eq!(read(path, 3).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    fn bound() -> u64 {
        crate::bound::SETTINGS
    }

    #[test]
    fn what_is_no_plain_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("/dev/zero", path("zero")).unwrap();
        let made = Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        let _socket = UnixListener::bind(path("socket")).unwrap();
        for (name, what) in [
            ("zero", "a device"),
            ("pipe", "a pipe"),
            ("socket", "a socket"),
            ("", "a folder"),
        ] {
            let expected = format!("it is {what}, not a plain file");
            assert_eq!(reason(&path(name)), expected);
        }
    }
}
