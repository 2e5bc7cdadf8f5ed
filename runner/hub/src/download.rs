//! Files on their way from the Hub into the cache. A file gets its final name when the whole file is
//! there and is what the Hub says it is.

use crate::cache::RepoCache;
use crate::content::Contents;
use crate::context::Context;
use crate::digest::{self, Etag};
use crate::pace::Pace;
use crate::progress::Event;
use crate::retry::{Tried, retry};
use crate::tree::{self, RemoteFile};
use crate::words::size;
use crate::{HubError, refusal};
use fault::Fault;
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

/// Downloads of files of one commit.
pub(crate) struct Download<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) cache: &'a RepoCache,
    pub(crate) commit: &'a str,
    contents: Contents<'a>,
    /// What happens to which file, by its index.
    events: Sender<(usize, Event)>,
}

impl<'a> Download<'a> {
    pub(crate) fn new(
        context: &'a Context<'a>,
        cache: &'a RepoCache,
        commit: &'a str,
        events: Sender<(usize, Event)>,
    ) -> Self {
        Self {
            context,
            cache,
            commit,
            contents: Contents::new(context, commit),
            events,
        }
    }

    /// Brings files into the cache, several at a time; gives up at the first that fails.
    pub(crate) async fn all(&self, files: &[RemoteFile]) -> Result<(), HubError> {
        tree::check_sizes(self.context, files)?;
        self.check_space(files, files::free_bytes(&self.cache.blobs()))?;
        for (index, file) in files.iter().enumerate() {
            self.tell(index, Event::Wanted(file.n_bytes));
        }
        let one = |(index, file)| self.one(index, file);
        stream::iter(files.iter().enumerate().map(one))
            .buffer_unordered(MAX_PARALLEL)
            .try_collect()
            .await
    }

    /// Whether there is room for the files that are not in the cache yet. If it is not known how much room there is, it
    /// is tried.
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
            Some(free_bytes) => Err(self.no_space(needed_bytes, free_bytes)),
        }
    }

    fn no_space(&self, needed_bytes: u64, free_bytes: u64) -> HubError {
        let fault = Fault::input(format!(
            "`{}` needs {} more in the cache `{}`, where {} are free",
            self.context.repo.as_str(),
            size(needed_bytes),
            self.context.settings.cache_dir.display(),
            size(free_bytes)
        ));
        let hint = "free space there, or name a folder of another disk in `HF_HUB_CACHE`";
        HubError::Fault(fault.with_hint(hint))
    }

    /// Bytes of a content that are to be downloaded.
    fn missing_bytes(&self, file: &RemoteFile, etag: &Etag) -> u64 {
        if self.cache.blob(etag).exists() {
            return 0;
        }
        let there = fs::metadata(self.cache.partial(etag)).map_or(0, |partial| partial.len());
        // One that is too long is downloaded again from its first byte.
        file.n_bytes.checked_sub(there).unwrap_or(file.n_bytes)
    }

    async fn one(&self, index: usize, file: &RemoteFile) -> Result<(), HubError> {
        let etag = file.etag.as_ref();
        let etag = etag.ok_or_else(|| refusal::nameless(self.context, &file.name))?;
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
        // If no one listens any more, that is not a reason to stop.
        let _ = self.events.send((index, event));
    }

    /// Keeps other processes, Python's too, from downloading the same. Not all file systems can; then two may do the
    /// same work, and what arrives is still checked.
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

    /// Downloads a content. What an earlier process left is resumed. If that does not give the file, it is
    /// downloaded again from its first byte, into a file that no other process knows.
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
            Some(reason) => {
                let (file, repo) = (&file.name, self.context.repo.as_str());
                let text = format!("`{file}` of `{repo}` arrived damaged: {reason}");
                let hint = "it was removed; run this again to download it again";
                Err(HubError::Fault(Fault::input(text).with_hint(hint)))
            }
        }
    }

    /// Downloads what is missing of the file at `path`, and says what is wrong with it then.
    async fn attempt(
        &self,
        index: usize,
        file: &RemoteFile,
        etag: &Etag,
        path: &Path,
    ) -> Result<Option<String>, HubError> {
        self.fill(index, file, path).await?;
        let n_bytes = file.n_bytes;
        let (hashed, owned_path) = (etag.clone(), path.to_owned());
        // On another thread: hashing takes seconds, in which other files would seem to stop.
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
    /// is resumed where it ended, as long as there is progress.
    async fn fill(&self, index: usize, file: &RemoteFile, path: &Path) -> Result<(), HubError> {
        let mut partial = Partial::open(path)?;
        if partial.n_bytes > file.n_bytes {
            partial.empty()?;
        }
        if partial.n_bytes < file.n_bytes {
            let attempt = async || self.receive_more(index, file, &mut partial).await;
            retry(self.context, attempt).await?;
        }
        let synced = partial.file.sync_all();
        synced.map_err(HubError::io("write", path))
    }

    /// Receives what is missing of a file.
    async fn receive_more(
        &self,
        index: usize,
        file: &RemoteFile,
        partial: &mut Partial<'_>,
    ) -> Tried<Result<(), HubError>> {
        if !partial.can_resume
            && let Err(error) = partial.empty()
        {
            return Tried::Done(Err(error));
        }
        let first_byte = partial.n_bytes;
        let outcome = self.receive(index, file, partial).await;
        if partial.n_bytes > file.n_bytes && first_byte > 0 {
            // It cannot begin in the middle, and sent everything.
            partial.can_resume = false;
        } else if partial.n_bytes >= file.n_bytes {
            return Tried::Done(Ok(()));
        }
        // Less would be a trickle, one piece an answer.
        let n_new = partial.n_bytes.saturating_sub(first_byte);
        let is_progress = n_new >= self.context.settings.limits.least_progress();
        match &outcome {
            // That was waited for as long as may be.
            Err(HubError::RateLimited(_)) => Tried::Done(outcome),
            Err(error) if !error.is_of_the_way() => Tried::Done(outcome),
            _ if is_progress && partial.can_resume => Tried::Further(outcome),
            _ => Tried::Again {
                outcome,
                wait: None,
            },
        }
    }

    async fn receive(
        &self,
        index: usize,
        file: &RemoteFile,
        partial: &mut Partial<'_>,
    ) -> Result<(), HubError> {
        let mut bytes = self.contents.bytes(file, partial.n_bytes).await?;
        let mut pace = Pace::new(&self.context.settings.limits);
        loop {
            let piece = pace.watch(self.contents.next(&mut bytes)).await;
            let piece = piece.ok_or_else(|| refusal::too_slow(self.context))?;
            let Some(piece) = piece? else {
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

/// A file of which the first bytes are there.
///
/// Bytes are written where they belong, not appended: if locks do not work, another process may
/// write to the same file, and writes the same.
struct Partial<'a> {
    path: &'a Path,
    file: File,
    n_bytes: u64,
    /// Whether the Hub can begin in the middle of the file.
    can_resume: bool,
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
            can_resume: true,
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

/// An empty file next to `partial`, removed when it is not renamed.
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
