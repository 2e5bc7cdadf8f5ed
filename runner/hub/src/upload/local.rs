//! Files of this machine: what they are called at the Hub, and their bytes.

use super::progress::Event;
use super::{FileUpload, UploadFile, UploadSource};
use crate::HubError;
use crate::digest::{self, Etag, hex};
use crate::name::is_path_of_file;
use fault::Fault;
use futures::stream::{self, Stream};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::num::NonZero;
use std::path::Path;
use std::sync::Mutex;
use std::{iter, thread};

/// Files that are longer are never asked for by the name that git gives them.
const MAX_GIT_BYTES: u64 = 64 << 20;

/// Length of the beginning of a file by which the Hub guesses what it is.
const SAMPLE_BYTES: usize = 512;

/// Most files that are hashed at the same time.
const MAX_HASHING: usize = 4;

/// Bytes that are read at once to send them: few enough that progress shows on a slow line.
const SEND_BYTES: u64 = 128 << 10;

/// A file to upload, and what the Hub would call it.
#[derive(Clone, Debug)]
pub(super) struct Local<'a> {
    pub(super) path: &'a str,
    pub(super) source: &'a UploadSource,
    pub(super) n_bytes: u64,
    pub(super) sha256: String,
    /// The name that git gives it, if it is short enough to be in git.
    git: Option<String>,
    pub(super) sample: Vec<u8>,
}

/// Whether the paths can be in one repository.
pub(super) fn check_paths(files: &[UploadFile]) -> Result<(), HubError> {
    let mut seen = BTreeSet::new();
    for UploadFile { path, .. } in files {
        let is_of_git = path
            .split('/')
            .any(|part| part.eq_ignore_ascii_case(".git"));
        if !is_path_of_file(path) || is_of_git {
            let fault = Fault::input(format!("{path:?} is not a path in a repository"));
            return Err(HubError::Fault(fault));
        }
        if !seen.insert(path) {
            let fault = Fault::input(format!("there are two files for `{path}`"));
            return Err(HubError::Fault(fault));
        }
    }
    Ok(())
}

/// Reads files, several at a time.
pub(super) fn hash_all<'a>(
    files: &'a [UploadFile],
    tell: &(impl Fn(Event) + Sync),
) -> Result<Vec<Local<'a>>, HubError> {
    let left = Mutex::new(files.iter().enumerate());
    let hashed = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let next = left.lock().expect("no thread panics here").next();
            let Some((index, file)) = next else {
                return;
            };
            let local = Local::hash(file, |n_bytes| tell(Event::Bytes(index, n_bytes)));
            tell(Event::Done(index));
            hashed.lock().expect("nor here").insert(index, local);
        }
    };
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..n_threads.min(MAX_HASHING) {
            scope.spawn(work);
        }
    });
    let hashed = hashed.into_inner().expect("no thread panics");
    hashed.into_values().collect()
}

trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// A file or the bytes to read, and their length.
fn open(source: &UploadSource) -> Result<(Box<dyn ReadSeek>, u64), HubError> {
    match source {
        UploadSource::Bytes(bytes) => {
            Ok((Box::new(Cursor::new(bytes.clone())), bytes.len() as u64))
        }
        UploadSource::File(path) => {
            let file = File::open(path).map_err(HubError::io("open", path))?;
            let metadata = file.metadata().map_err(HubError::io("read", path))?;
            Ok((Box::new(file), metadata.len()))
        }
    }
}

/// The path that errors of a source name.
fn error_path<'a>(path: &'a str, source: &'a UploadSource) -> &'a Path {
    match source {
        UploadSource::Bytes(_) => Path::new(path),
        UploadSource::File(path) => path,
    }
}

