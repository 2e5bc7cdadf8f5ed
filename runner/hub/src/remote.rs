//! What the Hub is asked: the commit of a revision, the files of a commit, their contents.

use crate::digest::Etag;
use crate::name::{RepoId, is_commit};
use crate::{HubError, HubSettings, Token};
use futures::TryStreamExt;
use hf_hub::repository::download::HFByteStream;
use hf_hub::repository::{HFRepository, RepoTreeEntry};
use hf_hub::{HFClient, HFError, RepoTypeModel, split_id};
use reqwest::header::{ETAG, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use std::time::Duration;

/// Longest chain of redirects before a file's name is found.
const MAX_REDIRECTS: usize = 10;

/// The name of a large file's content, given where the Hub redirects to a store.
const LINKED_ETAG: &str = "x-linked-etag";

/// A token that cannot stand in a header, so that hf-hub 1.0.0 sends none. Without a token it would
/// look for one in the environment, to send it wherever the settings point.
const NO_TOKEN: &str = "\n";

/// A client of the Hub for one repository.
pub(crate) struct Remote<'a> {
    settings: &'a HubSettings,
    repo: &'a RepoId,
    files: HFRepository<RepoTypeModel>,
    /// Follows no redirect: the Hub's own answer names the content of a large file, its store's
    /// does not.
    heads: Client,
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub(crate) struct RemoteFile {
    pub(crate) name: String,
    pub(crate) n_bytes: u64,
    /// The name of its content; `None`: a large file, whose name must be asked for.
    pub(crate) etag: Option<Etag>,
}

impl<'a> Remote<'a> {
    pub(crate) fn new(settings: &'a HubSettings, repo: &'a RepoId) -> Result<Self, HubError> {
        let (owner, name) = split_id(repo.as_str());
        let clients = || {
            let heads = http_client(settings).redirect(Policy::none()).build()?;
            // hf-hub waits up to twice this at first.
            let delay = settings.retry_delay / 2;
            let client = HFClient::builder()
                .endpoint(&settings.endpoint)
                .token(settings.token.as_ref().map_or(NO_TOKEN, Token::secret))
                .cache_dir(&settings.cache_dir)
                .client(http_client(settings).build()?)
                .retry_max_attempts(settings.n_retries as usize)
                .retry_base_delay(delay)
                .build()?;
            Ok((client.model(owner, name), heads))
        };
        let (files, heads) =
            clients().map_err(|error: HFError| Asked::new(settings, repo, "").failed(error))?;
        Ok(Self {
            settings,
            repo,
            files,
            heads,
        })
    }

    fn asked(&self, revision: &'a str) -> Asked<'a> {
        Asked::new(self.settings, self.repo, revision)
    }

    /// The commit that a branch or tag means.
    pub(crate) async fn commit_of(&self, name: &'a str) -> Result<String, HubError> {
        let asked = self.asked(name);
        // Nothing but the commit: the whole answer lists every file of the repository.
        let info = self.files.info().revision(name).expand(vec!["sha".into()]);
        let info = info.send().await.map_err(|error| asked.failed(error))?;
        let commit = info.sha.filter(|sha| is_commit(sha));
        commit.ok_or_else(|| asked.odd("it names no commit"))
    }

    /// The files at the top of a commit's tree.
    pub(crate) async fn files(&self, commit: &'a str) -> Result<Vec<RemoteFile>, HubError> {
        let asked = self.asked(commit);
        let tree = self.files.list_tree().revision(commit).send();
        let tree = tree.map_err(|error| asked.failed(error))?;
        let entries: Vec<_> = tree
            .try_collect()
            .await
            .map_err(|error| asked.failed(error))?;
        Ok(entries.into_iter().filter_map(remote_file).collect())
    }

    /// The name of a large file's content.
    pub(crate) async fn etag(&self, commit: &'a str, file: &str) -> Result<Etag, HubError> {
        let asked = self.asked(commit);
        let HubSettings { endpoint, .. } = self.settings;
        let address = format!("{endpoint}/{}/resolve/{commit}/{file}", self.repo.as_str());
        let start = Url::parse(&address).map_err(|error| asked.odd(error))?;
        let mut url = start.clone();
        for _ in 0..MAX_REDIRECTS {
            let is_same_host = url.origin() == start.origin();
            let response = self.head(&url, is_same_host).await;
            let response = response.map_err(|error| asked.unreachable(error))?;
            if let Some(etag) = etag_of(&response) {
                return Ok(etag);
            }
            if !response.status().is_redirection() {
                return Err(asked.refused(&Refusal::of(&response)));
            }
            let next = text(response.headers(), LOCATION.as_str());
            url = next
                .and_then(|next| url.join(next).ok())
                .ok_or_else(|| asked.odd("it redirects to nowhere"))?;
        }
        Err(asked.odd("it redirects for ever"))
    }

    /// Asks for the headers alone, again where that may help.
    async fn head(&self, url: &Url, with_token: bool) -> reqwest::Result<Response> {
        let token = self.settings.token.as_ref().filter(|_| with_token);
        let mut delay = self.settings.retry_delay;
        for _ in 0..self.settings.n_retries {
            match self.head_once(url, token.map(Token::secret)).await {
                Ok(response) if !is_passing(response.status().as_u16()) => return Ok(response),
                Err(error) if !(error.is_connect() || error.is_timeout()) => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(delay).await,
            }
            delay *= 2;
        }
        self.head_once(url, token.map(Token::secret)).await
    }

    async fn head_once(&self, url: &Url, token: Option<&str>) -> reqwest::Result<Response> {
        let request = self.heads.head(url.clone());
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await
    }

    /// The bytes of a file from `first_byte` on.
    pub(crate) async fn bytes(
        &self,
        commit: &'a str,
        file: &RemoteFile,
        first_byte: u64,
    ) -> Result<HFByteStream, HubError> {
        let request = self.files.download_file_stream().revision(commit);
        let range = (first_byte > 0).then_some(first_byte..file.n_bytes);
        let answer = request.filename(&file.name).maybe_range(range).send().await;
        let (_, bytes) = answer.map_err(|error| self.asked(commit).failed(error))?;
        Ok(bytes)
    }

    /// What is wrong when a file broke off.
    pub(crate) fn broken_off(&self, commit: &'a str, error: HFError) -> HubError {
        self.asked(commit).failed(error)
    }
}

fn http_client(settings: &HubSettings) -> reqwest::ClientBuilder {
    let agent = concat!("sae-run/", env!("CARGO_PKG_VERSION"), "; hf-hub/1.0.0");
    Client::builder()
        .user_agent(agent)
        .connect_timeout(settings.timeout)
        .read_timeout(settings.timeout)
}

fn remote_file(entry: RepoTreeEntry) -> Option<RemoteFile> {
    let RepoTreeEntry::File {
        oid,
        size,
        path,
        lfs,
        xet_hash,
        ..
    } = entry
    else {
        return None;
    };
    // Of a large file this is the name of a pointer to it, not of its content.
    let is_small = lfs.is_none() && xet_hash.is_none();
    Some(RemoteFile {
        name: path,
        n_bytes: size,
        etag: is_small.then(|| Etag::parse(&oid)).flatten(),
    })
}

/// Refusals have ETags too, of their own bodies.
fn etag_of(response: &Response) -> Option<Etag> {
    let header = |name| text(response.headers(), name);
    let etag = match response.status() {
        status if status.is_success() => header(LINKED_ETAG).or_else(|| header(ETAG.as_str())),
        status if status.is_redirection() => header(LINKED_ETAG),
        _ => None,
    };
    Etag::parse(etag?)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a status says that a moment later it may be another.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// What the Hub was asked about, for errors.
struct Asked<'a> {
    repo: &'a RepoId,
    revision: &'a str,
    settings: &'a HubSettings,
}

/// An answer with a status that is no success.
struct Refusal {
    status: u16,
    /// The Hub's `X-Error-Code`.
    code: Option<String>,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn of(response: &Response) -> Self {
        let header = |name| text(response.headers(), name);
        let seconds = header(RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        Self {
            status: response.status().as_u16(),
            code: header("x-error-code").map(str::to_owned),
            retry_after: seconds.map(Duration::from_secs),
        }
    }
}

impl<'a> Asked<'a> {
    fn new(settings: &'a HubSettings, repo: &'a RepoId, revision: &'a str) -> Self {
        Self {
            repo,
            revision,
            settings,
        }
    }

    fn repo(&self) -> String {
        self.repo.as_str().into()
    }

    fn endpoint(&self) -> String {
        self.settings.shown_endpoint()
    }

    /// What hf-hub's error means for us.
    fn failed(&self, error: HFError) -> HubError {
        let (context, retry_after) = match error {
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context } => (context, None),
            HFError::RateLimited {
                context,
                retry_after,
            } => (context, retry_after),
            // It takes any missing thing for what was asked for: the code knows better.
            HFError::RepoNotFound {
                context: Some(context),
                ..
            }
            | HFError::RevisionNotFound {
                context: Some(context),
                ..
            }
            | HFError::EntryNotFound {
                context: Some(context),
                ..
            } => (context, None),
            HFError::Request { source, .. } if source.is_decode() => return self.odd(hide(source)),
            HFError::Request { source, .. } => return self.unreachable(source),
            other => return self.odd(other),
        };
        self.refused(&Refusal {
            status: context.status.as_u16(),
            code: context.error_code,
            retry_after,
        })
    }

    fn refused(&self, refusal: &Refusal) -> HubError {
        let repo = self.repo();
        let has_token = self.settings.token.is_some();
        let no_access = |repo, is_gated| HubError::NoAccess {
            repo,
            is_gated,
            has_token,
        };
        match (refusal.status, refusal.code.as_deref()) {
            (429, _) => HubError::RateLimited {
                repo,
                retry_after: refusal.retry_after,
                has_token,
            },
            (_, Some("GatedRepo")) => no_access(repo, true),
            (_, Some("RepoNotFound")) => HubError::NoSuchRepo { repo, has_token },
            (404, Some("RevisionNotFound") | None) => HubError::NoSuchRevision {
                repo,
                revision: self.revision.into(),
            },
            (401, _) if has_token => HubError::TokenRejected { repo },
            (401 | 403, _) => no_access(repo, false),
            (status, _) => HubError::Server {
                repo,
                endpoint: self.endpoint(),
                status,
            },
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> HubError {
        HubError::Network {
            repo: self.repo(),
            endpoint: self.endpoint(),
            source: hide(error).into(),
        }
    }

    fn odd(&self, why: impl Into<crate::error::Cause>) -> HubError {
        HubError::Answer {
            repo: self.repo(),
            endpoint: self.endpoint(),
            source: why.into(),
        }
    }
}

/// Without its address, which may hold a signature or a password.
fn hide(error: reqwest::Error) -> reqwest::Error {
    error.without_url()
}
