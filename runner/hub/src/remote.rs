//! What the Hub is asked: the commit of a revision, the files of a commit (see tree.rs), their
//! contents.

use crate::asked::{Asked, Refusal};
use crate::digest::Etag;
use crate::name::{RepoId, RepoKind, is_commit};
use crate::waits::Waits;
use crate::{HubError, HubSettings, Token};
use futures::StreamExt;
use hf_hub::repository::HFRepository;
use hf_hub::repository::download::HFByteStream;
use hf_hub::{HFClient, HFError, RepoType, RepoTypeDataset, RepoTypeModel, split_id};
use reqwest::header::RANGE;
use reqwest::{Client, ClientBuilder, Response, Url};
use serde::Deserialize;

use std::ops::{Deref, Range};
use std::sync::OnceLock;
use tokio::time::timeout;

/// A token that cannot stand in a header, so that hf-hub 1.0.0 sends none. Without a token it would
/// look for one in the environment, to send it wherever the settings point.
const NO_TOKEN: &str = "\n";

/// Where the Hub says that a file is in the Xet store, and how to have it from there.
const XET_HASH: &str = "x-xet-hash";

/// A client of the Hub for one repository.
pub(crate) struct Remote<'a> {
    settings: &'a HubSettings,
    waits: &'a Waits,
    repo: &'a RepoId,
    client: Client,
    xet_files: OnceLock<XetFiles>,
}

/// hf-hub's handle of the repository. Its own handle of any kind, in 1.0.0, looks for the files of
/// data sets among those of models.
enum XetFiles {
    Model(HFRepository<RepoTypeModel>),
    Dataset(HFRepository<RepoTypeDataset>),
}

/// The bytes of a file, on their way.
pub(crate) enum FileBytes {
    Plain(Response),
    OfXet(HFByteStream),
}

/// What the Hub says of a revision, as far as it is asked for.
#[derive(Deserialize)]
pub(crate) struct RevisionInfo {
    sha: Option<String>,
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    pub(crate) n_bytes: u64,
    /// The name of its content; `None`: the Hub did not say it.
    pub(crate) etag: Option<Etag>,
}

impl RevisionInfo {
    /// `None` where an answer is not about a revision.
    pub(crate) fn parse(answer: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(answer)
    }

    /// The commit, if it names one.
    pub(crate) fn commit(self) -> Option<String> {
        self.sha.filter(|sha| is_commit(sha))
    }
}

impl<'a> Remote<'a> {
    pub(crate) fn new(
        settings: &'a HubSettings,
        waits: &'a Waits,
        repo: &'a RepoId,
    ) -> Result<Self, HubError> {
        let builder = client_builder(settings).read_timeout(settings.timeout);
        let client = builder.build();
        let client = client.map_err(|error| Asked::new(settings, repo, "").unreachable(error))?;
        Ok(Self {
            settings,
            waits,
            repo,
            client,
            xet_files: OnceLock::new(),
        })
    }

