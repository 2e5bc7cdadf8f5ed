//! What can go wrong with models and data sets of the Hub.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use thiserror::Error;

/// A cause from hf-hub or below it.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// What can go wrong with models and data sets of the Hub, by what can be done about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HubError {
    /// The id of a repository, a path in it or a setting is not valid.
    #[error(transparent)]
    Invalid(Message),
    /// The name of a branch or tag is not valid.
    #[error(transparent)]
    BadRevision(Message),
    /// There is no such repository, or it must not be seen: the Hub does not tell these apart.
    #[error(transparent)]
    NoSuchRepo(Message),
    /// There is no such branch, tag or commit.
    #[error(transparent)]
    NoSuchRevision(Message),
    /// A token is missing, not accepted or without the right, or there is a licence to accept.
    #[error(transparent)]
    NoAccess(Message),
    /// What a repository holds, or what is sent of it, cannot be used here.
    #[error(transparent)]
    Unusable(Message),
    /// Offline, and not in the cache.
    #[error(transparent)]
    NotCached(Message),
    /// The cache has no folder or no room, a damaged file, or not the list of a commit's files.
    #[error(transparent)]
    Cache(Message),
    /// There were too many requests, or the Hub asks for too long a wait.
    #[error(transparent)]
    RateLimited(Message),
    /// There is no connection, or it broke.
    #[error(transparent)]
    Network(Message),
    /// The Hub has a fault, or what answers is not a Hub. A moment later it may be otherwise.
    #[error(transparent)]
    Fault(Message),
    /// The Hub does not want what it was asked or sent.
    #[error(transparent)]
    Refused(Message),
    /// Nothing was uploaded, or it is not known whether it was.
    #[error(transparent)]
    Upload(Message),
    /// A file, folder or thread of this machine.
    #[error(transparent)]
    Io(Message),
}

/// What is said of an error.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct Message {
    text: String,
    hint: Option<String>,
    source: Option<Cause>,
}

impl Message {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            hint: None,
            source: None,
        }
    }

    /// With what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into());
        Self { hint, ..self }
    }

    pub(crate) fn caused_by(self, source: impl Into<Cause>) -> Self {
        let source = Some(source.into());
        Self { source, ..self }
    }
}

impl HubError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        self.message().hint.clone()
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let message = Message::new(format!("cannot {action} `{}`", path.display()));
            let message =
                message.hint("can the folder be written, and is there space on the disk?");
            Self::Io(message.caused_by(source))
        }
    }

    /// No connection to the Hub at `endpoint`.
    pub(crate) fn network(repo: &str, endpoint: &str, source: impl Into<Cause>) -> Self {
        let message = Message::new(format!("cannot reach the Hub at {endpoint} for `{repo}`"));
        let hint = "where there is no network, `HF_HUB_OFFLINE=1` takes what is in the cache";
        Self::Network(message.hint(hint).caused_by(source))
    }

    /// Whether it says nothing of the repository, only of the way to it.
    pub(crate) fn is_of_the_way(&self) -> bool {
        matches!(
            self,
            Self::Network(_) | Self::RateLimited(_) | Self::Fault(_)
        )
    }

    fn message(&self) -> &Message {
        let (Self::Invalid(message)
        | Self::BadRevision(message)
        | Self::NoSuchRepo(message)
        | Self::NoSuchRevision(message)
        | Self::NoAccess(message)
        | Self::Unusable(message)
        | Self::NotCached(message)
        | Self::Cache(message)
        | Self::RateLimited(message)
        | Self::Network(message)
        | Self::Fault(message)
        | Self::Refused(message)
        | Self::Upload(message)
        | Self::Io(message)) = self;
        message
    }
}
