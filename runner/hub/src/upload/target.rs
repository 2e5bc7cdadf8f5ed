//! The repository and the branch: whether they are there, and how they are made.

use super::local::Local;
use super::publish::Publisher;
use crate::HubError;
use crate::asked::Refusal;
use crate::exchange::Document;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The branch on which others begin.
const MAIN: &str = "main";

/// Files in one question of how to send them, as Python's client asks.
const MODES_AT_ONCE: usize = 256;

/// Longest text of a refusal that is shown.
const MAX_MESSAGE_CHARS: usize = 300;

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

impl Publisher<'_> {
    /// Looks what is there.
    pub(super) async fn target(&self) -> Result<Target, HubError> {
        match self.tip(self.branch).await {
            Ok(tip) => Ok(Target::Branch { tip }),
            Err(HubError::NoSuchRepo { .. }) => Ok(Target::NoRepo),
            Err(HubError::NoSuchRevision { .. }) if self.branch != MAIN => {
                let main = self.tip(MAIN).await?;
                Ok(Target::NoBranch { main })
            }
            Err(error) => Err(error),
        }
    }

    /// The last commit of the branch, and whether the repository was made. Both are made where they
    /// are missing.
    pub(super) async fn make_target(&self) -> Result<(String, bool), HubError> {
        match self.target().await? {
            Target::Branch { tip } => Ok((tip, false)),
            Target::NoBranch { main } => {
                self.make_branch(&main).await?;
                Ok((self.tip(self.branch).await?, false))
            }
            Target::NoRepo => {
                let was_made = self.make_repo().await?;
                if self.branch != MAIN {
                    let main = self.tip(MAIN).await?;
                    self.make_branch(&main).await?;
                }
                Ok((self.tip(self.branch).await?, was_made))
            }
        }
    }

    /// The last commit of a branch.
    pub(super) async fn tip(&self, branch: &str) -> Result<String, HubError> {
        self.remote.commit_of(branch).await
    }

    /// Makes the repository, and says whether it was not there.
    async fn make_repo(&self) -> Result<bool, HubError> {
        let url = self.url(&["api", "repos", "create"])?;
        let (owner, name) = self.repo.as_str().split_once('/').unwrap_or_default();
        let body = json!({"name": name, "organization": owner, "type": "model",
                          "private": self.upload.private});
        let mut answer = self.post(&url, &body).await?;
        let mut delay = self.settings.retry_delay;
        for _ in 0..self.settings.n_retries {
            if !is_busy(&answer) {
                break;
            }
            tokio::time::sleep(delay).await;
            delay *= 2;
            answer = self.post(&url, &body).await?;
        }
        if answer.status.is_success() {
            return Ok(true);
        }
        if answer.status.as_u16() != 409 {
            return Err(self.refused(&answer, "the new repository"));
        }
        // Somebody was faster, the answer to an earlier try was lost, or the name is taken.
        match self.tip(MAIN).await {
            Ok(_) => Ok(false),
            Err(HubError::NoSuchRepo { .. }) => {
                let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                Err(HubError::NameTaken {
                    kind: self.repo.kind(),
                    repo: self.repo.as_str().into(),
                    page: answer["url"].as_str().map(clean),
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn make_branch(&self, start: &str) -> Result<(), HubError> {
        let url = self.api("branch", self.branch)?;
        let answer = self.post(&url, &json!({ "startingPoint": start })).await?;
        match answer.status.as_u16() {
            // There meanwhile.
            409 => Ok(()),
            _ => self.accepted(&answer, "the new branch"),
        }
    }

    /// Whether each of the files is a large one to the Hub.
    pub(super) async fn modes(&self, files: &[&Local<'_>]) -> Result<Vec<bool>, HubError> {
        let url = self.api("preupload", self.branch)?;
        let mut modes = HashMap::new();
        for files in files.chunks(MODES_AT_ONCE) {
            let file = |file: &&Local<'_>| {
                json!({"path": file.path, "size": file.n_bytes,
                       "sample": BASE64_STANDARD.encode(&file.sample)})
            };
            let files: Vec<_> = files.iter().map(file).collect();
            let answer = self.post(&url, &json!({ "files": files })).await?;
            self.accepted(&answer, "the list of files")?;
            let answer: Modes = self.read(&answer)?;
            let answer = answer.files.into_iter();
            modes.extend(answer.map(|mode| (mode.path.clone(), mode)));
        }
        let mode = |file: &&Local<'_>| {
            let mode = modes.get(file.path);
            let mode = mode.ok_or_else(|| self.asked().odd("it leaves out a file"))?;
            if mode.should_ignore {
                return Err(HubError::IgnoredUpload {
                    repo: self.repo.as_str().into(),
                    path: file.path.into(),
                });
            }
            // No store takes a file without bytes.
            Ok(mode.upload_mode == "lfs" && file.n_bytes > 0)
        };
        files.iter().map(mode).collect()
    }

    /// The address of something that the Hub's API says of a revision of the repository.
    pub(super) fn api(&self, what: &str, revision: &str) -> Result<Url, HubError> {
        self.remote.api(what, revision)
    }

    /// An address of the Hub: slashes in the parts are no slashes there.
    pub(super) fn url(&self, parts: &[&str]) -> Result<Url, HubError> {
        self.remote.url(parts)
    }

    /// Sends JSON, again where that may help.
    pub(super) async fn post(&self, url: &Url, body: &Value) -> Result<Document, HubError> {
        self.post_as(url, body, "application/json").await
    }

    /// The same under another type.
    pub(super) async fn post_as(
        &self,
        url: &Url,
        body: &Value,
        content_type: &'static str,
    ) -> Result<Document, HubError> {
        let body = body.to_string();
        let request = || self.request(url, content_type).body(body.clone());
        self.remote.send(request, url).await
    }

    pub(super) fn request(&self, url: &Url, content_type: &'static str) -> RequestBuilder {
        let request = self.patient_client.request(Method::POST, url.clone());
        let request = request.timeout(self.patience());
        request.header(CONTENT_TYPE, content_type)
    }

    pub(super) fn read<T: for<'de> Deserialize<'de>>(
        &self,
        answer: &Document,
    ) -> Result<T, HubError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.asked().odd(error))
    }

    pub(super) fn asked(&self) -> crate::asked::Asked<'_> {
        self.remote.asked(self.branch)
    }

    /// Whether the Hub took what was sent.
    pub(super) fn accepted(&self, answer: &Document, what: &str) -> Result<(), HubError> {
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(self.refused(answer, what)),
        }
    }

    /// What it means that the Hub did not take something.
    pub(super) fn refused(&self, answer: &Document, what: &str) -> HubError {
        let refusal = Refusal::of(answer.status, &answer.headers);
        let repo = self.repo.as_str().to_owned();
        match answer.status.as_u16() {
            403 if !refusal.is_gated() => HubError::NoWriteAccess { repo },
            401 | 403 | 404 | 429 => self.asked().refused(&refusal),
            status => HubError::Refused {
                repo,
                what: what.into(),
                status,
                message: self.message(answer),
            },
        }
    }

    /// Why the Hub refused, in its own words, which may repeat what they were told.
    fn message(&self, answer: &Document) -> String {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        self.shown(body["error"].as_str().unwrap_or_default())
    }

    /// A text of the Hub without the token.
    pub(super) fn shown(&self, text: &str) -> String {
        match &self.settings.token {
            Some(token) => clean(&text.replace(token.secret(), "...")),
            None => clean(text),
        }
    }
}

/// Whether the Hub says that it is at the same already, and has not refused.
fn is_busy(answer: &Document) -> bool {
    let body = String::from_utf8_lossy(&answer.body);
    answer.status.as_u16() == 409 && body.contains("another conflicting operation")
}

/// Text of a server, fit to be shown.
fn clean(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars()
        .take(MAX_MESSAGE_CHARS)
        .map(printable)
        .collect()
}
