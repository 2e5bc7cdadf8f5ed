//! The bytes of a file, from the Hub or from a store of large files.

use crate::context::{Context, client_builder};
use crate::tree::RemoteFile;
use crate::{HubError, RepoKind, Token, exchange, refusal};
use futures::StreamExt;
use hf_hub::repository::HFRepository;
use hf_hub::repository::download::HFByteStream;
use hf_hub::{HFClient, HFError, RepoType, RepoTypeDataset, RepoTypeModel, split_id};
use reqwest::Response;
use reqwest::header::RANGE;
use std::ops::{Deref, Range};
use std::sync::OnceLock;
use tokio::time::timeout;

/// A token that cannot be in a header, so that hf-hub 1.0.0 sends no token. Without a token it would
/// look for one in the environment, to send it wherever the settings point.
const NO_TOKEN: &str = "\n";

/// Where the Hub says that a file is in the Xet store, and how to have it from there.
const XET_HASH: &str = "x-xet-hash";

/// The files of a commit.
pub(crate) struct Contents<'a> {
    context: &'a Context<'a>,
    commit: &'a str,
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

impl<'a> Contents<'a> {
    pub(crate) fn new(context: &'a Context<'a>, commit: &'a str) -> Self {
        Self {
            context,
            commit,
            xet_files: OnceLock::new(),
        }
    }

    /// The bytes of a file from `first_byte` on.
    pub(crate) async fn bytes(
        &self,
        file: &RemoteFile,
        first_byte: u64,
    ) -> Result<FileBytes, HubError> {
        let Self {
            context, commit, ..
        } = *self;
        let url = context.file_url(commit, &file.name);
        let head = exchange::send(context, || context.client.head(url.clone()), &url).await?;
        exchange::accepted(context, commit, (head.status, &head.headers))?;
        if head.headers.contains_key(XET_HASH) {
            return self.xet_bytes(file, first_byte).await;
        }
        let request = || {
            let request = context.client.get(url.clone());
            match first_byte {
                0 => request,
                _ => request.header(RANGE, format!("bytes={first_byte}-{}", file.n_bytes - 1)),
            }
        };
        let answer = exchange::open(context, request, &url).await?;
        exchange::accepted(context, commit, (answer.status(), answer.headers()))?;
        Ok(FileBytes::Plain(answer))
    }

    /// The same of a file that the Hub has of the Xet store, by hf-hub. That bounds what it reads by time
    /// alone, so its first question is asked here before, with a longest length for the answer.
    async fn xet_bytes(&self, file: &RemoteFile, first_byte: u64) -> Result<FileBytes, HubError> {
        let Self {
            context, commit, ..
        } = *self;
        exchange::get(context, &context.api("xet-read-token", commit), commit).await?;
        let failed = |error| refusal::failed(context, commit, error);
        let files = match self.xet_files.get() {
            Some(files) => files,
            None => {
                let files = XetFiles::new(context).map_err(failed)?;
                self.xet_files.get_or_init(|| files)
            }
        };
        let range = (first_byte > 0).then_some(first_byte..file.n_bytes);
        let bytes = files.bytes(commit, &file.name, range);
        match timeout(context.settings.limits.max_answer_time, bytes).await {
            Ok(bytes) => bytes.map(FileBytes::OfXet).map_err(failed),
            Err(_) => Err(refusal::too_late(context)),
        }
    }

    /// The next of `bytes`; `None`: those were all.
    pub(crate) async fn next(
        &self,
        bytes: &mut FileBytes,
    ) -> Result<Option<impl Deref<Target = [u8]>>, HubError> {
        match bytes {
            FileBytes::Plain(answer) => {
                let bytes = answer.chunk().await;
                bytes.map_err(|error| refusal::unreachable(self.context, error))
            }
            FileBytes::OfXet(bytes) => {
                let bytes = bytes.next().await.transpose();
                bytes.map_err(|error| refusal::failed(self.context, self.commit, error))
            }
        }
    }
}

impl XetFiles {
    fn new(context: &Context<'_>) -> Result<Self, HFError> {
        let (settings, repo) = (context.settings, context.repo);
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
