//! Writing to what a user names.

use crate::path::{beside, dir_of};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A file that a user named for output.
///
/// A plain file, or a path without a file: it is written next to its path and renamed by
/// [`OutputFile::finish`], so nothing changes if that is not called. A link to such a file stays a link. A device, a pipe, a link to one or
/// to nothing: it is written through. `-`: standard output.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    /// `None`: it is written through.
    rename: Option<Rename>,
}

/// What is written next to its path.
#[derive(Debug)]
struct Rename {
    beside: PathBuf,
    path: PathBuf,
}

impl Drop for Rename {
    fn drop(&mut self) {
        // After the rename it is not there; else whatever led here is the error to tell.
        let _ = fs::remove_file(&self.beside);
    }
}

impl OutputFile {
    /// Begins to write.
    ///
    /// # Errors
    /// A folder, or a file that cannot be made or written to.
    pub fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(Self { file, rename: None });
        }
        let Some(path) = replaceable(path)? else {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)?;
            return Ok(Self { file, rename: None });
        };
        let beside = beside(&path);
        let file = File::create(&beside)?;
        let rename = Some(Rename { beside, path });
        Ok(Self { file, rename })
    }

    /// Another handle of the file, at the same offset in it.
    ///
    /// # Errors
    /// Too many open files.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Puts what was written at its path; it is on the disk then.
    ///
    /// # Errors
    /// A full disk, or a path that is a folder by now.
    pub fn finish(self) -> io::Result<()> {
        let Some(rename) = &self.rename else {
            return Ok(());
        };
        self.file.sync_all()?;
        crate::check_lease();
        fs::rename(&rename.beside, &rename.path)?;
        File::open(dir_of(&rename.path))?.sync_all()
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The file to replace by renaming; `None`: write through to what is at `path`.
fn replaceable(path: &Path) -> io::Result<Option<PathBuf>> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let is_link = path.is_symlink();
            return Ok((!is_link).then(|| path.to_owned()));
        }
        Err(error) => return Err(error),
    };
    if metadata.is_dir() {
        return Err(io::Error::new(ErrorKind::IsADirectory, "it is a folder"));
    }
    // A link of /dev or /proc is another process's open file: it has that one, not the name.
    let is_handle = ["/dev", "/proc"].iter().any(|dir| path.starts_with(dir));
    if !metadata.is_file() || is_handle {
        return Ok(None);
    }
    if path.is_symlink() {
        path.canonicalize().map(Some)
    } else {
        Ok(Some(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::process::Command;
    use std::thread;

    fn put(path: &Path, text: &str) -> io::Result<()> {
        let mut file = OutputFile::create(path)?;
        file.write_all(text.as_bytes())?;
        file.finish()
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_plain_file_is_replaced_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        put(&path, "old").unwrap();
        let mut unfinished = OutputFile::create(&path).unwrap();
        unfinished.write_all(b"half").unwrap();
        assert_eq!(names(dir.path()), [".out.tmp", "out"]);
        drop(unfinished);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        put(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn links_stay_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("web")).unwrap();
        fs::write(path("web/page"), "old").unwrap();
        symlink("web/page", path("link")).unwrap();
        symlink("web/none", path("dangling")).unwrap();
        put(&path("link"), "new").unwrap();
        put(&path("dangling"), "made").unwrap();
        assert_eq!(fs::read_to_string(path("web/page")).unwrap(), "new");
        assert_eq!(fs::read_to_string(path("web/none")).unwrap(), "made");
        assert!(path("link").is_symlink() && path("dangling").is_symlink());
        assert_eq!(names(&path("web")), ["none", "page"]);
    }

    #[test]
    fn devices_and_pipes_are_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        symlink("/dev/null", path("null")).unwrap();
        let made = Command::new("mkfifo").arg(path("pipe")).status().unwrap();
        assert!(made.success());
        let pipe = path("pipe");
        let reader = thread::spawn(move || fs::read_to_string(pipe).unwrap());
        put(&path("null"), "gone").unwrap();
        put(&path("pipe"), "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        let null = path("null").metadata().unwrap().file_type();
        let pipe = path("pipe").metadata().unwrap().file_type();
        assert!(null.is_char_device() && pipe.is_fifo());
        assert_eq!(names(dir.path()), ["null", "pipe"]);
    }

    #[test]
    fn a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = put(dir.path(), "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IsADirectory);
    }
}
