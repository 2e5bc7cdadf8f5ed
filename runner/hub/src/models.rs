//! Any files of a model repository: which it has, and those that are chosen of them.

use crate::cache::RepoCache;
use crate::listing::ListedFile;
use crate::name::{RepoId, Revision};
use crate::{Hub, HubError, Notice, Progress, RepoKind};
use std::path::PathBuf;

/// A model repository at a commit: which files it has. Which of them are in the cache is not said.
#[derive(Clone, Debug)]
pub struct ModelListing {
    /// The repository's id.
    pub repo: String,
    /// The commit's hash: 40 hexadecimal digits.
    pub commit: String,
    /// Its folder in the cache. There may be none yet.
    pub dir: PathBuf,
    /// All files, in the order of their names.
    pub files: Vec<ListedFile>,
    /// What the user should know of how it was found.
    pub notice: Option<Notice>,
}

impl Hub {
    /// The commit that `revision` (a branch, tag or commit; `None`: `main`) of the model repository
    /// `repo` means, and which files it has, whatever they are. None is downloaded.
    ///
    /// Of a commit that was listed before, by this program or by Python's `snapshot_download`,
    /// nothing is asked. Offline, or when the Hub cannot say, a branch or tag means what it meant
    /// when it was last asked for; offline, a commit that nobody listed has the files that are in
    /// the cache.
    ///
    /// # Errors
    /// No such repository, or no access to it; no network, and not in the cache; a file whose path
    /// leads elsewhere.
    pub fn model_listing(
        &self,
        repo: &str,
        revision: Option<&str>,
    ) -> Result<ModelListing, HubError> {
        let repo = RepoId::parse(RepoKind::Model, repo)?;
        let revision = Revision::parse(&repo, revision)?;
        let cache = RepoCache::new(&self.settings().cache_dir, &repo);
        let (commit, notice) = self.resolve(&cache, &revision)?;
        let files = match self.files_of(&cache, &commit) {
            Err(error @ HubError::NotListed { .. }) => match cache.cached_files(&commit) {
                files if files.is_empty() => return Err(error),
                files => files,
            },
            files => files?,
        };
        if let (Revision::Name(name), None) = (&revision, &notice) {
            cache.remember_commit(name, &commit);
        }
        Ok(ModelListing {
            repo: repo.as_str().into(),
            dir: cache.snapshot(&commit),
            commit,
            files,
            notice,
        })
    }

    /// Downloads the files `names` of a model repository as far as they are not in the cache, and
    /// gives their paths in the same order. What an interrupted download left is taken up.
    /// `progress` is called on this thread.
    ///
    /// # Errors
    /// A name that `listing` does not have; no access; no network, and not in the cache; a damaged
    /// file.
    pub fn download_listed(
        &self,
        listing: &ModelListing,
        names: &[String],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<PathBuf>, HubError> {
        let repo = RepoId::parse(RepoKind::Model, &listing.repo)?;
        self.bring_named(&repo, (&listing.commit, &listing.files), names, progress)
    }
}
