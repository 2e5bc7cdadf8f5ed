//! An upload from its first question to its commit.

use super::commit::Outcome;
use super::local::{self, Local};
use super::progress::{Event, UploadStep};
use super::target::Target;
use super::{Upload, UploadPlan, Uploaded, lfs};
use crate::name::RepoId;
use crate::remote::{Remote, client_builder};
use crate::{HubError, HubSettings};
use reqwest::Client;
use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// How often to begin anew because others have committed meanwhile.
const MAX_ATTEMPTS: u32 = 4;

/// Longest file in the text of a commit, as on the Hub.
const MAX_SMALL_BYTES: u64 = 10 << 20;

/// The longest wait for an answer to something that takes the Hub a while, in timeouts of the
/// settings.
const PATIENCE: u32 = 6;

/// An upload.
pub(super) struct Publisher<'a> {
    pub(super) settings: &'a HubSettings,
    pub(super) repo: &'a RepoId,
    pub(super) branch: &'a str,
    pub(super) upload: &'a Upload,
    pub(super) remote: Remote<'a>,
    /// Waits for answers as long as it is told for each.
    pub(super) patient_client: Client,
    events: Sender<Event>,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(
        remote: Remote<'a>,
        branch: &'a str,
        upload: &'a Upload,
        events: Sender<Event>,
    ) -> Result<Self, HubError> {
        let client = client_builder(remote.settings()).build();
        let patient_client = client.map_err(|error| remote.asked(branch).unreachable(error))?;
        Ok(Self {
            settings: remote.settings(),
            repo: remote.repo(),
            branch,
            upload,
            remote,
            patient_client,
            events,
        })
    }

    /// What would be done.
    pub(super) async fn plan(&self) -> Result<UploadPlan, HubError> {
        let locals = self.hash()?;
        let target = self.target().await?;
        let news = self.news(&locals, target.parent()).await?;
        let files = locals.iter().zip(news);
        Ok(UploadPlan {
            repo: self.repo.as_str().into(),
            branch: self.branch.into(),
            page: self.page(),
            parent: target.parent().map(str::to_owned),
            makes_repo: matches!(target, Target::NoRepo),
            makes_branch: match &target {
                Target::NoRepo => self.branch != "main",
                Target::NoBranch { .. } => true,
                Target::Branch { .. } => false,
            },
            files: files.map(|(file, is_new)| file.report(is_new)).collect(),
        })
    }

    /// Does it.
    pub(super) async fn publish(&self) -> Result<Uploaded, HubError> {
        let locals = self.hash()?;
        let mut arrived = BTreeSet::new();
        let mut is_new_repo = false;
        for _ in 0..MAX_ATTEMPTS {
            let (parent, was_made) = self.make_target().await?;
            is_new_repo |= was_made;
            let news = self.news(&locals, Some(&parent)).await?;
            let files = locals.iter().zip(&news);
            let new = files.filter_map(|(file, is_new)| is_new.then_some(file));
            let new: Vec<_> = new.collect();
            let outcome = match new.is_empty() {
                true => Outcome::Made(parent),
                false => self.send(&new, &parent, &mut arrived).await?,
            };
            if let Outcome::Made(commit) = outcome {
                let is_new_commit = !new.is_empty();
                let files = locals.iter().zip(news);
                let files = files.map(|(file, is_new)| file.report(is_new));
                return Ok(Uploaded {
                    repo: self.repo.as_str().into(),
                    branch: self.branch.into(),
                    page: self.page(),
                    commit,
                    is_new_commit,
                    is_new_repo,
                    files: files.collect(),
                });
            }
        }
        Err(HubError::Overtaken {
            repo: self.repo.as_str().into(),
            branch: self.branch.into(),
            n_attempts: MAX_ATTEMPTS,
        })
    }

    /// Sends files and makes the commit. `arrived`: the hashes of large files that are at the Hub.
    async fn send(
        &self,
        files: &[&Local<'_>],
        parent: &str,
        arrived: &mut BTreeSet<String>,
    ) -> Result<Outcome, HubError> {
        let (mut large, mut small) = (Vec::new(), Vec::new());
        for (&file, is_large) in files.iter().zip(self.modes(files).await?) {
            match is_large {
                true => large.push(file),
                false if file.n_bytes > MAX_SMALL_BYTES => return Err(self.too_large(file)),
                false => small.push(file),
            }
        }
        let mut missing = Vec::new();
        for file in &large {
            if arrived.insert(file.sha256.clone()) {
                missing.push(*file);
            }
        }
        if !missing.is_empty() {
            lfs::send(self, &missing).await?;
        }
        self.commit(&small, &large, parent).await
    }

    fn too_large(&self, file: &Local<'_>) -> HubError {
        HubError::TooLargeForCommit {
            repo: self.repo.as_str().into(),
            path: file.path.into(),
            n_bytes: file.n_bytes,
        }
    }

    fn page(&self) -> String {
        self.repo.page(&self.settings.endpoint)
    }

    /// How long an answer may take to something that takes the Hub a while.
    pub(super) fn patience(&self) -> Duration {
        self.settings.timeout * PATIENCE
    }

    pub(super) fn begin(&self, step: UploadStep, lengths: impl Iterator<Item = u64>) {
        self.tell(Event::Begin(step, lengths.collect()));
    }

    pub(super) fn tell(&self, event: Event) {
        // That nobody listens any more is no reason to stop.
        let _ = self.events.send(event);
    }

    pub(super) fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    fn hash(&self) -> Result<Vec<Local<'a>>, HubError> {
        let files = &self.upload.files;
        let length = |source: &super::UploadSource| match source {
            super::UploadSource::Bytes(bytes) => bytes.len() as u64,
            super::UploadSource::File(path) => path.metadata().map_or(0, |file| file.len()),
        };
        let lengths = files.iter().map(|file| length(&file.source));
        self.begin(UploadStep::Hashing, lengths);
        local::hash_all(files, &|event| self.tell(event))
    }

    /// Which files a commit does not have as they are here.
    pub(super) async fn news(
        &self,
        locals: &[Local<'_>],
        commit: Option<&str>,
    ) -> Result<Vec<bool>, HubError> {
        let there = match commit {
            Some(commit) => self.remote.all_files(commit).await?,
            None => Vec::new(),
        };
        let there: HashMap<_, _> = there
            .iter()
            .map(|file| (file.name.as_str(), file))
            .collect();
        let is_there = |local: &Local<'_>| {
            let remote = there.get(local.path);
            remote.is_some_and(|remote| {
                let etag = remote.etag.as_ref();
                remote.n_bytes == local.n_bytes && etag.is_some_and(|etag| local.is_called(etag))
            })
        };
        Ok(locals.iter().map(|local| !is_there(local)).collect())
    }
}
