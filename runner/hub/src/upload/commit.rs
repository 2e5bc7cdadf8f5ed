//! One commit. Its answer may be lost, and others may commit at the same time. So it names the commit
//! before it, and the Hub takes it once at most; whether it was made is looked up.

use super::local::Local;
use super::progress::{Event, UploadStep};
use super::publisher::Publisher;
use super::target;
use crate::exchange;
use crate::name::is_commit;
use crate::refusal::retry_after;
use crate::retry::{Tried, is_passing, retry};
use crate::{HubError, HubSettings};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fault::Fault;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How many commits of others may come after ours before it is not found any more.
const MAX_LATER_COMMITS: &str = "limit=100";

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is there.
    Made(String),
    /// The branch has another commit instead.
    Overtaken,
}

/// What came of sending it once.
enum Sent {
    Made(String),
    /// The commit before it is not the last one of the branch.
    Stale,
    /// It may or may not be made, unless the Hub asks to wait.
    Failed {
        error: HubError,
        wait: Option<Duration>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    commit_oid: String,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

/// Makes the commit of files after `parent`.
pub(super) async fn commit(
    publisher: &Publisher<'_>,
    small: &[&Local<'_>],
    large: &[&Local<'_>],
    parent: &str,
) -> Result<Outcome, HubError> {
    let lengths = small.iter().map(|file| file.n_bytes);
    publisher.begin(UploadStep::Committing, lengths);
    let body = body(publisher, small, large, parent)?;
    let files = small.iter().chain(large);
    let files: Vec<Local<'_>> = files.map(|file| (*file).clone()).collect();
    let attempt = async || match try_commit(publisher, &body, &files, parent).await {
        Ok(tried) => tried,
        Err(error) => Tried::Done(Err(error)),
    };
    let outcome = retry(&publisher.context, attempt).await?;
    if let Outcome::Made(_) = outcome {
        (0..small.len()).for_each(|index| publisher.tell(Event::Done(index)));
    }
    Ok(outcome)
}

/// Lines of JSON, one for each file.
fn body(
    publisher: &Publisher<'_>,
    small: &[&Local<'_>],
    large: &[&Local<'_>],
    parent: &str,
) -> Result<Vec<u8>, HubError> {
    let mut body = Vec::new();
    let mut add = |key: &str, value: Value| {
        body.extend_from_slice(json!({"key": key, "value": value}).to_string().as_bytes());
        body.push(b'\n');
    };
    let upload = publisher.upload;
    add(
        "header",
        json!({"summary": upload.title, "description": upload.description,
               "parentCommit": parent}),
    );
    for file in small {
        let content = BASE64_STANDARD.encode(file.content()?);
        add(
            "file",
            json!({"path": file.path, "encoding": "base64", "content": content}),
        );
    }
    for file in large {
        add(
            "lfsFile",
            json!({"path": file.path, "algo": "sha256", "oid": file.sha256,
                   "size": file.n_bytes}),
        );
    }
    Ok(body)
}

/// Sends the commit, and looks for it if its answer was lost.
async fn try_commit(
    publisher: &Publisher<'_>,
    body: &[u8],
    files: &[Local<'_>],
    parent: &str,
) -> Result<Tried<Result<Outcome, HubError>>, HubError> {
    let context = &publisher.context;
    let (error, wait) = match send(publisher, body).await? {
        Sent::Made(commit) => return Ok(Tried::Done(Ok(Outcome::Made(commit)))),
        Sent::Stale => {
            let found = find(publisher, files, parent).await?;
            return Ok(Tried::Done(Ok(found.unwrap_or(Outcome::Overtaken))));
        }
        Sent::Failed { error, wait } => (error, wait),
    };
    if let HubError::RateLimited(_) = error {
        let outcome = Err(error);
        return Ok(Tried::Again { outcome, wait });
    }
    let HubSettings { retry_delay, .. } = *context.settings;
    if !context.pause(wait, retry_delay).await {
        return Err(error);
    }
    let found = find(publisher, files, parent).await;
    Ok(match found.map_err(|cause| unknown(publisher, cause))? {
        Some(outcome) => Tried::Done(Ok(outcome)),
        None => Tried::Again {
            outcome: Err(error),
            wait: None,
        },
    })
}

/// Sends the commit once.
async fn send(publisher: &Publisher<'_>, body: &[u8]) -> Result<Sent, HubError> {
    let url = publisher.api("commit");
    let request = publisher.request(&url, "application/x-ndjson");
    let request = request.body(body.to_vec());
    let failed = |error| Sent::Failed { error, wait: None };
    let answer = match exchange::send_once(&publisher.context, request, &url).await {
        Ok(answer) => answer,
        Err(error) => return Ok(failed(error)),
    };
    match answer.status.as_u16() {
        412 => Ok(Sent::Stale),
        status if is_passing(status) => Ok(Sent::Failed {
            error: publisher.refused(&answer, "the commit"),
            wait: retry_after(&answer.headers),
        }),
        _ => {
            publisher.accepted(&answer, "the commit")?;
            Ok(match publisher.read::<Answer>(&answer) {
                Ok(Answer { commit_oid }) if is_commit(&commit_oid) => Sent::Made(commit_oid),
                Ok(_) => failed(publisher.odd("it names no commit")),
                Err(error) => failed(error),
            })
        }
    }
}

/// The answer to a commit was lost, and the Hub does not say whether it was made.
fn unknown(publisher: &Publisher<'_>, cause: HubError) -> HubError {
    let (branch, repo) = (publisher.branch, publisher.repo());
    let text = format!("it is not known whether the commit to `{branch}` of `{repo}` was made");
    let fault = Fault::input(text).because(cause);
    HubError::Fault(fault.with_hint("run it again: finished files are not sent again"))
}

/// What comes after `parent` on the branch; `None`: nothing so far. It is the commit that was to be
/// made if it has all the files.
async fn find(
    publisher: &Publisher<'_>,
    files: &[Local<'_>],
    parent: &str,
) -> Result<Option<Outcome>, HubError> {
    let mut url = publisher.api("commits");
    url.set_query(Some(MAX_LATER_COMMITS));
    let answer = exchange::get(&publisher.context, &url, publisher.branch).await?;
    let commits: Vec<Listed> = publisher.read(&answer)?;
    let next = match commits.iter().position(|commit| commit.id == parent) {
        Some(0) => return Ok(None),
        Some(index) => &commits[index - 1].id,
        None => return Ok(Some(Outcome::Overtaken)),
    };
    let changed = target::changed_files(publisher, files, Some(next)).await?;
    Ok(Some(if changed.contains(&true) {
        Outcome::Overtaken
    } else {
        Outcome::Made(next.clone())
    }))
}
