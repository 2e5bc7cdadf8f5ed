//! The cache that Python's huggingface_hub shares: where a repository's files are in it.
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION            the commit that a branch or tag last meant
//! models--OWNER--NAME/blobs/ETAG               contents, by the Hub's name for them
//! models--OWNER--NAME/snapshots/COMMIT/FILE    links to them
//! models--OWNER--NAME/.no_exist/COMMIT/FILE    empty: the commit has no such file
//! models--OWNER--NAME/trees/COMMIT.json        all files of the commit, as Python lists them
//! models--OWNER--NAME/.sae-run/COMMIT.json     the same, as this program does
//! .locks/models--OWNER--NAME/ETAG.lock         who downloads it
//! ```
//!
//! Data sets are in `datasets--OWNER--NAME`. FILE may have folders.

use crate::HubError;
use crate::digest::{self, Etag};
use crate::listing::{self, ListedFile, Listing};
use crate::name::{RepoId, is_commit};
use fault::Fault;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A repository's part of the cache.
#[derive(Clone, Debug)]
pub(crate) struct RepoCache {
    repo: RepoId,
    cache_dir: PathBuf,
    dir: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(cache_dir: &Path, repo: &RepoId) -> Self {
        Self {
            repo: repo.clone(),
            cache_dir: cache_dir.into(),
            dir: cache_dir.join(repo.folder()),
        }
    }

