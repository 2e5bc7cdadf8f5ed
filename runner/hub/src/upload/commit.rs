//! One commit. Its answer may be lost, and others may commit at the same time: it names the commit
//! before it, so that the Hub takes it once at most, and what became of it is looked up.

use super::local::Local;
use super::progress::{Event, UploadStep};
use super::publish::Publisher;
use crate::HubError;
use crate::asked::{Refusal, retry_after};
use crate::exchange::is_passing;
use crate::name::is_commit;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How many commits of others may come after ours until nobody finds it any more.
const MAX_LATER_COMMITS: &str = "limit=100";

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is there.
    Made(String),
    /// The branch has another commit in its place.
    Overtaken,
}

/// What came of one try.
enum Tried {
    Made(String),
    /// The commit before it is not the last one of the branch.
    Stale,
    /// It may or may not be made, but for a Hub that asks to wait.
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

impl Publisher<'_> {
    /// Makes the commit of files after `parent`.
    pub(super) async fn commit(
        &self,
        small: &[&Local<'_>],
        large: &[&Local<'_>],
        parent: &str,
    ) -> Result<Outcome, HubError> {
        self.begin(
            UploadStep::Committing,
            small.iter().map(|file| file.n_bytes),
        );
        let body = self.body(small, large, parent)?;
        let files = small.iter().chain(large);
        let files: Vec<Local<'_>> = files.map(|file| (*file).clone()).collect();
        let mut delay = self.settings.retry_delay;
        let mut n_left = self.settings.n_retries;
        loop {
            let (error, wait) = match self.try_commit(&body).await? {
                Tried::Made(commit) => return Ok(self.made(commit, small.len())),
                Tried::Stale => {
                    let found = self.find(&files, parent).await?;
                    return Ok(found.unwrap_or(Outcome::Overtaken));
                }
                Tried::Failed { error, wait } => (error, wait),
            };
            if !self.remote.pause(wait, delay).await {
                return Err(error);
            }
            if !matches!(error, HubError::RateLimited { .. })
                && let Some(outcome) = self.look(&files, parent).await?
            {
                return Ok(outcome);
            }
            if n_left == 0 {
                return Err(error);
            }
            n_left -= 1;
            delay *= 2;
        }
    }

    fn made(&self, commit: String, n_small: usize) -> Outcome {
        (0..n_small).for_each(|index| self.tell(Event::Done(index)));
        Outcome::Made(commit)
    }

    /// Lines of JSON, one for each file.
    fn body(
        &self,
        small: &[&Local<'_>],
        large: &[&Local<'_>],
        parent: &str,
    ) -> Result<Vec<u8>, HubError> {
        let mut body = Vec::new();
        let mut add = |key: &str, value: Value| {
            body.extend_from_slice(json!({"key": key, "value": value}).to_string().as_bytes());
            body.push(b'\n');
        };
        let upload = self.upload;
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

    async fn try_commit(&self, body: &[u8]) -> Result<Tried, HubError> {
        let url = self.api("commit", self.branch)?;
        let request = self.request(&url, "application/x-ndjson");
        let answer = self
            .remote
            .send_once(request.body(body.to_vec()), &url)
            .await;
        let failed = |error| Tried::Failed { error, wait: None };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(failed(error)),
        };
        match answer.status.as_u16() {
            412 => Ok(Tried::Stale),
            status if is_passing(status) => Ok(Tried::Failed {
                error: self.refused(&answer, "the commit"),
                wait: retry_after(&answer.headers),
            }),
            _ => {
                self.accepted(&answer, "the commit")?;
                Ok(match self.read::<Answer>(&answer) {
                    Ok(Answer { commit_oid }) if is_commit(&commit_oid) => Tried::Made(commit_oid),
                    Ok(_) => failed(self.asked().odd("it names no commit")),
                    Err(error) => failed(error),
                })
            }
        }
    }

    /// What became of a commit whose answer was lost; `None`: nothing so far.
    async fn look(&self, files: &[Local<'_>], parent: &str) -> Result<Option<Outcome>, HubError> {
        let found = self.find(files, parent).await;
        found.map_err(|source| HubError::CommitUnknown {
            repo: self.repo.as_str().into(),
            branch: self.branch.into(),
            source: source.into(),
        })
    }

    /// What comes after `parent` on the branch. It is the commit that was to be made if it has all
    /// the files.
    async fn find(&self, files: &[Local<'_>], parent: &str) -> Result<Option<Outcome>, HubError> {
        let mut url = self.api("commits", self.branch)?;
        url.set_query(Some(MAX_LATER_COMMITS));
        let answer = self.remote.get(&url).await?;
        if !answer.status.is_success() {
            let refusal = Refusal::of(answer.status, &answer.headers);
            return Err(self.asked().refused(&refusal));
        }
        let commits: Vec<Listed> = self.read(&answer)?;
        let at = commits.iter().position(|commit| commit.id == parent);
        let next = match at {
            Some(0) => return Ok(None),
            Some(at) => &commits[at - 1].id,
            None => return Ok(Some(Outcome::Overtaken)),
        };
        let news = self.news(files, Some(next)).await?;
        Ok(Some(match news.contains(&true) {
            true => Outcome::Overtaken,
            false => Outcome::Made(next.clone()),
        }))
    }
}