impl<'a> Local<'a> {
    /// Reads a file. `on_bytes` receives the number of bytes that were read.
    pub(super) fn hash(
        file: &'a UploadFile,
        mut on_bytes: impl FnMut(u64),
    ) -> Result<Self, HubError> {
        let UploadFile { path, source } = file;
        let (reader, n_bytes) = open(source)?;
        let mut sha256 = Sha256::new();
        let mut git =
            (n_bytes <= MAX_GIT_BYTES).then(|| Sha1::new_with_prefix(format!("blob {n_bytes}\0")));
        let (mut sample, mut done_bytes) = (Vec::new(), 0);
        let read = digest::read_parts(reader, |part| {
            if sample.is_empty() {
                sample.extend_from_slice(&part[..part.len().min(SAMPLE_BYTES)]);
            }
            sha256.update(part);
            if let Some(git) = &mut git {
                git.update(part);
            }
            done_bytes += part.len() as u64;
            on_bytes(done_bytes);
        });
        read.map_err(HubError::io("read", error_path(path, source)))?;
        if done_bytes != n_bytes {
            return Err(changed(path));
        }
        Ok(Self {
            path,
            source,
            n_bytes,
            sha256: hex(&sha256.finalize()),
            git: git.map(|git| hex(&git.finalize())),
            sample,
        })
    }

    /// Whether the Hub's name of a content is that of this file.
    pub(super) fn is_called(&self, etag: &Etag) -> bool {
        let names = [Some(&self.sha256), self.git.as_ref()];
        let mut names = names.into_iter().flatten();
        names.any(|name| name.eq_ignore_ascii_case(etag.as_str()))
    }

    pub(super) fn report(&self, is_new: bool) -> FileUpload {
        FileUpload {
            path: self.path.into(),
            n_bytes: self.n_bytes,
            sha256: self.sha256.clone(),
            is_new,
        }
    }

    /// All of a small file, if it is still the one that was hashed.
    pub(super) fn content(&self) -> Result<Vec<u8>, HubError> {
        let mut content = Vec::new();
        let (reader, _) = open(self.source)?;
        let read = reader.take(self.n_bytes + 1).read_to_end(&mut content);
        read.map_err(HubError::io("read", error_path(self.path, self.source)))?;
        if hex(&Sha256::digest(&content)) == self.sha256 {
            Ok(content)
        } else {
            Err(self.changed())
        }
    }

    /// The `n_bytes` from `first_byte` on, in pieces. `on_bytes` receives the number of bytes read so far.
    pub(super) fn stream(
        &self,
        first_byte: u64,
        n_bytes: u64,
        mut on_bytes: impl FnMut(u64) + Send + 'static,
    ) -> Result<impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static, HubError> {
        let (mut reader, now_bytes) = open(self.source)?;
        if now_bytes != self.n_bytes {
            return Err(self.changed());
        }
        let sought = reader.seek(SeekFrom::Start(first_byte));
        sought.map_err(HubError::io("read", error_path(self.path, self.source)))?;
        let mut done_bytes = 0;
        let piece = move || {
            let mut piece = vec![0; SEND_BYTES.min(n_bytes - done_bytes) as usize];
            if piece.is_empty() {
                return None;
            }
            let read = reader.read_exact(&mut piece);
            done_bytes += piece.len() as u64;
            on_bytes(done_bytes);
            Some(read.map(|()| piece))
        };
        // One piece after the other, each when the one before it is on its way.
        Ok(stream::iter(iter::from_fn(piece)))
    }

    /// Whether the file still holds what was hashed. Reads it whole.
    pub(super) fn is_unchanged(&self) -> bool {
        let hash = || {
            let (reader, _) = open(self.source).ok()?;
            digest::hex_digest(Sha256::new(), reader).ok()
        };
        hash().is_some_and(|sha256| sha256 == self.sha256)
    }

    pub(super) fn changed(&self) -> HubError {
        changed(self.path)
    }
}

fn changed(path: &str) -> HubError {
    let fault = Fault::input(format!("`{path}` was changed while it was uploaded"));
    HubError::Fault(fault.with_hint("run it again when nothing writes to the file"))
}
