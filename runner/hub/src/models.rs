//! Models by their id: what planning and training need, or any of their files.

use crate::listing::ListedFile;
use crate::{Hub, HubError, Notice, Progress, RepoKind, files, listed};
use std::path::PathBuf;

/// A model at a commit, in the cache.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The repository's id.
    pub repo: String,
    /// The commit's hash: 40 hexadecimal digits.
    pub commit: String,
    /// Its folder.
    pub dir: PathBuf,
    /// What the user should know about how it was found.
    pub notice: Option<Notice>,
}

/// A model repository at a commit: which files it has. It does not say which are in the cache.
#[derive(Clone, Debug)]
pub struct ModelListing {
    /// The repository's id.
    pub repo: String,
    /// The commit's hash: 40 hexadecimal digits.
    pub commit: String,
    /// Its folder in the cache. It may not exist yet.
    pub dir: PathBuf,
    /// All files, in the order of their names.
    pub files: Vec<ListedFile>,
    /// What the user should know about how it was found.
    pub notice: Option<Notice>,
}

impl Hub {
    /// The commit that `revision` (a branch, tag or commit; `None`: `main`) of the model `repo`
    /// means, and a folder with what planning needs of it: config.json, the tokenizer's files, and
    /// the index of the weights if they are in shards. No weights.
    ///
    /// Of a commit that is in the cache, nothing is asked. Offline, or when the Hub cannot say, a
    /// branch or tag means what it meant when it was last asked for.
    ///
    /// # Errors
    /// No such model, or no access to it; a model without config.json or safetensors; no network,
    /// and not in the cache; a damaged file.
    pub fn model_files(&self, repo: &str, revision: Option<&str>) -> Result<Snapshot, HubError> {
        let found = self.find(RepoKind::Model, repo, revision)?;
        let (cache, commit) = (&found.cache, &found.commit);
        if let Some(unknown) = files::unknown_planning_file(cache, commit) {
            self.check_online(cache, found.revision.as_str(), Some(unknown))?;
            self.fetch(cache, commit, &mut |_| {}, files::fetch_planning_files)?;
        }
        files::check_planning_files(cache, commit)?;
        found.remember();
        Ok(Snapshot {
            repo: found.repo().into(),
            dir: cache.snapshot(commit),
            commit: found.commit,
            notice: found.notice,
        })
    }

    /// Downloads the weights of `snapshot`, a single safetensors file or shards, as far as they are
    /// not in the cache. What an interrupted download left is resumed. `progress` is called on
    /// this thread.
    ///
    /// # Errors
    /// As [`Hub::model_files`], and an index that names files which are not there.
    pub fn download_weights(
        &self,
        snapshot: &Snapshot,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        let found = self.find(RepoKind::Model, &snapshot.repo, Some(&snapshot.commit))?;
        let (cache, commit) = (&found.cache, &found.commit);
        if let Some(missing) = files::missing_weights(cache, commit)? {
            self.check_online(cache, commit, Some(&missing))?;
            self.fetch(cache, commit, progress, files::fetch_weights)?;
        }
        Ok(())
    }

    /// The commit that `revision` (a branch, tag or commit; `None`: `main`) of the model repository
    /// `repo` means, and which files it has, whatever they are. None is downloaded.
    ///
    /// Of a commit that was listed before, by this program or by Python's `snapshot_download`,
    /// nothing is asked. Offline, or when the Hub cannot say, a branch or tag means what it meant
    /// when it was last asked for; offline, a commit that was never listed has the files that are in
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
        let found = self.find(RepoKind::Model, repo, revision)?;
        let files = match listed::files_of(self, &found)? {
            Some(files) => files,
            None => match found.cache.cached_files(&found.commit) {
                files if files.is_empty() => return Err(listed::not_listed(self, &found)),
                files => files,
            },
        };
        found.remember();
        Ok(ModelListing {
            repo: found.repo().into(),
            dir: found.cache.snapshot(&found.commit),
            commit: found.commit,
            files,
            notice: found.notice,
        })
    }

    /// Downloads the files `names` of a model repository as far as they are not in the cache, and
    /// gives their paths in the same order. What an interrupted download left is resumed.
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
        let found = self.find(RepoKind::Model, &listing.repo, Some(&listing.commit))?;
        listed::bring_named(self, &found, (&listing.files, names), progress)
    }
}
