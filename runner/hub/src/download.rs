//! Files on their way from the Hub into the cache. A file gets its final name when all of it is
//! there and is what the Hub says it is.

use crate::cache::RepoCache;
use crate::digest::{self, Etag};
use crate::pace::Pace;
use crate::remote::{Remote, RemoteFile};
use crate::{Damage, HubError, HubSettings, space, tree};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Files under way at the same time.
const MAX_PARALLEL: usize = 4;

/// How often to look whether another process is done with a file.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// It is to be downloaded, so many bytes.
    Wanted(u64),
    /// Another process downloads it; this one waits.
    Waiting,
    /// So many of its bytes are there.
    Bytes(u64),
    /// It is in the cache.
    Done,
}

/// Downloads of files of one commit.
pub(crate) struct Download<'a> {
    pub(crate) settings: &'a HubSettings,
    pub(crate) remote: &'a Remote<'a>,
    pub(crate) cache: &'a RepoCache,
    pub(crate) commit: &'a str,
    /// What happens to which file, by its index.
    pub(crate) events: Sender<(usize, Event)>,
}

impl Download<'_> {
    /// Brings files into the cache, several at a time; gives up at the first that fails.
    pub(crate) async fn all(&self, files: &[RemoteFile]) -> Result<(), HubError> {
        let asked = self.remote.asked(self.commit);
        tree::check_sizes(files, &asked, self.settings.limits.max_file_bytes)?;
        self.check_space(files, space::free_bytes(&self.cache.blobs()))?;
        for (index, file) in files.iter().enumerate() {
            self.tell(index, Event::Wanted(file.n_bytes));
        }
        let one = |(index, file)| self.one(index, file);
        stream::iter(files.iter().enumerate().map(one))
            .buffer_unordered(MAX_PARALLEL)
            .try_collect()
            .await
    }

    /// Whether there is room for what is not in the cache yet. Where nobody says how much room there is,
    /// it is tried.
    fn check_space(&self, files: &[RemoteFile], free_bytes: Option<u64>) -> Result<(), HubError> {
        let mut counted = HashSet::new();
        let mut needed_bytes: u64 = 0;
        for file in files {
            // The same content is downloaded once.
            if let Some(etag) = file
                .etag
                .as_ref()
                .filter(|etag| counted.insert(etag.as_str()))
            {
                needed_bytes = needed_bytes.saturating_add(self.missing_bytes(file, etag));
            }
        }
        match free_bytes.filter(|&free_bytes| needed_bytes > free_bytes) {
            None => Ok(()),
            Some(free_bytes) => Err(HubError::NoSpace {
                repo: self.cache.repo().as_str().into(),
                folder: self.settings.cache_dir.clone(),
                needed_bytes,
                free_bytes,
            }),
        }
    }

    /// Bytes of a content that are to be downloaded.
    fn missing_bytes(&self, file: &RemoteFile, etag: &Etag) -> u64 {
        if self.cache.blob(etag).exists() {
            return 0;
        }
        let there = fs::metadata(self.cache.partial(etag)).map_or(0, |partial| partial.len());
        // One that is too long is begun anew.
        file.n_bytes.checked_sub(there).unwrap_or(file.n_bytes)
    }

    async fn one(&self, index: usize, file: &RemoteFile) -> Result<(), HubError> {
        let etag = file.etag.as_ref();
        let etag = etag.ok_or_else(|| self.remote.nameless(self.commit, &file.name))?;
        let _lock = self.lock(index, etag).await?;
        // There already: another commit has the same content, or another process was faster.
        if self.cache.blob(etag).exists() {
            self.cache
                .check_blob_length(&file.name, etag, file.n_bytes)?;
        } else {
            self.fetch(index, file, etag).await?;
        }
        self.cache.link(self.commit, &file.name, etag)?;
        self.tell(index, Event::Done);
        Ok(())
    }

    fn tell(&self, index: usize, event: Event) {
        // That nobody listens any more is no reason to stop.
        let _ = self.events.send((index, event));
    }

    /// Keeps other processes, Python's too, from downloading the same. Not all file systems can;
    /// then two may do the same work, and what arrives is checked all the same.
    async fn lock(&self, index: usize, etag: &Etag) -> Result<Option<File>, HubError> {
        let path = self.cache.lock(etag);
        let file = open(&path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {
                    self.tell(index, Event::Waiting);
                    tokio::time::sleep(LOCK_POLL).await;
                }
            }
        }
    }

    /// Downloads a content. What an earlier process left of it is taken up. When that does not give
    /// the file, it is downloaded once more from its first byte, into a file that nobody else
    /// knows.
    async fn fetch(&self, index: usize, file: &RemoteFile, etag: &Etag) -> Result<(), HubError> {
        let blob = self.cache.blob(etag);
        let partial = self.cache.partial(etag);
        if self.attempt(index, file, etag, &partial).await?.is_none() {
            return publish(&partial, &blob);
        }
        fs::remove_file(&partial).map_err(HubError::io("remove", &partial))?;
        let fresh = own_file(&partial)?;
        match self.attempt(index, file, etag, &fresh).await? {
            None => publish(&fresh, &blob),
            Some(reason) => Err(HubError::DamagedDownload {
                repo: self.cache.repo().as_str().into(),
                file: file.name.clone(),
                reason,
            }),
        }
    }

    /// Downloads what is missing of the file at `path`, and says what is wrong with it then.
    async fn attempt(
        &self,
        index: usize,
        file: &RemoteFile,
        etag: &Etag,
        path: &Path,
    ) -> Result<Option<Damage>, HubError> {
        self.fill(index, file, path).await?;
        let n_bytes = file.n_bytes;
        let (hashed, owned_path) = (etag.clone(), path.to_owned());
        // Elsewhere: hashing takes seconds, in which other files would seem to stand still.
        let damage = move || digest::damage(&owned_path, &hashed, Some(n_bytes));
        let damage = tokio::task::spawn_blocking(damage)
            .await
            .expect("hashing a file does not panic");
        match damage {
            Err(error) if is_published(&error, &self.cache.blob(etag)) => Ok(None),
            damage => damage.map_err(HubError::io("read", path)),
        }
    }

    /// Writes to the file at `path` until it is as long as it must be. An answer that breaks off
    /// is taken up where it ended, as long as there is progress.
    async fn fill(&self, index: usize, file: &RemoteFile, path: &Path) -> Result<(), HubError> {
        let mut partial = Partial::open(path)?;
        if partial.n_bytes > file.n_bytes {
            partial.empty()?;
        }
        let mut patience = Patience::new(self.settings);
        while partial.n_bytes < file.n_bytes {
            let first_byte = partial.n_bytes;
            let outcome = self.receive(index, file, &mut partial).await;
            if partial.n_bytes > file.n_bytes && first_byte > 0 {
                // It cannot begin in the middle, and sent everything.
                patience.can_resume = false;
            } else if partial.n_bytes >= file.n_bytes {
                break;
            }
            // Less would be a trickle, one piece an answer.
            let n_new = partial.n_bytes.saturating_sub(first_byte);
            let progress = n_new >= self.settings.limits.least_progress();
            if !patience.lasts(outcome, progress).await? {
                break;
            }
            if !patience.can_resume {
                partial.empty()?;
            }
        }
        let synced = partial.file.sync_all();
        synced.map_err(HubError::io("write", path))
    }

    async fn receive(
        &self,
        index: usize,
        file: &RemoteFile,
        partial: &mut Partial<'_>,
    ) -> Result<(), HubError> {
        let asked = self.remote.asked(self.commit);
        let bytes = self.remote.bytes(self.commit, file, partial.n_bytes);
        let mut bytes = bytes.await?;
        let mut pace = Pace::new(&self.settings.limits);
        loop {
            let piece = pace.watch(bytes.next(&asked)).await;
            let Some(piece) = piece.ok_or_else(|| asked.too_slow())?? else {
                return Ok(());
            };
            pace.count(piece.len());
            partial.append(&piece)?;
            self.tell(index, Event::Bytes(partial.n_bytes));
            if partial.n_bytes > file.n_bytes {
                return Ok(());
            }
        }
    }
}

