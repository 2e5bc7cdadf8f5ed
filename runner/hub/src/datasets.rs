//! Data sets by their id: which commit, which files, and the files that are chosen of them.

use crate::cache::RepoCache;
use crate::digest::Etag;
use crate::download::Download;
use crate::listing::ListedFile;
use crate::name::{RepoId, Revision, is_path_of_file};
use crate::remote::{Remote, RemoteFile};
use crate::words::cut;
use crate::{Hub, HubError, Notice, Progress, RepoKind};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

/// The file that describes a data set, and may say what belongs to which part of it.
const CARD: &str = "README.md";

/// Longest card that is read. From 10 MB on the Hub takes a file for data.
const MAX_CARD_BYTES: u64 = 16 << 20;

/// A data set at a commit: which files it has. Of the files themselves, only the card is in the
/// cache.
#[derive(Clone, Debug)]
pub struct DatasetListing {
    /// The repository's id.
    pub repo: String,
    /// The commit's hash: 40 hexadecimal digits.
    pub commit: String,
    /// Its folder in the cache. There may be none yet.
    pub dir: PathBuf,
    /// All files, in the order of their names.
    pub files: Vec<ListedFile>,
    /// The text of README.md.
    pub card: Option<String>,
    /// What the user should know of how it was found.
    pub notice: Option<Notice>,
}

impl Hub {
    /// The commit that `revision` (a branch, tag or commit; `None`: `main`) of the data set `repo`
    /// means, which files it has, and its card. No other file is downloaded. The revision
    /// `refs/convert/parquet` has the files that the Hub makes of many data sets by itself.
    ///
    /// Of a commit that was listed before, by this program or by Python's `snapshot_download`,
    /// nothing is asked. Offline, or when the Hub cannot say, a branch or tag means what it meant
    /// when it was last asked for.
    ///
    /// # Errors
    /// No such data set, or no access to it; no network, and not in the cache; a file whose path
    /// leads elsewhere; a card that is damaged, too long or no text.
    pub fn dataset_listing(
        &self,
        repo: &str,
        revision: Option<&str>,
    ) -> Result<DatasetListing, HubError> {
        let repo = RepoId::parse(RepoKind::Dataset, repo)?;
        let revision = Revision::parse(&repo, revision)?;
        let cache = RepoCache::new(&self.settings().cache_dir, &repo);
        let (commit, notice) = self.resolve(&cache, &revision)?;
        let files = self.files_of(&cache, &commit)?;
        let card = self.card_of(&cache, &commit, &files)?;
        if let (Revision::Name(name), None) = (&revision, &notice) {
            cache.remember_commit(name, &commit);
        }
        Ok(DatasetListing {
            repo: repo.as_str().into(),
            dir: cache.snapshot(&commit),
            commit,
            files,
            card,
            notice,
        })
    }

