//! What the Hub's refusals mean.

use crate::error::Cause;
use crate::name::RepoId;
use crate::remote::RemoteFile;
use crate::words::cut;
use crate::{HubError, HubSettings};
use hf_hub::HFError;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::time::Duration;

/// What the Hub was asked about.
pub(crate) struct Asked<'a> {
    repo: &'a RepoId,
    revision: &'a str,
    settings: &'a HubSettings,
    /// How long was waited so far because the Hub asked for it.
    waited: Duration,
}

/// An answer with a status that is no success.
pub(crate) struct Refusal {
    status: u16,
    /// The Hub's `X-Error-Code`.
    code: Option<String>,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let code = headers.get("x-error-code");
        let code = code.and_then(|code| code.to_str().ok());
        Self {
            status: status.as_u16(),
            code: code.map(str::to_owned),
            retry_after: retry_after(headers),
        }
    }

    /// Whether it is for want of an accepted licence.
    pub(crate) fn is_gated(&self) -> bool {
        self.code.as_deref() == Some("GatedRepo")
    }
}

/// How long the Hub asks to wait. Where it names a moment and not a time, this machine's clock would
/// have to be right, so that counts for nothing.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

impl<'a> Asked<'a> {
    pub(crate) fn new(settings: &'a HubSettings, repo: &'a RepoId, revision: &'a str) -> Self {
        Self {
            repo,
            revision,
            settings,
            waited: Duration::ZERO,
        }
    }

    /// The same, after so long a time of waiting because the Hub asked for it.
    pub(crate) fn after(self, waited: Duration) -> Self {
        Self { waited, ..self }
    }

    fn repo(&self) -> String {
        self.repo.as_str().into()
    }

    fn endpoint(&self) -> String {
        self.settings.endpoint.clone()
    }

    /// What hf-hub's error means for us.
    pub(crate) fn failed(&self, error: HFError) -> HubError {
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

    pub(crate) fn refused(&self, refusal: &Refusal) -> HubError {
        let repo = self.repo();
        let has_token = self.settings.token.is_some();
        let no_access = |repo, is_gated| HubError::NoAccess {
            repo,
            page: self.repo.page(&self.endpoint()),
            is_gated,
            has_token,
        };
        let no_such_repo = |repo| HubError::NoSuchRepo {
            kind: self.repo.kind(),
            repo,
            has_token,
        };
        match (refusal.status, refusal.code.as_deref()) {
            (429, _) => HubError::RateLimited {
                repo,
                endpoint: self.endpoint(),
                waited: self.waited,
                retry_after: refusal.retry_after,
                has_token,
            },
            (_, Some("GatedRepo")) => no_access(repo, true),
            (_, Some("RepoNotFound")) => no_such_repo(repo),
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

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> HubError {
        HubError::Network {
            repo: self.repo(),
            endpoint: self.endpoint(),
            source: hide(error).into(),
        }
    }

    pub(crate) fn odd(&self, why: impl Into<Cause>) -> HubError {
        HubError::Answer {
            repo: self.repo(),
            endpoint: self.endpoint(),
            source: short(why.into()),
        }
    }

    pub(crate) fn too_long(&self) -> HubError {
        HubError::AnswerTooLong {
            repo: self.repo(),
            endpoint: self.endpoint(),
            max_bytes: self.settings.limits.max_answer_bytes,
        }
    }

    pub(crate) fn endless(&self, reason: impl Into<String>) -> HubError {
        HubError::EndlessListing {
            repo: self.repo(),
            endpoint: self.endpoint(),
            reason: reason.into(),
        }
    }

    pub(crate) fn too_slow(&self) -> HubError {
        let limits = &self.settings.limits;
        HubError::TooSlow {
            repo: self.repo(),
            endpoint: self.endpoint(),
            min_bytes_per_second: limits.min_bytes_per_second,
            window: limits.rate_window,
        }
    }

    pub(crate) fn too_late(&self) -> HubError {
        HubError::TooLate {
            repo: self.repo(),
            endpoint: self.endpoint(),
            max_time: self.settings.limits.max_answer_time,
        }
    }

    pub(crate) fn bad_size(&self, file: &RemoteFile, reason: &'static str) -> HubError {
        HubError::BadSize {
            repo: self.repo(),
            endpoint: self.endpoint(),
            file: file.name.clone(),
            n_bytes: file.n_bytes,
            reason,
        }
    }
}

/// A cause that repeats what was sent, as JSON's errors do, is as long as that.
pub(crate) fn short(cause: Cause) -> Cause {
    let text = cause.to_string();
    match cut(&text) {
        short if short == text => cause,
        short => short.into(),
    }
}

/// Without its address, which may hold a signature or a password.
fn hide(error: reqwest::Error) -> reqwest::Error {
    error.without_url()
}