/// How long to go on with a file whose answers break off.
struct Patience {
    max_failures: u32,
    n_failures: u32,
    first_delay: Duration,
    /// Whether the Hub can begin in the middle of the file.
    can_resume: bool,
}

impl Patience {
    fn new(settings: &HubSettings) -> Self {
        Self {
            max_failures: settings.n_retries,
            n_failures: 0,
            first_delay: settings.retry_delay,
            can_resume: true,
        }
    }

    /// Whether to ask again, after a wait. `outcome`: of the answer that broke off.
    async fn lasts(
        &mut self,
        outcome: Result<(), HubError>,
        progress: bool,
    ) -> Result<bool, HubError> {
        if progress && self.can_resume {
            self.n_failures = 0;
        }
        self.n_failures += 1;
        match outcome {
            // That was waited for as long as may be.
            Err(error @ HubError::RateLimited { .. }) => Err(error),
            Err(error) if !error.is_of_the_way() => Err(error),
            outcome if self.n_failures > self.max_failures => outcome.map(|()| false),
            _ => {
                tokio::time::sleep(self.first_delay * self.n_failures).await;
                Ok(true)
            }
        }
    }
}

/// A file of which the first bytes are there.
///
/// Bytes are written where they belong, not appended: where locks do not work, another process may
/// write to the same file, and writes the same.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    n_bytes: u64,
}

impl<'a> Partial<'a> {
    fn open(path: &'a Path) -> Result<Self, HubError> {
        let mut file = open(path)?;
        let n_bytes = file.seek(SeekFrom::End(0));
        let n_bytes = n_bytes.map_err(HubError::io("read", path))?;
        Ok(Self {
            path,
            file,
            n_bytes,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        let written = self.file.write_all(bytes);
        written.map_err(HubError::io("write", self.path))?;
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }

    fn empty(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(HubError::io("empty", self.path))?;
        self.n_bytes = 0;
        Ok(())
    }
}

/// Gives a whole file its final name.
fn publish(partial: &Path, blob: &Path) -> Result<(), HubError> {
    match fs::rename(partial, blob) {
        Err(error) if is_published(&error, blob) => Ok(()),
        renamed => renamed.map_err(HubError::io("rename", partial)),
    }
}

/// Whether a file is not there because another process has finished and renamed it, which can be
/// where locks do not work.
fn is_published(error: &io::Error, blob: &Path) -> bool {
    error.kind() == io::ErrorKind::NotFound && blob.exists()
}

/// An empty file beside `partial`, removed when it is not renamed.
fn own_file(partial: &Path) -> Result<tempfile::TempPath, HubError> {
    let folder = partial.parent().unwrap_or(Path::new("."));
    let made = tempfile::Builder::new()
        .suffix(".incomplete")
        .make_in(folder, |path| File::create_new(path));
    Ok(made
        .map_err(HubError::io("create a file in", folder))?
        .into_temp_path())
}

/// Opens or creates a file to write to, with the folders above it.
fn open(path: &Path) -> Result<File, HubError> {
    let folder: PathBuf = path.parent().map(Path::to_owned).unwrap_or_default();
    fs::create_dir_all(&folder).map_err(HubError::io("create", &folder))?;
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(path);
    file.map_err(HubError::io("open", path))
}