    pub(crate) fn settings(&self) -> &'a HubSettings {
        self.settings
    }

    pub(crate) fn repo(&self) -> &'a RepoId {
        self.repo
    }

    pub(crate) fn waits(&self) -> &'a Waits {
        self.waits
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn asked<'b>(&self, revision: &'b str) -> Asked<'b>
    where
        'a: 'b,
    {
        Asked::new(self.settings, self.repo, revision).after(self.waits.total())
    }

    /// An address of the Hub: slashes in the parts are no slashes there.
    pub(crate) fn url(&self, parts: &[&str]) -> Result<Url, HubError> {
        let url = Url::parse(&self.settings.endpoint);
        let mut url = url.map_err(|error| self.asked("").odd(error))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        Ok(url)
    }

    /// The address of something that the Hub's API says of a revision of the repository.
    pub(crate) fn api(&self, what: &str, revision: &str) -> Result<Url, HubError> {
        let kind = self.repo.kind().plural();
        let mut parts = vec!["api", kind];
        parts.extend(self.repo.as_str().split('/'));
        parts.extend([what, revision]);
        self.url(&parts)
    }

    /// The address of a file.
    fn file_url(&self, commit: &str, file: &RemoteFile) -> Result<Url, HubError> {
        let mut parts = match self.repo.kind() {
            RepoKind::Model => Vec::new(),
            kind @ RepoKind::Dataset => vec![kind.plural()],
        };
        parts.extend(self.repo.as_str().split('/'));
        parts.extend(["resolve", commit]);
        parts.extend(file.name.split('/'));
        self.url(&parts)
    }

    /// The commit that a branch or tag means.
    pub(crate) async fn commit_of(&self, name: &str) -> Result<String, HubError> {
        let mut url = self.api("revision", name)?;
        // Nothing but the commit: the whole answer lists every file of the repository.
        url.set_query(Some("expand=sha"));
        let answer = self.get(&url).await?;
        let asked = self.asked(name);
        if !answer.status.is_success() {
            return Err(asked.refused(&Refusal::of(answer.status, &answer.headers)));
        }
        let info = RevisionInfo::parse(&answer.body).map_err(|error| asked.odd(error))?;
        info.commit().ok_or_else(|| asked.odd("it names no commit"))
    }

    /// The token, where `url` is of the Hub and not of a store.
    pub(crate) fn token_for(&self, url: &Url) -> Option<&Token> {
        let endpoint = Url::parse(&self.settings.endpoint);
        let is_hub = endpoint.is_ok_and(|endpoint| endpoint.origin() == url.origin());
        self.settings.token.as_ref().filter(|_| is_hub)
    }

    /// The bytes of a file from `first_byte` on.
    pub(crate) async fn bytes(
        &self,
        commit: &str,
        file: &RemoteFile,
        first_byte: u64,
    ) -> Result<FileBytes, HubError> {
        let url = self.file_url(commit, file)?;
        let head = self.send(|| self.client.head(url.clone()), &url).await?;
        if !head.status.is_success() {
            let refusal = Refusal::of(head.status, &head.headers);
            return Err(self.asked(commit).refused(&refusal));
        }
        if head.headers.contains_key(XET_HASH) {
            return self.xet_bytes(commit, file, first_byte).await;
        }
        let request = || {
            let request = self.client.get(url.clone());
            match first_byte {
                0 => request,
                _ => request.header(RANGE, format!("bytes={first_byte}-{}", file.n_bytes - 1)),
            }
        };
        let answer = self.open(request, &url).await?;
        match answer.status().is_success() {
            true => Ok(FileBytes::Plain(answer)),
            false => {
                let refusal = Refusal::of(answer.status(), answer.headers());
                Err(self.asked(commit).refused(&refusal))
            }
        }
    }

    /// The same of a file that the Hub has of the Xet store, by hf-hub. That bounds what it reads by time
    /// alone, so its first question is asked here before, where answers have a longest length.
    async fn xet_bytes(
        &self,
        commit: &str,
        file: &RemoteFile,
        first_byte: u64,
    ) -> Result<FileBytes, HubError> {
        let token = self.get(&self.api("xet-read-token", commit)?).await?;
        if !token.status.is_success() {
            let refusal = Refusal::of(token.status, &token.headers);
            return Err(self.asked(commit).refused(&refusal));
        }
        let asked = self.asked(commit);
        let files = match self.xet_files.get() {
            Some(files) => files,
            None => {
                let files = XetFiles::new(self.settings, self.repo);
                let files = files.map_err(|error| asked.failed(error))?;
                self.xet_files.get_or_init(|| files)
            }
        };
        let range = (first_byte > 0).then_some(first_byte..file.n_bytes);
        let bytes = files.bytes(commit, &file.name, range);
        match timeout(self.settings.limits.max_answer_time, bytes).await {
            Ok(bytes) => {
                let bytes = bytes.map_err(|error| asked.failed(error))?;
                Ok(FileBytes::OfXet(bytes))
            }
            Err(_) => Err(asked.too_late()),
        }
    }

    /// What is wrong when the Hub does not say how a file hashes.
    pub(crate) fn nameless(&self, commit: &str, file: &str) -> HubError {
        let why = format!("it lists `{file}` without a hash of its content");
        self.asked(commit).odd(why)
    }
}

impl FileBytes {
    /// The next bytes; `None`: those were all.
    pub(crate) async fn next(
        &mut self,
        asked: &Asked<'_>,
    ) -> Result<Option<impl Deref<Target = [u8]>>, HubError> {
        match self {
            Self::Plain(answer) => {
                let bytes = answer.chunk().await;
                bytes.map_err(|error| asked.unreachable(error))
            }
            Self::OfXet(bytes) => {
                let bytes = bytes.next().await.transpose();
                bytes.map_err(|error| asked.failed(error))
            }
        }
    }
}

impl XetFiles {
    fn new(settings: &HubSettings, repo: &RepoId) -> Result<Self, HFError> {
        // Only for its own questions, and so for all of an answer.
        let http = client_builder(settings).timeout(settings.timeout).build()?;
        // hf-hub waits up to twice this at first.
        let delay = settings.retry_delay / 2;
        let client = HFClient::builder()
            .endpoint(&settings.endpoint)
            .token(settings.token.as_ref().map_or(NO_TOKEN, Token::secret))
            .cache_dir(&settings.cache_dir)
            .client(http)
            .retry_max_attempts(settings.n_retries as usize)
            .retry_base_delay(delay)
            .build()?;
        let (owner, name) = split_id(repo.as_str());
        Ok(match repo.kind() {
            RepoKind::Model => Self::Model(client.model(owner, name)),
            RepoKind::Dataset => Self::Dataset(client.dataset(owner, name)),
        })
    }

    async fn bytes(
        &self,
        commit: &str,
        file: &str,
        range: Option<Range<u64>>,
    ) -> Result<HFByteStream, HFError> {
        match self {
            Self::Model(repo) => bytes(repo, commit, file, range).await,
            Self::Dataset(repo) => bytes(repo, commit, file, range).await,
        }
    }
}

async fn bytes<T: RepoType>(
    repo: &HFRepository<T>,
    commit: &str,
    file: &str,
    range: Option<Range<u64>>,
) -> Result<HFByteStream, HFError> {
    let request = repo.download_file_stream().revision(commit);
    let answer = request.filename(file).maybe_range(range).send().await;
    answer.map(|(_, bytes)| bytes)
}

/// A client without a limit to how long an answer takes.
pub(crate) fn client_builder(settings: &HubSettings) -> ClientBuilder {
    let agent = concat!("sae-run/", env!("CARGO_PKG_VERSION"), "; hf-hub/1.0.0");
    let builder = Client::builder().user_agent(agent);
    builder.connect_timeout(settings.timeout)
}
