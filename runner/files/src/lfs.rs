//! Pointers that Git LFS leaves instead of files that it has not fetched.

use fault::Fault;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How every pointer begins.
const BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/";

/// No pointer is longer, in bytes: the specification says so.
const MAX_BYTES: u64 = 1024;

/// The next step for a file that is only a pointer.
pub const LFS_HINT: &str =
    "fetch the files themselves: `git lfs install`, then `git lfs pull` in that folder";

/// The next step for a file that cannot be read.
pub const READ_HINT: &str = "is the file there, and may you read it?";

/// Why a file cannot be read: it is only a pointer.
#[derive(Debug)]
struct LfsPointer;

impl fmt::Display for LfsPointer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("it is a Git LFS pointer instead of the file itself")
    }
}

impl Error for LfsPointer {}

/// Whether `error` says that a file is only a pointer.
pub fn is_lfs_pointer(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn Error + Send + Sync>::is::<LfsPointer>)
}

/// Makes the error for a file that cannot be read. `hint`: the next step, if it is not a pointer.
pub fn unreadable(
    action: &str,
    path: impl AsRef<Path>,
    hint: &'static str,
) -> impl FnOnce(io::Error) -> Fault {
    let fault = Fault::io(action, path);
    move |error| {
        let hint = if is_lfs_pointer(&error) {
            LFS_HINT
        } else {
            hint
        };
        fault(error).with_hint(hint)
    }
}

/// Refuses a file that is only a pointer. Where it is read from does not change.
///
/// # Errors
/// Such a file, or one that cannot be read.
pub(crate) fn refuse_pointer(file: &File) -> io::Result<()> {
    let n_bytes = file.metadata()?.len();
    if !(BEGINNING.len() as u64..=MAX_BYTES).contains(&n_bytes) {
        return Ok(());
    }
    let mut beginning = [0; BEGINNING.len()];
    let n_read = file.read_at(&mut beginning, 0)?;
    if beginning[..n_read] == *BEGINNING {
        Err(io::Error::new(ErrorKind::InvalidData, LfsPointer))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bound, open, read};
    use std::io::Read;

    const POINTER: &str =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";

    #[test]
    fn a_pointer_is_refused_whatever_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "a.jsonl", "tokenizer.json"] {
            let path = dir.path().join(name);
            std::fs::write(&path, POINTER).unwrap();
            for error in [
                open(&path).unwrap_err(),
                read(&path, bound::SETTINGS).unwrap_err(),
            ] {
                assert!(is_lfs_pointer(&error), "{error}");
                assert!(error.to_string().contains("Git LFS pointer"), "{error}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_one_is_read_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        for text in [
            "",
            "version",
            &POINTER.replace("git-lfs", "lfs"),
            &POINTER.repeat(20),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut got = String::new();
            open(&path).unwrap().read_to_string(&mut got).unwrap();
            assert_eq!(got, text);
        }
    }
}
