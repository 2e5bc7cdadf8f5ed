//! What the user should know, though it is not an error.

use std::fmt;
use std::time::Duration;

/// Something odd that is not an error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// The Hub could not say what the branch or tag means today; the commit that it last meant was
    /// taken.
    FromCache {
        /// The repository.
        repo: String,
        /// The branch or tag.
        revision: String,
        /// The commit.
        commit: String,
        /// Why the Hub could not say.
        reason: String,
    },
    /// The Hub asks to wait, and is waited for.
    Waiting {
        /// The repository.
        repo: String,
        /// Address of the Hub.
        endpoint: String,
        /// How long.
        wait: Duration,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromCache {
                repo,
                revision,
                commit,
                reason,
            } => write!(
                f,
                "{reason}; taking commit {commit} from the cache, which `{revision}` of `{repo}` \
                 meant when it was last asked for"
            ),
            Self::Waiting {
                repo,
                endpoint,
                wait,
            } => write!(
                f,
                "{endpoint} asks to wait {} seconds before it says more about `{repo}`; waiting",
                wait.as_secs()
            ),
        }
    }
}
