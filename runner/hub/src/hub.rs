//! Models by their id: which commit, which files, from the cache or from the Hub. And what data sets
//! share with them.

use crate::cache::RepoCache;
use crate::download::Download;
use crate::files;
use crate::name::{RepoId, Revision};
use crate::remote::Remote;
use crate::task::{self, Tally};
use crate::waits::Waits;
use crate::{HubError, HubSettings, RepoKind, endpoint};
use std::fmt;
use std::path::{PathBuf, absolute};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// The Hugging Face Hub, and the cache of its files on this machine. Blocking; may be used within
/// an async runtime.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
    waits: Arc<Waits>,
}

/// A model at a commit, in the cache.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The repository's id.
    pub repo: String,
    /// The commit's hash: 40 hexadecimal digits.
    pub commit: String,
    /// Its folder.
    pub dir: PathBuf,
    /// What the user should know of how it was found.
    pub notice: Option<Notice>,
}

/// Something odd that is no error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The Hub could not say what the branch or tag means today; the commit that it last meant was
    /// taken.
    FromCache {
        /// The repository.
        repo: String,
        /// The branch or tag.
        revision: String,
        /// The commit.
        commit: String,
        /// Why the Hub could not say.
        reason: String,
    },
    /// The Hub asks to wait, and is waited for.
    Waiting {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// How long.
        wait: Duration,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromCache {
                repo,
                revision,
                commit,
                reason,
            } => write!(
                f,
                "{reason}; taking commit {commit} from the cache, which `{revision}` of `{repo}` \
                 meant when it was last asked for"
            ),
            Self::Waiting {
                repo,
                endpoint,
                wait,
            } => write!(
                f,
                "{endpoint} asks to wait {} seconds before it says more of `{repo}`; waiting",
                wait.as_secs()
            ),
        }
    }
}

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that are in the cache.
    pub n_files_done: usize,
    /// Files to download.
    pub n_files: usize,
    /// Bytes that are there, those of an earlier attempt among them. May fall when a file has to
    /// be begun anew.
    pub done_bytes: u64,
    /// Bytes of all files to download.
    pub total_bytes: u64,
    /// Whether all there is to do is to wait for another process that downloads the same.
    pub is_waiting: bool,
}

impl Hub {
    /// The Hub that the environment names, as for Python's huggingface_hub.
    ///
    /// # Errors
    /// As [`HubSettings::from_env`].
    pub fn from_env() -> Result<Self, HubError> {
        Self::new(HubSettings::from_env()?)
    }

    /// The Hub of `settings`.
    ///
    /// # Errors
    /// An address that is none, or has a secret in it.
    pub fn new(mut settings: HubSettings) -> Result<Self, HubError> {
        settings.endpoint = endpoint::checked(&settings.endpoint)?;
        // Snapshots are handed to other processes.
        let cache_dir = absolute(&settings.cache_dir);
        settings.cache_dir = cache_dir.map_err(HubError::io("find", &settings.cache_dir))?;
        let waits = Arc::default();
        Ok(Self { settings, waits })
    }

    /// The same, which tells of each wait of two seconds or more that the Hub asks for, when it begins;
    /// on any thread.
    pub fn telling(self, tell: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self {
            waits: Arc::new(Waits::told_to(tell)),
            ..self
        }
    }

    /// What it was made with.
    pub fn settings(&self) -> &HubSettings {
        &self.settings
    }

    /// The commit that `revision` (a branch, tag or commit; `None`: `main`) of the model `repo`
    /// means, and a folder with what planning needs of it: config.json, the tokenizer's files, and
    /// the index of the weights where they are in shards. No weights.
    ///
    /// Of a commit that is in the cache, nothing is asked. Offline, or when the Hub cannot say, a
    /// branch or tag means what it meant when it was last asked for.
    ///
    /// # Errors
    /// No such model, or no access to it; a model without config.json or safetensors; no network,
    /// and not in the cache; a damaged file.
    pub fn model_files(&self, repo: &str, revision: Option<&str>) -> Result<Snapshot, HubError> {
        let repo = RepoId::parse(RepoKind::Model, repo)?;
        let revision = Revision::parse(&repo, revision)?;
        let cache = RepoCache::new(&self.settings.cache_dir, &repo);
        let (commit, notice) = self.resolve(&cache, &revision)?;
        if let Some(unknown) = files::unknown_planning_file(&cache, &commit) {
            self.check_online(&cache, revision.as_str(), Some(unknown))?;
            self.fetch(&cache, &commit, &mut |_| {}, files::fetch_planning_files)?;
        }
        files::check_planning_files(&cache, &commit)?;
        if let (Revision::Name(name), None) = (&revision, &notice) {
            cache.remember_commit(name, &commit);
        }
        Ok(Snapshot {
            repo: repo.as_str().into(),
            dir: cache.snapshot(&commit),
            commit,
            notice,
        })
    }

