//! What can go wrong with models and data sets of the Hub.

use crate::RepoKind;
use crate::words::{access, after, at, cut, file_of, saying, size, told_to, wait};
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// A cause from hf-hub or below it.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// What can go wrong with models and data sets of the Hub.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that no repository can have.
    #[error("`{repo}` is no id of a {kind} on the Hub")]
    BadRepoId {
        /// What was looked for.
        kind: RepoKind,
        /// The name.
        repo: String,
    },
    /// A name that no branch or tag can have.
    #[error("`{revision}` is no branch, tag or commit of `{repo}`")]
    BadRevision {
        /// The repository.
        repo: String,
        /// The name.
        revision: String,
    },
    /// An address that is none, or has a secret in it. It is not shown, for it may.
    #[error("the Hub's address, as `HF_ENDPOINT` gives it, {reason}")]
    BadEndpoint {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A patience that is no number of seconds.
    #[error("`{variable}` is not a whole number of seconds from 1 to a day")]
    BadPatience {
        /// The variable.
        variable: &'static str,
    },
    /// Neither a home folder nor a variable that names a cache.
    #[error("there is no home folder for the cache of the Hub")]
    NoCacheFolder,
    /// No such repository, or one that must not be seen: the Hub does not tell these apart.
    #[error("the Hub has no {kind} `{repo}`{}", told_to(*has_token))]
    NoSuchRepo {
        /// What was looked for.
        kind: RepoKind,
        /// The repository.
        repo: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// A repository with a licence to accept, or one that the token may not read.
    #[error("no access to `{repo}`: {}", access(*is_gated, *has_token))]
    NoAccess {
        /// The repository.
        repo: String,
        /// Address of its page.
        page: String,
        /// Whether its licence must be accepted first.
        is_gated: bool,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// A token that the Hub does not know, or not any more.
    #[error("the Hub does not accept the token, asked for `{repo}`")]
    TokenRejected {
        /// The repository.
        repo: String,
    },
    /// No such branch, tag or commit.
    #[error("`{repo}` has no revision `{revision}`")]
    NoSuchRevision {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// A repository that is no transformers model.
    #[error("`{repo}` has no config.json at commit {commit}")]
    NoConfig {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
    },
    /// A repository with a PEFT adapter and no model.
    #[error(
        "`{repo}` holds a PEFT adapter (`adapter_config.json`) at commit {commit}, and no model"
    )]
    Adapter {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
    },
    /// A model without weights that can be read.
    #[error("`{repo}` has no weights as safetensors at commit {commit}")]
    NoSafetensors {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
        /// Names of the weight files in other formats.
        others: Vec<String>,
    },
    /// An index of shards that is no JSON, or not of the right form.
    #[error("`{path}` is no index of safetensors files")]
    BadIndex {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Cause,
    },
    /// An index that names a file elsewhere, or one that is not there.
    #[error("`{path}` names the file `{shard}`, which `{repo}` does not have")]
    BadShard {
        /// The repository.
        repo: String,
        /// The index.
        path: PathBuf,
        /// The file it names.
        shard: String,
    },
    /// A data set with a file whose path leads elsewhere.
    #[error("`{repo}` lists a file called {file:?}, which is no path in a repository")]
    BadFileName {
        /// The repository.
        repo: String,
        /// The path.
        file: String,
    },
    /// A file that a data set does not have.
    #[error("`{repo}` has no file `{file}` at commit {commit}")]
    NoSuchFile {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
        /// The file.
        file: String,
    },
    /// A README.md that is no card.
    #[error("README.md of `{repo}` cannot be read as the data set's card: {reason}")]
    BadCard {
        /// The repository.
        repo: String,
        /// Why not.
        reason: &'static str,
    },
    /// It is not known which files a data set has, and nobody may be asked.
    #[error(
        "offline, and the list of the files of `{repo}` at commit {commit} is not in the cache \
         `{cache_dir}`"
    )]
    NotListed {
        /// The repository.
        repo: String,
        /// The commit.
        commit: String,
        /// The folder of the cache.
        cache_dir: PathBuf,
    },
    /// Not in the cache, and nobody may be asked.
    #[error(
        "offline, and {}`{repo}` at revision `{revision}` is not in the cache `{cache_dir}`",
        file_of(file.as_deref())
    )]
    NotCached {
        /// The repository.
        repo: String,
        /// The branch, tag or commit.
        revision: String,
        /// The file that is missing; `None`: it is not even known which commit is meant.
        file: Option<String>,
        /// The folder of the cache.
        cache_dir: PathBuf,
    },
    /// Too many requests, or a wait that is too long.
    #[error(
        "the Hub at {endpoint} asks to slow down{}, asked for `{repo}`{}",
        wait(*retry_after),
        after(*waited)
    )]
    RateLimited {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// How long it had this program wait before.
        waited: Duration,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// No connection, or one that broke.
    #[error("cannot reach the Hub at {endpoint} for `{repo}`")]
    Network {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// Why not.
        source: Cause,
    },
    /// A refusal that means nothing more precise.
    #[error("the Hub at {endpoint} answers with status {status} when asked for `{repo}`")]
    Server {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// HTTP status.
        status: u16,
    },
    /// An answer that is not a Hub's.
    #[error("cannot make sense of what {endpoint} answers about `{repo}`")]
    Answer {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// Why not.
        source: Cause,
    },
    /// An answer without an end.
    #[error("what {endpoint} answers about `{repo}` is longer than {}", size(*max_bytes))]
    AnswerTooLong {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// The most that an answer may have.
        max_bytes: u64,
    },
    /// A listing without an end.
    #[error("the list of files of `{repo}` at {endpoint} {reason}")]
    EndlessListing {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// How it does not end.
        reason: String,
    },
    /// An answer that trickles.
    #[error(
        "{endpoint} sends less than {min_bytes_per_second} bytes a second of `{repo}`, for {} s",
        window.as_secs_f64()
    )]
    TooSlow {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// The rate.
        min_bytes_per_second: u64,
        /// How long the rate was lower, at least.
        window: Duration,
    },
    /// An answer, other than a file, that takes too long.
    #[error("{endpoint} takes longer than {} s to answer about `{repo}`", max_time.as_secs_f64())]
    TooLate {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// How long it may take.
        max_time: Duration,
    },
    /// A file of a length that cannot be.
    #[error(
        "{endpoint} lists `{}` of `{repo}` with {n_bytes} bytes, which {reason}",
        cut(file)
    )]
    BadSize {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// The file.
        file: String,
        /// Its length, by the Hub.
        n_bytes: u64,
        /// Why that cannot be.
        reason: &'static str,
    },
    /// A file that is read as a whole, and too long for that.
    #[error("`{file}` of `{repo}` has {}; no more than {} are read", size(*n_bytes), size(*max_bytes))]
    FileTooLong {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// Its length.
        n_bytes: u64,
        /// The most that it may have.
        max_bytes: u64,
    },
    /// A disk without room for a download.
    #[error(
        "`{repo}` needs {} more in the cache `{folder}`, where {} are free",
        size(*needed_bytes),
        size(*free_bytes)
    )]
    NoSpace {
        /// The repository.
        repo: String,
        /// The folder of the cache.
        folder: PathBuf,
        /// What is to be downloaded and not there yet.
        needed_bytes: u64,
        /// What the file system has left.
        free_bytes: u64,
    },
    /// What arrived is not the file; it was removed.
    #[error("`{file}` of `{repo}` arrived damaged: {reason}")]
    DamagedDownload {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: Damage,
    },
    /// A file in the cache is not what the commit has.
    #[error("`{file}` of `{repo}` is damaged in the cache, `{path}`: {reason}")]
    DamagedCache {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// Where it lies.
        path: PathBuf,
        /// What is wrong with it.
        reason: Damage,
    },
    /// Nothing can be uploaded: nobody may be asked.
    #[error("offline, so nothing can be uploaded to `{repo}`")]
    OfflineUpload {
        /// The repository.
        repo: String,
    },
    /// Uploading without a token.
    #[error("uploading to `{repo}` needs a token, and there is none")]
    NoToken {
        /// The repository.
        repo: String,
    },
    /// A token that may not write there.
    #[error("this token may not write to `{repo}`")]
    NoWriteAccess {
        /// The repository.
        repo: String,
    },
    /// A repository to upload to without its owner.
    #[error("`{repo}` does not say whose it is")]
    NoOwner {
        /// The name.
        repo: String,
    },
    /// A name that a repository of another kind has.
    #[error("the name `{repo}` is taken by something that is no {kind}{}", at(page.as_deref()))]
    NameTaken {
        /// What was to be made.
        kind: RepoKind,
        /// The name.
        repo: String,
        /// Address of what has the name, where the Hub says it.
        page: Option<String>,
    },
    /// A commit where a branch is needed.
    #[error("`{revision}` of `{repo}` is a commit, to which nothing can be added")]
    NotABranch {
        /// The repository.
        repo: String,
        /// The commit.
        revision: String,
    },
    /// A file for a path that no repository can have.
    #[error("{path:?} is no path in a repository")]
    BadUploadPath {
        /// The path.
        path: String,
    },
    /// Two files for the same path.
    #[error("there are two files for `{path}`")]
    DuplicateUpload {
        /// The path in the repository.
        path: String,
    },
    /// A file that changed while it was uploaded.
    #[error("`{path}` was changed while it was uploaded")]
    SourceChanged {
        /// The path in the repository.
        path: String,
    },
    /// A file that the repository's own rules leave out.
    #[error("`{path}` is left out by .gitignore of `{repo}`")]
    IgnoredUpload {
        /// The repository.
        repo: String,
        /// The path in the repository.
        path: String,
    },
    /// A large file that the Hub wants in the text of a commit.
    #[error("`{repo}` takes `{path}` only as a small file, and it has {n_bytes} bytes")]
    TooLargeForCommit {
        /// The repository.
        repo: String,
        /// The path in the repository.
        path: String,
        /// Its length.
        n_bytes: u64,
    },
    /// A Hub that takes large files in no way that is known here.
    #[error("`{repo}` takes large files only by `{transfer}`, which is not known here")]
    UnknownTransfer {
        /// The repository.
        repo: String,
        /// The Hub's name for the way.
        transfer: String,
    },
    /// The Hub does not want what was sent.
    #[error(
        "the Hub refuses {what} for `{repo}` with status {status}{}",
        saying(message)
    )]
    Refused {
        /// The repository.
        repo: String,
        /// What was sent.
        what: String,
        /// HTTP status.
        status: u16,
        /// Why, by the Hub.
        message: String,
    },
    /// The store of large files.
    #[error("cannot store the large files of `{repo}` at the Hub")]
    Store {
        /// The repository.
        repo: String,
        /// Why not.
        source: Cause,
    },
    /// Others committed all the time.
    #[error("`{branch}` of `{repo}` was changed by others, {n_attempts} times in a row")]
    Overtaken {
        /// The repository.
        repo: String,
        /// The branch.
        branch: String,
        /// How often it was tried.
        n_attempts: u32,
    },
    /// The answer to a commit was lost, and nobody says whether it was made.
    #[error("it is not known whether the commit to `{branch}` of `{repo}` was made")]
    CommitUnknown {
        /// The repository.
        repo: String,
        /// The branch.
        branch: String,
        /// Why it is not known.
        source: Box<HubError>,
    },
    /// A file or folder of this machine.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The machine has no thread left for the network.
    #[error("cannot start a thread for the network")]
    Thread {
        /// Why not.
        source: std::io::Error,
    },
}

