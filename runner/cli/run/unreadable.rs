//! The parts of an events.jsonl that cannot be read, and how they are put aside.

use crate::error::CliError;
use crate::run::orphan::lock_stream;
use crate::show::table;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Number of parts that are kept separate; after these, all the rest counts as one.
const MAX_PARTS: usize = 10_000;

/// Parts of a file, by their bytes.
#[derive(Debug)]
pub(crate) struct Unreadable {
    path: PathBuf,
    parts: Vec<Range<u64>>,
    /// The rest of the file, if there are more than `MAX_PARTS` parts.
    rest: Option<Range<u64>>,
    /// The first part: number of the line, and what is wrong.
    first: Option<(u64, String)>,
    /// Number of the line that came last.
    last_line: u64,
    n_lines: u64,
    /// Whether the path has something other than a file.
    is_not_a_file: bool,
}

impl Unreadable {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            parts: Vec::new(),
            rest: None,
            first: None,
            last_line: 0,
            n_lines: 0,
            is_not_a_file: false,
        }
    }

    /// Adds a line, or a part of one.
    pub(crate) fn add(&mut self, line: u64, bytes: Range<u64>, reason: &dyn fmt::Display) {
        if self.first.as_ref().is_none_or(|(first, _)| line < *first) {
            self.first = Some((line, reason.to_string()));
        }
        self.n_lines += u64::from(line != self.last_line);
        self.last_line = line;
        let is_full = self.parts.len() == MAX_PARTS;
        match self.parts.last_mut() {
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            _ if is_full => self.rest = Some(bytes.start..u64::MAX),
            _ => self.parts.push(bytes),
        }
    }

    /// Adds the whole path, which is not a file.
    pub(crate) fn add_all(&mut self) {
        self.is_not_a_file = true;
    }

    /// Whether there is nothing more to read.
    pub(crate) fn is_all_the_rest(&self) -> bool {
        self.is_not_a_file || self.rest.is_some()
    }

    /// Moves the parts into a new file next to it, and leaves the rest; gives what to tell the user. While a
    /// worker has the folder nothing is done, and the next run does it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(crate) fn put_aside(&self) -> Result<Option<String>, CliError> {
        if self.parts.is_empty() && !self.is_not_a_file {
            return Ok(None);
        }
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let Some(_lock) = lock_stream(dir)? else {
            return Ok(None);
        };
        let moved = if self.is_not_a_file {
            rename_aside(&self.path)
        } else {
            self.split(dir)
        };
        let aside = moved.map_err(|error| {
            CliError::io("put aside the unreadable part of", &self.path, &error).with_hint(
                "free space, or move the file away; `--fresh` continues without it".to_owned(),
            )
        })?;
        Ok(Some(self.note(&aside)))
    }

    fn note(&self, aside: &Path) -> String {
        let what = match &self.first {
            Some((line, reason)) => {
                let n_lines = usize::try_from(self.n_lines).unwrap_or(usize::MAX);
                let rest = if self.is_all_the_rest() {
                    " and all after them"
                } else {
                    ""
                };
                let n_lines = table::count(n_lines, "line") + rest;
                format!("{n_lines} cannot be read, from line {line} on: {reason}")
            }
            None => "it is not a file".to_owned(),
        };
        table::escaped(&format!(
            "`{}`: {what}; put aside as `{}`. What the database already has from it is kept, and its jobs continue from \
             their last checkpoints",
            self.path.display(),
            aside.display()
        ))
    }

    /// Writes both files under other names, then gives them their names: first the new one, so that nothing is ever
    /// in neither.
    fn split(&self, dir: &Path) -> io::Result<PathBuf> {
        let mut file = File::open(&self.path)?;
        let n_bytes = file.metadata()?.len();
        let (aside, kept) = self.halves(n_bytes);
        let aside = copy(&mut file, &aside, dir)?;
        let kept = copy(&mut file, &kept, dir)?;
        let aside = persist_aside(aside, &self.path)?;
        kept.persist(&self.path)?;
        Ok(aside)
    }

    /// What is put aside of a file, and what is kept, in the order of the file.
    fn halves(&self, n_bytes: u64) -> (Vec<Range<u64>>, Vec<Range<u64>>) {
        let mut parts: Vec<_> = self.parts.iter().chain(&self.rest).cloned().collect();
        parts.sort_by_key(|part| part.start);
        let (mut aside, mut kept) = (Vec::new(), Vec::new());
        let mut end = 0;
        for part in parts {
            let start = part.start.clamp(end, n_bytes);
            kept.push(end..start);
            end = part.end.clamp(start, n_bytes);
            aside.push(start..end);
        }
        kept.push(end..n_bytes);
        (aside, kept)
    }
}

/// A new file in `dir` with those bytes of `file`, synced.
fn copy(file: &mut File, ranges: &[Range<u64>], dir: &Path) -> io::Result<NamedTempFile> {
    let mut copy = tempfile::Builder::new()
        .prefix(".events")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)?;
    let mut writer = BufWriter::new(copy.as_file_mut());
    for range in ranges {
        file.seek(SeekFrom::Start(range.start))?;
        let part = Read::by_ref(file).take(range.end - range.start);
        io::copy(&mut BufReader::new(part), &mut writer)?;
    }
    writer.flush()?;
    drop(writer);
    copy.as_file().sync_all()?;
    Ok(copy)
}

/// Gives a file the next name for what cannot be read that nothing has.
fn persist_aside(mut file: NamedTempFile, path: &Path) -> io::Result<PathBuf> {
    for name in names(path) {
        match file.persist_noclobber(&name) {
            Ok(_) => return Ok(name),
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => file = error.file,
            Err(error) => return Err(error.error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// The same for what is at `path` itself.
pub(crate) fn rename_aside(path: &Path) -> io::Result<PathBuf> {
    let is_free = |name: &PathBuf| fs::symlink_metadata(name).is_err();
    let name = names(path).find(is_free).ok_or(ErrorKind::AlreadyExists)?;
    fs::rename(path, &name)?;
    Ok(name)
}

fn names(path: &Path) -> impl Iterator<Item = PathBuf> {
    (1..u32::MAX).map(move |n| path.with_added_extension(format!("unreadable-{n}")))
}
