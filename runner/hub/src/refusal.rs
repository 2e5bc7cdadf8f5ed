//! What the Hub's refusals mean, and answers that no Hub gives.

use crate::context::Context;
use crate::error::Cause;
use crate::words::{cut, seconds, size};
use crate::{HubError, RepoKind};
use fault::Fault;
use hf_hub::HFError;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::time::Duration;

const TRUST: &str = "is `HF_ENDPOINT` a Hub that you trust?";

/// What to do if the Hub has a fault.
const LATER: &str = "this is a fault of the Hub; try again later";

const SLOW: &str = "run it again: finished downloads are kept; on a slow line, \
                    `SAE_RUN_HUB_PATIENCE=300` waits five times as long";

/// An answer with a status that is not a success.
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

    /// Whether it is because a licence was not accepted.
    pub(crate) fn is_gated(&self) -> bool {
        self.code.as_deref() == Some("GatedRepo")
    }
}

/// How long the Hub asks to wait. If it names a moment and not a time, this machine's clock would
/// have to be right, so that counts for nothing.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(text.trim().parse().ok()?))
}

/// What hf-hub's error means for us.
pub(crate) fn failed(context: &Context<'_>, revision: &str, error: HFError) -> HubError {
    let (http, retry_after) = match error {
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
        HFError::Request { source, .. } if source.is_decode() => {
            return odd(context, source.without_url());
        }
        HFError::Request { source, .. } => return unreachable(context, source),
        other => return odd(context, other),
    };
    let refusal = Refusal {
        status: http.status.as_u16(),
        code: http.error_code,
        retry_after,
    };
    refused(context, revision, &refusal)
}

/// What a refusal means of what was asked about `revision`.
pub(crate) fn refused(context: &Context<'_>, revision: &str, refusal: &Refusal) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let has_token = context.settings.token.is_some();
    match (refusal.status, refusal.code.as_deref()) {
        (429, _) => rate_limited(context, refusal.retry_after),
        (_, Some("GatedRepo")) => gated(repo, &context.repo.page(endpoint), has_token),
        (_, Some("RepoNotFound")) => no_such_repo(context.repo.kind(), repo, has_token),
        (404, Some("RevisionNotFound") | None) => {
            let fault = Fault::input(format!("`{repo}` has no revision `{revision}`"));
            let hint = "look at the repository's page for branches and tags";
            HubError::NoSuchRevision(fault.with_hint(hint))
        }
        (401, _) if has_token => token_rejected(repo),
        (401 | 403, _) => no_access(repo, has_token),
        (status, _) => {
            let text = format!(
                "the Hub at {endpoint} answers with status {status} when asked for `{repo}`"
            );
            of_status(status, text)
        }
    }
}

/// A refusal that means nothing more precise than its status.
pub(crate) fn of_status(status: u16, text: String) -> HubError {
    match status {
        500.. => HubError::HubFails(Fault::input(text).with_hint(LATER)),
        _ => HubError::Refused(Fault::input(text)),
    }
}

fn rate_limited(context: &Context<'_>, retry_after: Option<Duration>) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let asked_for = retry_after.map(|wait| format!(" for {}", seconds(wait)));
    let waited = match context.waits.total() {
        waited if waited.as_secs() == 0 => String::new(),
        waited => format!(", after {} of waiting", seconds(waited)),
    };
    let fault = Fault::input(format!(
        "the Hub at {endpoint} asks to slow down{} when asked for `{repo}`{waited}",
        asked_for.unwrap_or_default()
    ));
    HubError::RateLimited(fault.with_hint(match context.settings.token {
        Some(_) => "wait, then run it again: finished downloads are kept",
        None => "wait, then run it again; with a token (`HF_TOKEN`) the limits are higher",
    }))
}

fn no_such_repo(kind: RepoKind, repo: &str, has_token: bool) -> HubError {
    let (seen, hint) = if has_token {
        (
            " that this token may see",
            "is the name right, and may the token's owner see it if it is private?".to_owned(),
        )
    } else {
        (
            "",
            format!(
                "is the name right? private {kind}s need a token: log in with `hf auth login`, or \
                 set `HF_TOKEN`"
            ),
        )
    };
    let fault = Fault::input(format!("the Hub has no {kind} `{repo}`{seen}"));
    HubError::NoSuchRepo(fault.with_hint(hint))
}