/// How a file differs from the one that the Hub has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// Another length.
    #[error("{got} bytes instead of {expected}")]
    Length {
        /// By the Hub, in bytes.
        expected: u64,
        /// In bytes.
        got: u64,
    },
    /// The right length, or an unknown one, but other bytes.
    #[error("its hash is not {expected}")]
    Content {
        /// By the Hub: SHA-256, or git's SHA-1 of a small file.
        expected: String,
    },
}

impl HubError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Whether it says nothing of the repository, only of the way to it.
    pub(crate) fn is_of_the_way(&self) -> bool {
        match self {
            Self::Network { .. } | Self::RateLimited { .. } | Self::Answer { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Server { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_cached_is_named() {
        let message = |file: Option<&str>| {
            let error = HubError::NotCached {
                repo: "a/b".into(),
                revision: "main".into(),
                file: file.map(str::to_owned),
                cache_dir: "/cache".into(),
            };
            error.to_string()
        };
        let rest = "`a/b` at revision `main` is not in the cache `/cache`";
        assert_eq!(message(None), format!("offline, and {rest}"));
        assert_eq!(
            message(Some("config.json")),
            format!("offline, and `config.json` of {rest}")
        );
    }

    #[test]
    fn a_rate_limit_says_how_long() {
        let error = HubError::RateLimited {
            repo: "a/b".into(),
            endpoint: "https://host".into(),
            waited: Duration::from_secs(90),
            retry_after: Some(Duration::from_secs(42)),
            has_token: false,
        };
        assert_eq!(
            error.to_string(),
            "the Hub at https://host asks to slow down for 42 seconds, asked for `a/b`, after 90 \
             seconds of waiting"
        );
        assert!(error.hint().unwrap().contains("HF_TOKEN"));
    }
}
