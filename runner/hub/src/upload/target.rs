//! The repository and the branch: whether they are there, how they are made, and what they hold.

use super::local::Local;
use super::publisher::Publisher;
use crate::exchange::Document;
use crate::retry::{Tried, retry};
use crate::{HubError, tree};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fault::Fault;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The branch on which others begin.
const MAIN: &str = "main";

/// Files in one question of how to send them, as Python's client asks.
const MODES_AT_ONCE: usize = 256;

/// What is there to upload to.
#[derive(Clone, Debug)]
pub(super) enum Target {
    NoRepo,
    /// The repository is there; its main branch is at this commit.
    NoBranch {
        main: String,
    },
    /// The branch is at this commit.
    Branch {
        tip: String,
    },
}

impl Target {
    /// The commit before the one that is to be made.
    pub(super) fn parent(&self) -> Option<&str> {
        match self {
            Self::NoRepo => None,
            Self::NoBranch { main } => Some(main),
            Self::Branch { tip } => Some(tip),
        }
    }
}

#[derive(Deserialize)]
struct Modes {
    files: Vec<Mode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mode {
    path: String,
    upload_mode: String,
    #[serde(default)]
    should_ignore: bool,
}

/// Looks what is there.
pub(super) async fn find(publisher: &Publisher<'_>) -> Result<Target, HubError> {
    let context = &publisher.context;
    match tree::commit_of(context, publisher.branch).await {
        Ok(tip) => Ok(Target::Branch { tip }),
        Err(HubError::NoSuchRepo(_)) => Ok(Target::NoRepo),
        Err(HubError::NoSuchRevision(_)) if publisher.branch != MAIN => {
            let main = tree::commit_of(context, MAIN).await?;
            Ok(Target::NoBranch { main })
        }
        Err(error) => Err(error),
    }
}

/// The last commit of the branch, and whether the repository was made. Both are made if they
/// are missing.
pub(super) async fn make(publisher: &Publisher<'_>) -> Result<(String, bool), HubError> {
    let context = &publisher.context;
    let was_made = match find(publisher).await? {
        Target::Branch { tip } => return Ok((tip, false)),
        Target::NoBranch { main } => {
            make_branch(publisher, &main).await?;
            false
        }
        Target::NoRepo => {
            let was_made = make_repo(publisher).await?;
            if publisher.branch != MAIN {
                let main = tree::commit_of(context, MAIN).await?;
                make_branch(publisher, &main).await?;
            }
            was_made
        }
    };
    Ok((tree::commit_of(context, publisher.branch).await?, was_made))
}

/// Makes the repository, and says whether it was not there.
async fn make_repo(publisher: &Publisher<'_>) -> Result<bool, HubError> {
    let url = publisher.context.url(&["api", "repos", "create"]);
    let (owner, name) = publisher.owner_and_name();
    let body = json!({"name": name, "organization": owner, "type": "model",
                      "private": publisher.upload.private});
    let attempt = async || match publisher.post(&url, &body).await {
        Ok(answer) if is_busy(&answer) => Tried::Again {
            outcome: Ok(answer),
            wait: None,
        },
        outcome => Tried::Done(outcome),
    };
    let answer = retry(&publisher.context, attempt).await?;
    if answer.status.as_u16() != 409 {
        return publisher
            .accepted(&answer, "the new repository")
            .map(|()| true);
    }
    // Another client was faster, the answer to an earlier try was lost, or the name is taken.
    match tree::commit_of(&publisher.context, MAIN).await {
        Ok(_) => Ok(false),
        Err(HubError::NoSuchRepo(_)) => Err(name_taken(publisher, &answer)),
        Err(error) => Err(error),
    }
}

/// Whether the Hub says that it is at the same already, and has not refused.
fn is_busy(answer: &Document) -> bool {
    let body = String::from_utf8_lossy(&answer.body);
    answer.status.as_u16() == 409 && body.contains("another conflicting operation")
}

/// A repository of another kind has the name.
fn name_taken(publisher: &Publisher<'_>, answer: &Document) -> HubError {
    let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let page = answer["url"].as_str();
    let page = page.map(|page| format!(": {}", publisher.shown(page)));
    let (repo, kind) = (publisher.repo(), publisher.context.repo.kind());
    let fault = Fault::input(format!(
        "the name `{repo}` is taken by something that is not a {kind}{}",
        page.unwrap_or_default()
    ));
    HubError::Refused(fault.with_hint("choose another name"))
}

async fn make_branch(publisher: &Publisher<'_>, start: &str) -> Result<(), HubError> {
    let url = publisher.api("branch");
    let body = json!({ "startingPoint": start });
    let answer = publisher.post(&url, &body).await?;
    match answer.status.as_u16() {
        // There meanwhile.
        409 => Ok(()),
        _ => publisher.accepted(&answer, "the new branch"),
    }
}

/// Whether each of the files is a large one to the Hub.
pub(super) async fn modes(
    publisher: &Publisher<'_>,
    files: &[&Local<'_>],
) -> Result<Vec<bool>, HubError> {
    let url = publisher.api("preupload");
    let mut modes = HashMap::new();
    for files in files.chunks(MODES_AT_ONCE) {
        let file = |file: &&Local<'_>| {
            json!({"path": file.path, "size": file.n_bytes,
                   "sample": BASE64_STANDARD.encode(&file.sample)})
        };
        let files: Vec<_> = files.iter().map(file).collect();
        let answer = publisher.post(&url, &json!({ "files": files })).await?;
        publisher.accepted(&answer, "the list of files")?;
        let answer: Modes = publisher.read(&answer)?;
        let answer = answer.files.into_iter();
        modes.extend(answer.map(|mode| (mode.path.clone(), mode)));
    }
    let mode = |file: &&Local<'_>| {
        let mode = modes.get(file.path);
        let mode = mode.ok_or_else(|| publisher.odd("it leaves out a file"))?;
        if mode.should_ignore {
            let (path, repo) = (file.path, publisher.repo());
            let fault = Fault::input(format!("`{path}` is left out by .gitignore of `{repo}`"));
            let hint = "remove the line from .gitignore of the repository";
            return Err(HubError::Refused(fault.with_hint(hint)));
        }
        // No store takes a file without bytes.
        Ok(mode.upload_mode == "lfs" && file.n_bytes > 0)
    };
    files.iter().map(mode).collect()
}

/// Which files a commit does not have as they are here.
pub(super) async fn changed_files(
    publisher: &Publisher<'_>,
    locals: &[Local<'_>],
    commit: Option<&str>,
) -> Result<Vec<bool>, HubError> {
    let there = match commit {
        Some(commit) => tree::all_files(&publisher.context, commit).await?,
        None => Vec::new(),
    };
    let there = there.iter().map(|file| (file.name.as_str(), file));
    let there: HashMap<_, _> = there.collect();
    let is_there = |local: &Local<'_>| {
        let remote = there.get(local.path);
        remote.is_some_and(|remote| {
            let etag = remote.etag.as_ref();
            remote.n_bytes == local.n_bytes && etag.is_some_and(|etag| local.is_called(etag))
        })
    };
    Ok(locals.iter().map(|local| !is_there(local)).collect())
}
