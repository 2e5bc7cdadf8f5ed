//! A large file on its way to the address that the Hub gave, in one piece or in parts.

use super::local::Local;
use super::progress::Event;
use super::publisher::Publisher;
use crate::exchange::{self, Document};
use crate::refusal::{self, retry_after};
use crate::retry::{Tried, is_passing, retry};
use crate::settings::DEFAULT_ENDPOINT;
use crate::{HubError, HubSettings};
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{io, pin};

pub(super) const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// The key under which the length of parts is given, among the parts' addresses.
const PART_BYTES: &str = "chunk_size";

/// Where to put a file, or what to ask about it.
#[derive(Deserialize)]
pub(super) struct Action {
    pub(super) href: String,
    /// Headers to send, or the parts' addresses by their numbers.
    header: Option<BTreeMap<String, Value>>,
}

/// A part of a file, or the whole file.
#[derive(Clone, Copy)]
struct Part<'a> {
    index: usize,
    file: &'a Local<'a>,
    first_byte: u64,
    n_bytes: u64,
}

/// Why a file was not taken.
pub(super) enum Failure {
    /// The addresses are not valid any more.
    Expired(HubError),
    Other(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Other(error)
    }
}

/// Puts a file, by its index, where `upload` says.
pub(super) async fn put(
    publisher: &Publisher<'_>,
    (index, file): (usize, &Local<'_>),
    upload: &Action,
) -> Result<(), Failure> {
    let whole = Part {
        index,
        file,
        first_byte: 0,
        n_bytes: file.n_bytes,
    };
    if let Some(part_bytes) = upload
        .header
        .as_ref()
        .and_then(|header| header.get(PART_BYTES))
    {
        return put_parts(publisher, whole, upload, part_bytes).await;
    }
    let url = address(publisher, &upload.href)?;
    let headers = upload.headers(publisher)?;
    put_part(publisher, whole, &url, &headers).await.map(drop)
}

async fn put_parts(
    publisher: &Publisher<'_>,
    whole: Part<'_>,
    upload: &Action,
    part_bytes: &Value,
) -> Result<(), Failure> {
    let file = whole.file;
    let urls = upload.parts();
    let text = part_bytes.as_str().and_then(|text| text.parse().ok());
    let part_bytes: u64 = part_bytes.as_u64().or(text).unwrap_or(0);
    if part_bytes == 0 || file.n_bytes.div_ceil(part_bytes) != urls.len() as u64 {
        let why = "it splits a file into parts that do not add up to it";
        return Err(publisher.odd(why).into());
    }
    let mut parts = Vec::new();
    for (number, url) in (1_u64..).zip(urls) {
        let first_byte = (number - 1) * part_bytes;
        let part = Part {
            first_byte,
            n_bytes: part_bytes.min(file.n_bytes - first_byte),
            ..whole
        };
        let url = address(publisher, url)?;
        let answer = put_part(publisher, part, &url, &HeaderMap::new()).await?;
        let etag = answer.headers.get(ETAG);
        let etag = etag.and_then(|etag| etag.to_str().ok());
        let etag = etag.ok_or_else(|| publisher.odd("it gives a part no name"))?;
        parts.push(json!({"partNumber": number, "etag": etag}));
    }
    let url = address(publisher, &upload.href)?;
    let body = json!({"oid": file.sha256, "parts": parts});
    let answer = publisher.post_as(&url, &body, LFS_JSON).await?;
    taken(publisher, &answer, file)
}

/// Puts a part of a file somewhere, again if that may help, from its first byte.
async fn put_part(
    publisher: &Publisher<'_>,
    part: Part<'_>,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Document, Failure> {
    let attempt = async || {
        let outcome = put_once(publisher, part, url, headers).await;
        let (may_pass, wait) = match &outcome {
            Ok(answer) => {
                let may_pass = is_passing(answer.status.as_u16());
                (may_pass, retry_after(&answer.headers))
            }
            Err(error) => (error.is_of_the_way(), None),
        };
        if may_pass {
            Tried::Again { outcome, wait }
        } else {
            Tried::Done(outcome)
        }
    };
    let answer = retry(&publisher.context, attempt).await?;
    taken(publisher, &answer, part.file)?;
    Ok(answer)
}

/// Whether a store took what it was given. It says about an address that ended what it says about a
/// wrong one.
fn taken(publisher: &Publisher<'_>, answer: &Document, file: &Local<'_>) -> Result<(), Failure> {
    let what = format!("`{}`", file.path);
    match answer.status.as_u16() {
        status @ (400 | 401 | 403) => {
            let refused = publisher.refused_with(status, &what, "");
            Err(Failure::Expired(refused))
        }
        _ => Ok(publisher.accepted(answer, &what)?),
    }
}

/// Puts a part of a file somewhere, as long as it makes headway.
async fn put_once(
    publisher: &Publisher<'_>,
    part: Part<'_>,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Document, HubError> {
    let context = &publisher.context;
    let sent_bytes = Arc::new(AtomicU64::new(0));
    let (events, sent) = (publisher.events.clone(), Arc::clone(&sent_bytes));
    let Part {
        index,
        file,
        first_byte,
        n_bytes,
    } = part;
    let on_bytes = move |done_bytes| {
        sent.store(done_bytes, Ordering::Relaxed);
        let _ = events.send(Event::Bytes(index, first_byte + done_bytes));
    };
    let content = file.stream(first_byte, n_bytes, on_bytes)?;
    let request = publisher.client.put(url.clone());
    let request = request
        .headers(headers.clone())
        .header(CONTENT_LENGTH, n_bytes)
        .body(Body::wrap_stream(content));
    let answer = async {
        let answer = request.send().await;
        let answer = answer.map_err(|error| refusal::unreachable(context, error))?;
        exchange::read(context, answer).await
    };
    let HubSettings { endpoint, .. } = context.settings;
    let lost = |source: io::Error| HubError::network(publisher.repo(), endpoint, source);
    let answer = while_moving(answer, &sent_bytes, publisher.patience()).await;
    answer.map_err(lost)?
}

/// An address that the Hub gave. Mirrors give that of the Hub that they mirror.
pub(super) fn address(publisher: &Publisher<'_>, href: &str) -> Result<Url, HubError> {
    let href = match href.strip_prefix(DEFAULT_ENDPOINT) {
        Some(rest) if rest.starts_with('/') => {
            format!("{}{rest}", publisher.context.settings.endpoint)
        }
        _ => href.to_owned(),
    };
    let base = publisher.context.url(&[]);
    base.join(&href).map_err(|error| publisher.odd(error))
}

impl Action {
    fn headers(&self, publisher: &Publisher<'_>) -> Result<HeaderMap, HubError> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.header.iter().flatten() {
            let name = HeaderName::try_from(name);
            let value = HeaderValue::try_from(value.as_str().unwrap_or_default());
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(publisher.odd("it asks for headers that are not valid"));
            };
            headers.insert(name, value);
        }
        Ok(headers)
    }

    /// The addresses of the parts, in their order.
    fn parts(&self) -> Vec<&str> {
        let mut parts: Vec<(u64, &str)> = Vec::new();
        for (number, url) in self.header.iter().flatten() {
            if let (Ok(number), Some(url)) = (number.parse(), url.as_str()) {
                parts.push((number, url));
            }
        }
        parts.sort_unstable();
        parts.into_iter().map(|(_, url)| url).collect()
    }
}

/// Waits for `work` as long as `n_bytes` grows every so often.
async fn while_moving<T>(
    work: impl Future<Output = T>,
    n_bytes: &AtomicU64,
    patience: Duration,
) -> io::Result<T> {
    let mut work = pin::pin!(work);
    loop {
        let before = n_bytes.load(Ordering::Relaxed);
        match tokio::time::timeout(patience, work.as_mut()).await {
            Ok(done) => return Ok(done),
            Err(_) if n_bytes.load(Ordering::Relaxed) == before => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(_) => {}
        }
    }
}
