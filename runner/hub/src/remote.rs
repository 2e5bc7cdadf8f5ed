//! What the Hub is asked: the commit of a revision, the files of a commit (see tree.rs), their
//! contents.

use crate::asked::{Asked, retry_after};
use crate::digest::Etag;
use crate::name::{RepoId, RepoKind, is_commit};
use crate::{HubError, HubSettings, Token};
use hf_hub::repository::HFRepository;
use hf_hub::repository::download::HFByteStream;
use hf_hub::{HFClient, HFError, RepoType, RepoTypeDataset, RepoTypeModel, split_id};
use reqwest::header::HeaderMap;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url};
use std::ops::Range;
use std::time::Duration;

/// A token that cannot stand in a header, so that hf-hub 1.0.0 sends none. Without a token it would
/// look for one in the environment, to send it wherever the settings point.
const NO_TOKEN: &str = "\n";

/// Longest wait that the Hub may ask for: who waits longer had better be told.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(120);

/// A client of the Hub for one repository.
pub(crate) struct Remote<'a> {
    settings: &'a HubSettings,
    repo: &'a RepoId,
    files: Files,
    /// The one that hf-hub asks with, for what it does not ask.
    client: Client,
}

/// hf-hub's handle of the repository. Its own handle of any kind, in 1.0.0, looks for the files of
/// data sets among those of models.
enum Files {
    Model(HFRepository<RepoTypeModel>),
    Dataset(HFRepository<RepoTypeDataset>),
}

/// An answer that is small enough to be read whole.
pub(crate) struct Document {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    pub(crate) n_bytes: u64,
    /// The name of its content; `None`: the Hub did not say it.
    pub(crate) etag: Option<Etag>,
}

impl Document {
    pub(crate) async fn of(response: Response) -> reqwest::Result<Self> {
        Ok(Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await?.into(),
        })
    }
}

impl<'a> Remote<'a> {
    pub(crate) fn new(settings: &'a HubSettings, repo: &'a RepoId) -> Result<Self, HubError> {
        let clients = || {
            let http = http_client(settings)?;
            // hf-hub waits up to twice this at first.
            let delay = settings.retry_delay / 2;
            let client = HFClient::builder()
                .endpoint(&settings.endpoint)
                .token(settings.token.as_ref().map_or(NO_TOKEN, Token::secret))
                .cache_dir(&settings.cache_dir)
                .client(http.clone())
                .retry_max_attempts(settings.n_retries as usize)
                .retry_base_delay(delay)
                .build()?;
            Ok((Files::new(&client, repo), http))
        };
        let (files, client) =
            clients().map_err(|error: HFError| Asked::new(settings, repo, "").failed(error))?;
        Ok(Self {
            settings,
            repo,
            files,
            client,
        })
    }

    pub(crate) fn asked(&self, revision: &'a str) -> Asked<'a> {
        Asked::new(self.settings, self.repo, revision)
    }

    /// The address of something that the Hub's API says of the repository.
    pub(crate) fn api(&self, what: &str) -> Result<Url, HubError> {
        let HubSettings { endpoint, .. } = self.settings;
        let (kind, id) = (self.repo.kind().plural(), self.repo.as_str());
        let url = Url::parse(&format!("{endpoint}/api/{kind}/{id}/{what}"));
        url.map_err(|error| self.asked("").odd(error))
    }

    /// The commit that a branch or tag means.
    pub(crate) async fn commit_of(&self, name: &'a str) -> Result<String, HubError> {
        let asked = self.asked(name);
        let sha = self.files.sha(name).await;
        let sha = sha.map_err(|error| asked.failed(error))?;
        let commit = sha.filter(|sha| is_commit(sha));
        commit.ok_or_else(|| asked.odd("it names no commit"))
    }

    /// Asks for a document, again where that may help.
    pub(crate) async fn get(&self, url: &Url) -> reqwest::Result<Document> {
        self.send(|| self.client.get(url.clone()), url).await
    }

    /// Sends what `request` makes, for `url`, again where that may help and as late as the Hub asks
    /// for. The token goes to the Hub alone.
    pub(crate) async fn send(
        &self,
        request: impl Fn() -> RequestBuilder,
        url: &Url,
    ) -> reqwest::Result<Document> {
        let mut delay = self.settings.retry_delay;
        for _ in 0..self.settings.n_retries {
            let wait = match self.send_once(request(), url).await {
                Ok(document) if !is_passing(document.status.as_u16()) => return Ok(document),
                Ok(document) => match retry_after(&document.headers) {
                    Some(wait) if wait > MAX_WAIT => return Ok(document),
                    wait => wait.unwrap_or(delay),
                },
                Err(error) if !may_pass(&error) => return Err(error),
                Err(_) => delay,
            };
            tokio::time::sleep(wait).await;
            delay *= 2;
        }
        self.send_once(request(), url).await
    }

    /// Sends a request for `url` once.
    pub(crate) async fn send_once(
        &self,
        request: RequestBuilder,
        url: &Url,
    ) -> reqwest::Result<Document> {
        let request = match self.token_for(url) {
            Some(token) => request.bearer_auth(token.secret()),
            None => request,
        };
        Document::of(request.send().await?).await
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
        commit: &'a str,
        file: &RemoteFile,
        first_byte: u64,
    ) -> Result<HFByteStream, HubError> {
        let range = (first_byte > 0).then_some(first_byte..file.n_bytes);
        let bytes = self.files.bytes(commit, &file.name, range).await;
        bytes.map_err(|error| self.asked(commit).failed(error))
    }

    /// What is wrong when the Hub does not say how a file hashes.
    pub(crate) fn nameless(&self, commit: &'a str, file: &str) -> HubError {
        let why = format!("it lists `{file}` without a hash of its content");
        self.asked(commit).odd(why)
    }

    /// What is wrong when a file broke off.
    pub(crate) fn broken_off(&self, commit: &'a str, error: HFError) -> HubError {
        self.asked(commit).failed(error)
    }
}

impl Files {
    fn new(client: &HFClient, repo: &RepoId) -> Self {
        let (owner, name) = split_id(repo.as_str());
        match repo.kind() {
            RepoKind::Model => Self::Model(client.model(owner, name)),
            RepoKind::Dataset => Self::Dataset(client.dataset(owner, name)),
        }
    }

    async fn sha(&self, revision: &str) -> Result<Option<String>, HFError> {
        // Nothing but the commit: the whole answer lists every file of the repository.
        let wanted = vec!["sha".into()];
        Ok(match self {
            Self::Model(repo) => {
                let info = repo.info().revision(revision).expand(wanted);
                info.send().await?.sha
            }
            Self::Dataset(repo) => {
                let info = repo.info().revision(revision).expand(wanted);
                info.send().await?.sha
            }
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

fn http_client(settings: &HubSettings) -> reqwest::Result<Client> {
    let builder = client_builder(settings);
    builder.read_timeout(settings.timeout).build()
}

/// A client without a limit to how long an answer takes.
pub(crate) fn client_builder(settings: &HubSettings) -> ClientBuilder {
    let agent = concat!("sae-run/", env!("CARGO_PKG_VERSION"), "; hf-hub/1.0.0");
    let builder = Client::builder().user_agent(agent);
    builder.connect_timeout(settings.timeout)
}

/// Whether a status says that a moment later it may be another.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// The same of a connection.
fn may_pass(error: &reqwest::Error) -> bool {
    error.is_request() || error.is_timeout() || error.is_body() || error.is_decode()
}
