//! What can go wrong with models and data sets of the Hub.

use fault::Fault;
use miette::Diagnostic;
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use thiserror::Error;

/// A cause from hf-hub or below it.
pub(crate) type Cause = Box<dyn StdError + Send + Sync>;

/// What can go wrong with models and data sets of the Hub, by what is done about it.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum HubError {
    /// The name of a branch or tag is not valid.
    #[error(transparent)]
    #[diagnostic(transparent)]
    BadRevision(Fault),
    /// There is no such repository, or it must not be seen: the Hub does not tell these apart.
    #[error(transparent)]
    #[diagnostic(transparent)]
    NoSuchRepo(Fault),
    /// There is no such branch, tag or commit.
    #[error(transparent)]
    #[diagnostic(transparent)]
    NoSuchRevision(Fault),
    /// Offline, and not in the cache.
    #[error(transparent)]
    #[diagnostic(transparent)]
    NotCached(Fault),
    /// There were too many requests, or the Hub asks for too long a wait.
    #[error(transparent)]
    #[diagnostic(transparent)]
    RateLimited(Fault),
    /// There is no connection, or it broke.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Network(Fault),
    /// The Hub has a fault, or what answers is not a Hub. A moment later it may be otherwise.
    #[error(transparent)]
    #[diagnostic(transparent)]
    HubFails(Fault),
    /// The Hub does not want what it was asked or sent.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Refused(Fault),
    /// Anything else: what was asked for, what a repository holds, a right, the cache, this machine.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

/// The cause of all: what is above it says again and again that a request failed.
fn first_cause(cause: Cause) -> Cause {
    let mut first: Option<String> = None;
    let mut next = cause.source();
    while let Some(error) = next {
        first = Some(error.to_string());
        next = error.source();
    }
    first.map_or(cause, Into::into)
}

impl From<HubError> for Fault {
    fn from(error: HubError) -> Self {
        Self::of(&error)
    }
}

impl HubError {
    pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let fault = Fault::io(action, path);
        |source| {
            let hint = "can the folder be written, and is there space on the disk?";
            Self::Fault(fault(source).with_hint(hint))
        }
    }

    /// No connection to the Hub at `endpoint`.
    pub(crate) fn network(repo: &str, endpoint: &str, source: impl Into<Cause>) -> Self {
        let fault = Fault::input(format!("cannot reach the Hub at {endpoint} for `{repo}`"));
        let hint = "without a network, `HF_HUB_OFFLINE=1` uses what is in the cache";
        Self::Network(fault.with_hint(hint).because(first_cause(source.into())))
    }

    /// Whether it says nothing of the repository, only of the way to it.
    pub(crate) fn is_of_the_way(&self) -> bool {
        matches!(
            self,
            Self::Network(_) | Self::RateLimited(_) | Self::HubFails(_)
        )
    }
}
