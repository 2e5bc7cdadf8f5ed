//! What can go wrong with models and data sets of the Hub.

use crate::RepoKind;
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
    /// An address that is none.
    #[error("the Hub's address `{endpoint}` is none")]
    BadEndpoint {
        /// The address, without a password.
        endpoint: String,
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
        source: serde_json::Error,
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
    /// Too many requests.
    #[error("the Hub asks to slow down{}", wait(*retry_after))]
    RateLimited {
        /// The repository.
        repo: String,
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
    /// A file or folder of the cache.
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

fn told_to(has_token: bool) -> &'static str {
    match has_token {
        true => " that this token may see",
        false => "",
    }
}

fn access(is_gated: bool, has_token: bool) -> &'static str {
    match (is_gated, has_token) {
        (true, true) => "it is gated, and this token's owner has no access yet",
        (true, false) => "it is gated, and there is no token",
        (false, true) => "this token may not read it",
        (false, false) => "there is no token",
    }
}

fn file_of(file: Option<&str>) -> String {
    file.map(|file| format!("`{file}` of ")).unwrap_or_default()
}

fn wait(retry_after: Option<Duration>) -> String {
    let seconds = |wait: Duration| format!(" for {} seconds", wait.as_secs());
    retry_after.map(seconds).unwrap_or_default()
}

impl HubError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::BadRepoId { .. } => "ids look like `name` or `owner/name`",
            Self::BadRevision { .. } => "look at the repository's page for its branches and tags",
            Self::BadEndpoint { .. } => "`HF_ENDPOINT` takes an address such as `https://host`",
            Self::NoCacheFolder => "name a folder in `HF_HOME`",
            Self::NoSuchRepo {
                has_token: true, ..
            } => "is the name right, and may the token's owner see it if it is private?",
            Self::NoSuchRepo { kind, .. } => {
                return Some(format!(
                    "is the name right? private {kind}s need a token: log in with `hf auth login`, \
                     or set `HF_TOKEN`"
                ));
            }
            Self::NoAccess { .. } => return self.access_hint(),
            Self::TokenRejected { .. } => {
                "make a new one in the settings of your account, and set `HF_TOKEN` or run \
                 `hf auth login`"
            }
            Self::NoSuchRevision { .. } => "look at the repository's page for branches and tags",
            Self::NoConfig { .. } => "a model that transformers loads has one",
            Self::NoSafetensors { others, .. } => return Some(convert_hint(others)),
            Self::NotCached { .. } | Self::NotListed { .. } => {
                "unset `HF_HUB_OFFLINE`, or run this once where there is a network and the same \
                 cache"
            }
            Self::RateLimited { has_token, .. } => match has_token {
                true => "wait, then run it again; what was downloaded is kept",
                false => "wait, then run it again; with a token (`HF_TOKEN`) the limits are higher",
            },
            Self::Network { .. } => {
                "where there is no network, `HF_HUB_OFFLINE=1` takes what is in the cache"
            }
            Self::Server { status, .. } if *status >= 500 => {
                "this is the Hub's own trouble; try again later"
            }
            Self::Answer { .. } => "is `HF_ENDPOINT` a Hub, and no page of a proxy in between?",
            Self::DamagedDownload { .. } => "it was removed; run this again to download it anew",
            Self::DamagedCache { path, .. } => {
                return Some(format!(
                    "delete `{}` to download it anew; to use an edited file, copy its folder and \
                     name the copy",
                    path.display()
                ));
            }
            Self::Io { .. } => "can the folder be written, and is there space on the disk?",
            Self::NoSuchFile { .. } => "look at the repository's page for its files",
            Self::BadCard { .. } => "copy the data set's files into a folder, and name that",
            Self::Server { .. }
            | Self::BadFileName { .. }
            | Self::BadIndex { .. }
            | Self::BadShard { .. }
            | Self::Thread { .. } => return None,
        };
        Some(hint.into())
    }

    fn access_hint(&self) -> Option<String> {
        let Self::NoAccess {
            page,
            is_gated,
            has_token,
            ..
        } = self
        else {
            return None;
        };
        let accept = format!("accept the licence at {page}");
        let token = "set `HF_TOKEN` or log in with `hf auth login`";
        Some(match (is_gated, has_token) {
            (true, true) => format!("{accept}, with the account that the token belongs to"),
            (true, false) => format!("{accept}, then {token}"),
            (false, true) => "does the token have the right to read this repository?".into(),
            (false, false) => token.into(),
        })
    }

    /// Whether it says nothing of the repository, only of the way to it.
    pub(crate) fn is_of_the_way(&self) -> bool {
        match self {
            Self::Network { .. } | Self::RateLimited { .. } | Self::Answer { .. } => true,
            Self::Server { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

fn convert_hint(others: &[String]) -> String {
    let convert = "load it with transformers and save it with `save_pretrained`, which writes \
                   safetensors, then name that folder";
    match others {
        [] => "there are no weights in other formats either".into(),
        others => format!("it has {}; {convert}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_about_access_say_what_is_missing() {
        let hint = |is_gated, has_token| {
            let error = HubError::NoAccess {
                repo: "a/b".into(),
                page: "https://host/datasets/a/b".into(),
                is_gated,
                has_token,
            };
            (error.to_string(), error.hint().unwrap())
        };
        let (message, gated) = hint(true, false);
        assert_eq!(
            message,
            "no access to `a/b`: it is gated, and there is no token"
        );
        assert!(
            gated.contains("accept the licence at https://host/datasets/a/b")
                && gated.contains("HF_TOKEN"),
            "{gated}"
        );
        let (_, with_token) = hint(true, true);
        assert!(!with_token.contains("HF_TOKEN"), "{with_token}");
        let (_, private) = hint(false, false);
        assert!(!private.contains("licence"), "{private}");
    }

    #[test]
    fn the_hint_names_the_formats_that_are_there() {
        let error = HubError::NoSafetensors {
            repo: "a/b".into(),
            commit: "0".repeat(40),
            others: vec!["pytorch_model.bin".into(), "tf_model.h5".into()],
        };
        let hint = error.hint().unwrap();
        assert!(
            hint.starts_with("it has pytorch_model.bin, tf_model.h5;"),
            "{hint}"
        );
        assert!(hint.contains("save_pretrained"), "{hint}");
    }

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
            retry_after: Some(Duration::from_secs(42)),
            has_token: false,
        };
        assert_eq!(
            error.to_string(),
            "the Hub asks to slow down for 42 seconds"
        );
        assert!(error.hint().unwrap().contains("HF_TOKEN"));
    }
}
