//! The Hub and its cache: which commit a revision means, and how to ask for its files.

use crate::cache::RepoCache;
use crate::context::Context;
use crate::download::Download;
use crate::name::{RepoId, Revision};
use crate::progress::{Progress, Tally};
use crate::waits::Waits;
use crate::{HubError, HubSettings, Notice, RepoKind, endpoint, task, tree};
use fault::Fault;
use std::path::absolute;
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// What to do if something is not in the cache.
pub(crate) const GO_ONLINE: &str =
    "unset `HF_HUB_OFFLINE`, or run this once where there is a network and the same cache";

/// The Hugging Face Hub, and the cache of its files on this machine. Blocking; may be used within
/// an async runtime.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
    waits: Arc<Waits>,
}

/// A repository at a commit.
pub(crate) struct Found {
    pub(crate) cache: RepoCache,
    pub(crate) revision: Revision,
    pub(crate) commit: String,
    pub(crate) notice: Option<Notice>,
}

impl Found {
    pub(crate) fn repo(&self) -> &str {
        self.cache.repo().as_str()
    }

    /// Remembers what the branch or tag means, if the Hub has said it.
    pub(crate) fn remember(&self) {
        if let (Revision::Name(name), None) = (&self.revision, &self.notice) {
            self.cache.remember_commit(name, &self.commit);
        }
    }
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
    /// An address that is not valid, or has a secret in it.
    pub fn new(mut settings: HubSettings) -> Result<Self, HubError> {
        settings.endpoint = endpoint::checked(&settings.endpoint)?;
        // Snapshots are handed to other processes.
        let cache_dir = absolute(&settings.cache_dir);
        settings.cache_dir = cache_dir.map_err(HubError::io("find", &settings.cache_dir))?;
        let waits = Arc::default();
        Ok(Self { settings, waits })
    }

    /// The same, which reports each wait of two seconds or more that the Hub asks for, when it begins;
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

    /// What its uploads and downloads wait together.
    pub(crate) fn waits(&self) -> &Waits {
        &self.waits
    }

    /// Finds the commit that a revision means; `None`: the main branch.
    pub(crate) fn find(
        &self,
        kind: RepoKind,
        repo: &str,
        revision: Option<&str>,
    ) -> Result<Found, HubError> {
        let repo = RepoId::parse(kind, repo)?;
        let revision = Revision::parse(&repo, revision)?;
        let cache = RepoCache::new(&self.settings.cache_dir, &repo);
        let (commit, notice) = match &revision {
            Revision::Commit(commit) => (commit.clone(), None),
            Revision::Name(name) => self.resolve(&cache, name)?,
        };
        Ok(Found {
            cache,
            revision,
            commit,
            notice,
        })
    }

    /// The commit that a branch or tag means.
    fn resolve(&self, cache: &RepoCache, name: &str) -> Result<(String, Option<Notice>), HubError> {
        let Some(cached) = cache.commit_of(name) else {
            self.check_online(cache, name, None)?;
            let commit = self.ask_commit(&self.settings, cache.repo(), name)?;
            return Ok((commit, None));
        };
        if self.settings.offline {
            return Ok((cached, None));
        }
        // The cached commit can be used, so nothing is asked twice.
        let settings = HubSettings {
            n_retries: 0,
            ..self.settings.clone()
        };
        match self.ask_commit(&settings, cache.repo(), name) {
            Ok(commit) => Ok((commit, None)),
            Err(error @ HubError::NoSuchRevision(_)) => Err(error),
            Err(error) => {
                let notice = Notice::FromCache {
                    repo: cache.repo().as_str().into(),
                    revision: name.into(),
                    commit: cached.clone(),
                    reason: error.to_string(),
                };
                Ok((cached, Some(notice)))
            }
        }
    }

    fn ask_commit(
        &self,
        settings: &HubSettings,
        repo: &RepoId,
        name: &str,
    ) -> Result<String, HubError> {
        let waits = self.waits();
        task::block_on(
            async |_: Sender<()>| {
                let context = Context::new(settings, waits, repo)?;
                tree::commit_of(&context, name).await
            },
            |()| {},
        )
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
        let file = file.map(|file| format!("`{file}` of ")).unwrap_or_default();
        let (repo, folder) = (cache.repo().as_str(), self.settings.cache_dir.display());
        let fault = Fault::input(format!(
            "offline, and {file}`{repo}` at revision `{revision}` is not in the cache `{folder}`"
        ));
        Err(HubError::NotCached(fault.with_hint(GO_ONLINE)))
    }

    /// Asks the Hub for what `fetch` wants of a commit.
    pub(crate) fn fetch<T: Send>(
        &self,
        cache: &RepoCache,
        commit: &str,
        progress: &mut dyn FnMut(Progress),
        fetch: impl AsyncFnOnce(Download<'_>) -> Result<T, HubError> + Send,
    ) -> Result<T, HubError> {
        let (settings, waits) = (&self.settings, self.waits());
        let mut tally = Tally::default();
        task::block_on(
            async |events| {
                let context = Context::new(settings, waits, cache.repo())?;
                fetch(Download::new(&context, cache, commit, events)).await
            },
            |(index, event)| progress(tally.add(index, event)),
        )
    }
}