    pub(crate) fn repo(&self) -> &RepoId {
        &self.repo
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// The folder of the contents.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }

    pub(crate) fn blob(&self, etag: &Etag) -> PathBuf {
        self.blobs().join(etag.as_str())
    }

    /// What is there of a content that is being downloaded.
    pub(crate) fn partial(&self, etag: &Etag) -> PathBuf {
        let name = format!("{}.sae-run.incomplete", etag.as_str());
        self.blobs().join(name)
    }

    pub(crate) fn lock(&self, etag: &Etag) -> PathBuf {
        let locks = self.cache_dir.join(".locks").join(self.repo.folder());
        locks.join(format!("{}.lock", etag.as_str()))
    }

    /// The commit that a branch or tag last meant.
    pub(crate) fn commit_of(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir.join("refs").join(name)).ok()?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// Remembers what a branch or tag means. A cache that cannot be written is not an error here: it is
    /// the files that count.
    pub(crate) fn remember_commit(&self, name: &str, commit: &str) {
        if self.commit_of(name).as_deref() != Some(commit) {
            let _ = write_whole(&self.dir.join("refs").join(name), commit.as_bytes());
        }
    }

    pub(crate) fn has(&self, commit: &str, file: &str) -> bool {
        self.snapshot(commit).join(file).is_file()
    }

    /// Whether it is known that the commit has no such file.
    pub(crate) fn is_known_absent(&self, commit: &str, file: &str) -> bool {
        let is_unlisted = || {
            self.listing(commit)
                .is_some_and(|listing| !listing.has(file))
        };
        self.absence(commit, file).exists() || is_unlisted()
    }

    /// All files of a commit, if Python has downloaded it.
    pub(crate) fn listing(&self, commit: &str) -> Option<Listing> {
        Listing::read(&self.dir.join("trees").join(format!("{commit}.json")))
    }

    /// All files of a commit, if this program or Python has listed them.
    pub(crate) fn listed_files(&self, commit: &str) -> Option<Vec<ListedFile>> {
        let of_python = || self.listing(commit)?.files();
        listing::read_files(&self.own_listing(commit)).or_else(of_python)
    }

    /// Remembers which files a commit has. That a cache cannot be written is not an error here either.
    pub(crate) fn remember_files(&self, commit: &str, files: &[ListedFile]) {
        let _ = write_whole(&self.own_listing(commit), &listing::written(files));
    }

    /// The files of a commit that are in the cache and have their contents' names, in the order of those
    /// names. There may be others.
    pub(crate) fn cached_files(&self, commit: &str) -> Vec<ListedFile> {
        let snapshot = self.snapshot(commit);
        let mut folders = vec![snapshot.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).into_iter().flatten();
            for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.extend(self.cached_file(&snapshot, &path));
                }
            }
        }
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        files
    }

    fn cached_file(&self, snapshot: &Path, path: &Path) -> Option<ListedFile> {
        Some(ListedFile {
            name: path.strip_prefix(snapshot).ok()?.to_str()?.into(),
            n_bytes: fs::metadata(path).ok()?.len(),
            content_hash: etag_of_link(path)?.content_hash()?,
        })
    }

    fn own_listing(&self, commit: &str) -> PathBuf {
        self.dir.join(".sae-run").join(format!("{commit}.json"))
    }

    /// Remembers that the commit has no such file, so that it is not asked for again.
    pub(crate) fn remember_absence(&self, commit: &str, file: &str) {
        if !self.is_known_absent(commit, file) {
            let _ = write_whole(&self.absence(commit, file), b"");
        }
    }

    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.dir.join(".no_exist").join(commit).join(file)
    }

    /// Makes the content `etag` the file of a commit.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &Etag) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        let n_folders = file.matches('/').count();
        let blobs = Path::new("../../blobs");
        let blobs = (0..n_folders).fold(blobs.to_owned(), |path, _| Path::new("..").join(path));
        let target = blobs.join(etag.as_str());
        let link = |link: &Path| link_or_copy(&target, &self.blob(etag), link);
        make_whole(&path, link, |_| Ok(())).map_err(HubError::io("write", &path))
    }

    /// Checks a file of a snapshot against the name of its content, if it is a link and so has
    /// one. Reads the whole file.
    pub(crate) fn check(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let Some(etag) = etag_of_link(&self.snapshot(commit).join(file)) else {
            return Ok(());
        };
        let path = self.blob(&etag);
        let damage = digest::damage(&path, &etag, None).map_err(HubError::io("read", &path))?;
        damage.map_or(Ok(()), |damage| Err(self.damaged(file, &path, &damage)))
    }

    /// Checks the length of a content in the cache.
    pub(crate) fn check_blob_length(
        &self,
        file: &str,
        etag: &Etag,
        n_bytes: u64,
    ) -> Result<(), HubError> {
        self.check_length(file, self.blob(etag), n_bytes)
    }

    /// Checks the length of a file of a snapshot.
    pub(crate) fn check_file_length(
        &self,
        commit: &str,
        file: &str,
        n_bytes: u64,
    ) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        let path = path.canonicalize().map_err(HubError::io("find", &path))?;
        self.check_length(file, path, n_bytes)
    }

    fn check_length(&self, file: &str, path: PathBuf, expected: u64) -> Result<(), HubError> {
        let got = fs::metadata(&path).map_err(HubError::io("read", &path))?;
        match got.len() {
            got if got == expected => Ok(()),
            got => Err(self.damaged(file, &path, &digest::length_damage(expected, got))),
        }
    }

    fn damaged(&self, file: &str, path: &Path, reason: &str) -> HubError {
        let (repo, path) = (self.repo.as_str(), path.display());
        let text = format!("`{file}` of `{repo}` is damaged in the cache, `{path}`: {reason}");
        HubError::Fault(Fault::input(text).with_hint(format!(
            "delete `{path}` to download it again; to use an edited file, copy its folder and name \
             the copy"
        )))
    }
}

fn etag_of_link(path: &Path) -> Option<Etag> {
    let target = fs::read_link(path).ok()?;
    let folder = target.parent()?.file_name()?;
    (folder == "blobs").then_some(())?;
    Etag::parse(target.file_name()?.to_str()?)
}

/// Links to the content of a snapshot's file, by a path that survives moving the whole cache.
#[cfg(unix)]
fn link_or_copy(target: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    // Some network file systems have no links; Python puts files there too.
    std::os::unix::fs::symlink(target, link).or_else(|_| copy(blob, link))
}

