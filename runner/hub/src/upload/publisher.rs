//! What all steps of an upload share: whom they ask, how they send, and who is informed.

use super::Upload;
use super::progress::{Event, UploadStep};
use crate::HubError;
use crate::context::Context;
use crate::exchange::{self, Document};
use crate::refusal::{self, Refusal};
use fault::Fault;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// The longest wait for an answer to something that takes the Hub a while, in timeouts of the
/// settings.
const PATIENCE: u32 = 6;

/// Longest text of a refusal that is shown.
const MAX_MESSAGE_CHARS: usize = 300;

/// An upload to a branch.
pub(super) struct Publisher<'a> {
    pub(super) context: Context<'a>,
    pub(super) branch: &'a str,
    pub(super) upload: &'a Upload,
    /// Waits for each answer as long as its request says.
    pub(super) client: Client,
    pub(super) events: Sender<Event>,
}

impl<'a> Publisher<'a> {
    pub(super) fn new(
        context: Context<'a>,
        branch: &'a str,
        upload: &'a Upload,
        events: Sender<Event>,
    ) -> Result<Self, HubError> {
        Ok(Self {
            client: context.patient_client()?,
            context,
            branch,
            upload,
            events,
        })
    }

    pub(super) fn repo(&self) -> &'a str {
        self.context.repo.as_str()
    }

    /// The owner of the repository, and its name.
    pub(super) fn owner_and_name(&self) -> (&'a str, &'a str) {
        self.repo().split_once('/').unwrap_or_default()
    }

    /// The address of something that the Hub's API says about the branch.
    pub(super) fn api(&self, what: &str) -> Url {
        self.context.api(what, self.branch)
    }

    /// How long an answer may take to something that takes the Hub a while.
    pub(super) fn patience(&self) -> Duration {
        self.context.settings.timeout * PATIENCE
    }

    pub(super) fn begin(&self, step: UploadStep, lengths: impl Iterator<Item = u64>) {
        self.tell(Event::Begin(step, lengths.collect()));
    }

    pub(super) fn tell(&self, event: Event) {
        // If no one listens any more, that is not a reason to stop.
        let _ = self.events.send(event);
    }

    pub(super) fn request(&self, url: &Url, content_type: &'static str) -> RequestBuilder {
        let request = self.client.post(url.clone()).timeout(self.patience());
        request.header(CONTENT_TYPE, content_type)
    }

    /// Sends JSON, again if that may help.
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
        exchange::send(&self.context, request, url).await
    }

    pub(super) fn read<T: DeserializeOwned>(&self, answer: &Document) -> Result<T, HubError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.odd(error))
    }

    /// What is wrong with an answer that no Hub gives.
    pub(super) fn odd(&self, why: impl Into<crate::error::Cause>) -> HubError {
        refusal::odd(&self.context, why)
    }

    /// Whether the Hub took what was sent.
    pub(super) fn accepted(&self, answer: &Document, what: &str) -> Result<(), HubError> {
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(self.refused(answer, what))
        }
    }

    /// What it means that the Hub did not take something.
    pub(super) fn refused(&self, answer: &Document, what: &str) -> HubError {
        let refusal = Refusal::of(answer.status, &answer.headers);
        match answer.status.as_u16() {
            403 if !refusal.is_gated() => no_write_access(self.repo()),
            401 | 403 | 404 | 429 => refusal::refused(&self.context, self.branch, &refusal),
            status => {
                // It may repeat what it was sent.
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                self.refused_with(status, what, body["error"].as_str().unwrap_or_default())
            }
        }
    }

    /// A refusal with the Hub's own message.
    pub(super) fn refused_with(&self, status: u16, what: &str, why: &str) -> HubError {
        let why = match self.shown(why) {
            why if why.is_empty() => why,
            why => format!(": {why}"),
        };
        let text = format!(
            "the Hub refuses {what} for `{}` with status {status}{why}",
            self.repo()
        );
        refusal::of_status(status, text)
    }

    /// A text of the Hub without the token, fit to be shown.
    pub(super) fn shown(&self, text: &str) -> String {
        let text = match &self.context.settings.token {
            Some(token) => text.replace(token.secret(), "..."),
            None => text.into(),
        };
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        text.chars()
            .take(MAX_MESSAGE_CHARS)
            .map(printable)
            .collect()
    }
}

fn no_write_access(repo: &str) -> HubError {
    let fault = Fault::input(format!("this token may not write to `{repo}`"));
    HubError::Fault(fault.with_hint(
        "make a token with the right to write in the settings of your account; in an \
         organization, its owner must allow it",
    ))
}