const GET_TOKEN: &str = "set `HF_TOKEN` or log in with `hf auth login`";

/// A repository at `page` has a licence to accept.
fn gated(repo: &str, page: &str, has_token: bool) -> HubError {
    let accept = format!("accept the licence at {page}");
    let (why, hint) = if has_token {
        (
            "this token's owner has no access yet",
            format!("{accept}, with the account that the token belongs to"),
        )
    } else {
        ("there is no token", format!("{accept}, then {GET_TOKEN}"))
    };
    let fault = Fault::input(format!("no access to `{repo}`: it is gated, and {why}"));
    HubError::Fault(fault.with_hint(hint))
}

fn no_access(repo: &str, has_token: bool) -> HubError {
    let (why, hint) = if has_token {
        (
            "this token may not read it",
            "does the token have the right to read this repository?",
        )
    } else {
        ("there is no token", GET_TOKEN)
    };
    HubError::Fault(Fault::input(format!("no access to `{repo}`: {why}")).with_hint(hint))
}

fn token_rejected(repo: &str) -> HubError {
    let text = format!("the Hub does not accept the token when asked for `{repo}`");
    HubError::Fault(Fault::input(text).with_hint(
        "make a new one in the settings of your account, and set `HF_TOKEN` or run `hf auth login`",
    ))
}

pub(crate) fn unreachable(context: &Context<'_>, error: reqwest::Error) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    // Without its address, which may hold a signature or a password.
    HubError::network(repo, endpoint, error.without_url())
}

/// An answer that is not a Hub's.
pub(crate) fn odd(context: &Context<'_>, why: impl Into<Cause>) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let text = format!("cannot understand what {endpoint} answers about `{repo}`");
    let fault = Fault::input(text).because(short(why.into()));
    HubError::HubFails(
        fault.with_hint("is `HF_ENDPOINT` a Hub, and no page of a proxy in between?"),
    )
}

/// What is wrong when the Hub does not say how a file hashes.
pub(crate) fn nameless(context: &Context<'_>, file: &str) -> HubError {
    let why = format!("it lists `{file}` without a hash of its content");
    odd(context, why)
}

pub(crate) fn too_long(context: &Context<'_>) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let most = size(context.settings.limits.max_answer_bytes);
    let text = format!("what {endpoint} answers about `{repo}` is longer than {most}");
    HubError::Fault(Fault::input(text).with_hint(TRUST))
}

/// A listing without an end.
pub(crate) fn endless(context: &Context<'_>, reason: &str) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let text = format!("the list of files of `{repo}` at {endpoint} {reason}");
    HubError::Fault(Fault::input(text).with_hint(TRUST))
}

/// A file of a length that cannot be.
pub(crate) fn bad_size(context: &Context<'_>, file: (&str, u64), reason: &str) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let (file, n_bytes) = (cut(file.0), file.1);
    let text =
        format!("{endpoint} lists `{file}` of `{repo}` with {n_bytes} bytes, which {reason}");
    HubError::Fault(Fault::input(text).with_hint(TRUST))
}

/// An answer that trickles.
pub(crate) fn too_slow(context: &Context<'_>) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let limits = &context.settings.limits;
    let text = format!(
        "{endpoint} sends less than {} bytes a second of `{repo}`, for {} s",
        limits.min_bytes_per_second,
        limits.rate_window.as_secs_f64()
    );
    HubError::Fault(Fault::input(text).with_hint(SLOW))
}

/// An answer, other than a file, that takes too long.
pub(crate) fn too_late(context: &Context<'_>) -> HubError {
    let (repo, endpoint) = (context.repo.as_str(), &context.settings.endpoint);
    let most = context.settings.limits.max_answer_time.as_secs_f64();
    let text = format!("{endpoint} takes longer than {most} s to answer about `{repo}`");
    HubError::Fault(Fault::input(text).with_hint(SLOW))
}

/// A cause that repeats what was sent, as JSON's errors do, is as long as that.
pub(crate) fn short(cause: Cause) -> Cause {
    let text = cause.to_string();
    match cut(&text) {
        short if short == text => cause,
        short => short.into(),
    }
}