#[cfg(not(unix))]
fn link_or_copy(_: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    copy(blob, link)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to).map(|_| ())
}

/// Writes a file whole or not at all.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    // Not tempfile's own files: those are for their owner alone, and caches are shared.
    make_whole(
        path,
        |path| File::create_new(path),
        |file| file.write_all(content),
    )
}

/// Makes something next to `path`, fills it and moves it there: others meanwhile see the old one or the new one.
fn make_whole<T>(
    path: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
    fill: impl FnOnce(&mut T) -> io::Result<()>,
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut made = tempfile::Builder::new().make_in(folder, make)?;
    fill(made.as_file_mut())?;
    made.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RepoKind;
    use fault::Remedy;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    /// By `printf 'hello\n' | git hash-object --stdin`.
    const ETAG: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

    fn cache(folder: &Path) -> RepoCache {
        RepoCache::new(folder, &RepoId::parse(RepoKind::Model, "a/b").unwrap())
    }

    #[test]
    fn refs_are_commits_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        assert_eq!(cache.commit_of("main"), None);
        cache.remember_commit("refs/pr/1", COMMIT);
        assert_eq!(cache.commit_of("refs/pr/1").as_deref(), Some(COMMIT));
        let path = folder.path().join("models--a--b/refs/refs/pr/1");
        assert_eq!(fs::read_to_string(&path).unwrap(), COMMIT);
        fs::write(path, "../../elsewhere").unwrap();
        assert_eq!(cache.commit_of("refs/pr/1"), None);
    }

    #[test]
    fn a_linked_file_is_checked_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let etag = Etag::parse(ETAG).unwrap();
        fs::create_dir_all(folder.path().join("models--a--b/blobs")).unwrap();
        fs::write(cache.blob(&etag), "hello\n").unwrap();
        assert!(!cache.has(COMMIT, "config.json"));
        for _ in 0..2 {
            cache.link(COMMIT, "config.json", &etag).unwrap();
        }
        assert!(cache.has(COMMIT, "config.json"));
        let target = fs::read_link(cache.snapshot(COMMIT).join("config.json")).unwrap();
        assert_eq!(target, Path::new("../../blobs").join(ETAG));
        cache.check(COMMIT, "config.json").unwrap();
        assert_eq!(fs::read_dir(cache.snapshot(COMMIT)).unwrap().count(), 1);

        fs::write(cache.blob(&etag), "edited").unwrap();
        let error = cache.check(COMMIT, "config.json").unwrap_err();
        let damage = format!("its hash is not {ETAG}");
        assert!(error.to_string().ends_with(&damage), "{error:?}");
        assert!(error.hint().unwrap().contains(ETAG));
    }

    #[test]
    fn links_lead_out_of_folders() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let etag = Etag::parse(ETAG).unwrap();
        fs::create_dir_all(folder.path().join("models--a--b/blobs")).unwrap();
        fs::write(cache.blob(&etag), "hello\n").unwrap();
        for file in ["a/b.txt", "a/b/c/d.txt"] {
            cache.link(COMMIT, file, &etag).unwrap();
            let content = fs::read(cache.snapshot(COMMIT).join(file)).unwrap();
            assert_eq!(content, b"hello\n");
            cache.check(COMMIT, file).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_is_written() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("usual"), "").unwrap();
        cache(folder.path()).remember_commit("main", COMMIT);
        let mode = |path: &str| {
            let metadata = fs::metadata(folder.path().join(path)).unwrap();
            metadata.permissions().mode()
        };
        assert_eq!(mode("models--a--b/refs/main"), mode("usual"));
    }

    #[test]
    fn absent_files_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        assert!(!cache.is_known_absent(COMMIT, "tokenizer.json"));
        cache.remember_absence(COMMIT, "tokenizer.json");
        assert!(cache.is_known_absent(COMMIT, "tokenizer.json"));
        assert!(!cache.is_known_absent(COMMIT, "config.json"));
    }
}