    /// Downloads the weights of `snapshot`, a single safetensors file or shards, as far as they are
    /// not in the cache. What an interrupted download left is taken up. `progress` is called on
    /// this thread.
    ///
    /// # Errors
    /// As [`Hub::model_files`], and an index that names files which are not there.
    pub fn download_weights(
        &self,
        snapshot: &Snapshot,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        let repo = RepoId::parse(RepoKind::Model, &snapshot.repo)?;
        let commit = Revision::parse(&repo, Some(&snapshot.commit))?;
        let cache = RepoCache::new(&self.settings.cache_dir, &repo);
        if let Some(missing) = files::missing_weights(&cache, commit.as_str())? {
            self.check_online(&cache, commit.as_str(), Some(&missing))?;
            self.fetch(&cache, commit.as_str(), progress, files::fetch_weights)?;
        }
        Ok(())
    }

    /// The commit that a revision means.
    pub(crate) fn resolve(
        &self,
        cache: &RepoCache,
        revision: &Revision,
    ) -> Result<(String, Option<Notice>), HubError> {
        let name = match revision {
            Revision::Commit(commit) => return Ok((commit.clone(), None)),
            Revision::Name(name) => name,
        };
        let Some(cached) = cache.commit_of(name) else {
            self.check_online(cache, name, None)?;
            let commit = self.ask_commit(&self.settings, cache.repo(), name)?;
            return Ok((commit, None));
        };
        if self.settings.offline {
            return Ok((cached, None));
        }
        // There is something to go on with, so nobody has to wait for repetitions.
        let settings = HubSettings {
            n_retries: 0,
            ..self.settings.clone()
        };
        match self.ask_commit(&settings, cache.repo(), name) {
            Ok(commit) => Ok((commit, None)),
            Err(error @ HubError::NoSuchRevision { .. }) => Err(error),
            Err(error) => {
                let notice = Notice::FromCache {
                    repo: cache.repo().as_str().into(),
                    revision: name.clone(),
                    commit: cached.clone(),
                    reason: error.to_string(),
                };
                Ok((cached, Some(notice)))
            }
        }
    }

    /// Offline, `file` is missing; `None`: it is not even known which commit is meant.
    pub(crate) fn check_online(
        &self,
        cache: &RepoCache,
        revision: &str,
        file: Option<&str>,
    ) -> Result<(), HubError> {
        if !self.settings.offline {
            return Ok(());
        }
        Err(HubError::NotCached {
            repo: cache.repo().as_str().into(),
            revision: revision.into(),
            file: file.map(str::to_owned),
            cache_dir: self.settings.cache_dir.clone(),
        })
    }

    /// Asks the Hub for what `fetch` wants of a commit.
    pub(crate) fn fetch<T: Send>(
        &self,
        cache: &RepoCache,
        commit: &str,
        progress: &mut dyn FnMut(Progress),
        fetch: impl AsyncFnOnce(Download<'_>) -> Result<T, HubError> + Send,
    ) -> Result<T, HubError> {
        let (settings, waits) = (&self.settings, &*self.waits);
        let mut tally = Tally::default();
        task::block_on(
            async |events| {
                let remote = Remote::new(settings, waits, cache.repo())?;
                let download = Download {
                    settings,
                    remote: &remote,
                    cache,
                    commit,
                    events,
                };
                fetch(download).await
            },
            |(index, event)| progress(tally.add(index, event)),
        )
    }

    /// What its uploads and downloads wait together.
    pub(crate) fn waits(&self) -> &Waits {
        &self.waits
    }

    fn ask_commit(
        &self,
        settings: &HubSettings,
        repo: &RepoId,
        name: &str,
    ) -> Result<String, HubError> {
        let waits = &*self.waits;
        task::block_on(
            async |_: Sender<()>| Remote::new(settings, waits, repo)?.commit_of(name).await,
            |()| {},
        )
    }
}