    /// Downloads the files `names` of a data set as far as they are not in the cache, and gives
    /// their paths in the same order. What an interrupted download left is taken up. `progress` is
    /// called on this thread.
    ///
    /// # Errors
    /// A name that `listing` does not have; no access; no network, and not in the cache; a damaged
    /// file.
    pub fn download_dataset_files(
        &self,
        listing: &DatasetListing,
        names: &[String],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<PathBuf>, HubError> {
        let repo = RepoId::parse(RepoKind::Dataset, &listing.repo)?;
        self.bring_named(&repo, (&listing.commit, &listing.files), names, progress)
    }

    /// Downloads the files `names` of a repository, which are among those that a commit has, as far as
    /// they are not in the cache; checks the length of the others. Their paths in the same order.
    pub(crate) fn bring_named(
        &self,
        repo: &RepoId,
        (commit, files): (&str, &[ListedFile]),
        names: &[String],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<PathBuf>, HubError> {
        let commit = Revision::parse(repo, Some(commit))?;
        let commit = commit.as_str();
        let cache = RepoCache::new(&self.settings().cache_dir, repo);
        let chosen = chosen(repo, commit, files, names)?;
        let (present, missing): (Vec<_>, Vec<_>) = chosen
            .into_iter()
            .partition(|file| cache.has(commit, &file.name));
        for file in present {
            cache.check_file_length(commit, &file.name, file.n_bytes)?;
        }
        if let Some(first) = missing.first() {
            self.check_online(&cache, commit, Some(&first.name))?;
            self.bring(&cache, commit, &missing, progress)?;
        }
        let dir = cache.snapshot(commit);
        Ok(names.iter().map(|name| dir.join(name)).collect())
    }

    /// The files of a commit, from the cache or else from the Hub.
    pub(crate) fn files_of(
        &self,
        cache: &RepoCache,
        commit: &str,
    ) -> Result<Vec<ListedFile>, HubError> {
        if let Some(files) = cache.listed_files(commit) {
            return Ok(files);
        }
        if self.settings().offline {
            return Err(HubError::NotListed {
                repo: cache.repo().as_str().into(),
                commit: commit.into(),
                cache_dir: self.settings().cache_dir.clone(),
            });
        }
        let files = self.fetch(cache, commit, &mut |_| {}, async |download| {
            let files = download.remote.all_files(commit).await?.into_iter();
            let listed = |file| listed_file(cache.repo(), download.remote, commit, file);
            files.map(listed).collect::<Result<Vec<_>, _>>()
        });
        let mut files = files?;
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        cache.remember_files(commit, &files);
        Ok(files)
    }

    /// The text of the card, if there is one. It is downloaded where it is not in the cache.
    fn card_of(
        &self,
        cache: &RepoCache,
        commit: &str,
        files: &[ListedFile],
    ) -> Result<Option<String>, HubError> {
        let Some(card) = files.iter().find(|file| file.name == CARD) else {
            return Ok(None);
        };
        let bad_card = |reason| HubError::BadCard {
            repo: cache.repo().as_str().into(),
            reason,
        };
        if card.n_bytes > MAX_CARD_BYTES {
            return Err(bad_card("it is longer than 16 MiB"));
        }
        if !cache.has(commit, CARD) {
            self.check_online(cache, commit, Some(CARD))?;
            self.bring(cache, commit, &[remote_file(card)], &mut |_| {})?;
        }
        cache.check(commit, CARD)?;
        let path = cache.snapshot(commit).join(CARD);
        let text = fs::read(&path).map_err(HubError::io("read", &path))?;
        let text = String::from_utf8(text).map_err(|_| bad_card("it is no UTF-8 text"))?;
        Ok(Some(text))
    }

    /// Downloads files of a commit.
    pub(crate) fn bring(
        &self,
        cache: &RepoCache,
        commit: &str,
        files: &[RemoteFile],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        let all = async |download: Download<'_>| download.all(files).await;
        self.fetch(cache, commit, progress, all)
    }
}

/// What to download for `names`, which are among the listed `files` of a commit.
fn chosen(
    repo: &RepoId,
    commit: &str,
    files: &[ListedFile],
    names: &[String],
) -> Result<Vec<RemoteFile>, HubError> {
    let files = files.iter().map(|file| (file.name.as_str(), file));
    let files: HashMap<_, _> = files.collect();
    let chosen = |name: &String| match files.get(name.as_str()) {
        // Whoever made this listing, a path is checked before it is joined.
        Some(file) if is_path_of_file(name) => Ok(remote_file(file)),
        _ => Err(HubError::NoSuchFile {
            repo: repo.as_str().into(),
            commit: commit.into(),
            file: name.clone(),
        }),
    };
    names.iter().map(chosen).collect()
}

fn listed_file(
    repo: &RepoId,
    remote: &Remote<'_>,
    commit: &str,
    file: RemoteFile,
) -> Result<ListedFile, HubError> {
    if !is_path_of_file(&file.name) {
        return Err(HubError::BadFileName {
            repo: repo.as_str().into(),
            file: cut(&file.name),
        });
    }
    let content_hash = file.etag.as_ref().and_then(Etag::content_hash);
    Ok(ListedFile {
        content_hash: content_hash.ok_or_else(|| remote.nameless(commit, &file.name))?,
        n_bytes: file.n_bytes,
        name: file.name,
    })
}

fn remote_file(file: &ListedFile) -> RemoteFile {
    RemoteFile {
        name: file.name.clone(),
        n_bytes: file.n_bytes,
        etag: file.etag(),
    }
}
