//! Large files by git's LFS protocol: the Hub tells where to put them, in one piece or in parts, and
//! is told when they are there. Where it would rather have them in its Xet store, see xet.rs.

use super::local::Local;
use super::progress::{Event, UploadStep};
use super::publish::Publisher;
use super::xet;
use crate::HubError;
use crate::asked::retry_after;
use crate::exchange::{Document, is_passing};
use crate::settings::DEFAULT_ENDPOINT;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{io, pin};

const LFS_JSON: &str = "application/vnd.git-lfs+json";

/// The key under which the length of parts is given, among the parts' addresses.
const PART_BYTES: &str = "chunk_size";

/// Files in one question of where to put them.
const OBJECTS_AT_ONCE: usize = 100;

/// Files under way at the same time.
const MAX_PARALLEL: usize = 4;

#[derive(Deserialize)]
struct Batch {
    transfer: Option<String>,
    #[serde(default)]
    objects: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
    /// `None`: it is there.
    actions: Option<Actions>,
    error: Option<ObjectError>,
}

#[derive(Deserialize)]
struct ObjectError {
    code: u16,
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    /// Headers to send, or the parts' addresses by their numbers.
    header: Option<BTreeMap<String, Value>>,
}

/// A part of a file, or all of it.
#[derive(Clone, Copy)]
struct Part {
    /// The file's index.
    index: usize,
    first_byte: u64,
    n_bytes: u64,
}

/// Why a file was not taken.
enum Failure {
    /// The addresses are not valid any more.
    Expired(HubError),
    Other(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Other(error)
    }
}

/// Sends files, no two of them with the same content, in the way that the Hub wants.
pub(super) async fn send(publisher: &Publisher<'_>, files: &[&Local<'_>]) -> Result<(), HubError> {
    publisher.begin(UploadStep::Sending, files.iter().map(|file| file.n_bytes));
    let mut of_xet = Vec::new();
    for (nth, chunk) in files.chunks(OBJECTS_AT_ONCE).enumerate() {
        let first = nth * OBJECTS_AT_ONCE;
        let mut batch = publisher.batch(chunk).await?;
        match batch.transfer.as_deref() {
            Some("xet") => of_xet.extend_from_slice(chunk),
            None | Some("basic" | "multipart") => {
                let mut sent = Vec::new();
                for (at, &file) in chunk.iter().enumerate() {
                    let object = batch.take(file);
                    sent.push(publisher.send_object(first + at, file, object));
                }
                let sent = stream::iter(sent).buffer_unordered(MAX_PARALLEL);
                sent.try_collect::<()>().await?;
            }
            Some(transfer) => {
                return Err(HubError::UnknownTransfer {
                    repo: publisher.repo.as_str().into(),
                    transfer: transfer.escape_default().take(40).collect(),
                });
            }
        }
    }
    match of_xet.is_empty() {
        true => Ok(()),
        false => xet::send(publisher, &of_xet).await,
    }
}

impl Batch {
    fn take(&mut self, file: &Local<'_>) -> Option<Object> {
        let mut objects = self.objects.iter();
        let at = objects.position(|object| object.oid.eq_ignore_ascii_case(&file.sha256))?;
        Some(self.objects.swap_remove(at))
    }
}

impl Publisher<'_> {
    /// Asks where to put files.
    async fn batch(&self, files: &[&Local<'_>]) -> Result<Batch, HubError> {
        let (owner, name) = self.repo.as_str().split_once('/').unwrap_or_default();
        let git = format!("{name}.git");
        let url = self.url(&[owner, &git, "info", "lfs", "objects", "batch"])?;
        let object = |file: &&Local<'_>| json!({"oid": file.sha256, "size": file.n_bytes});
        let objects: Vec<_> = files.iter().map(object).collect();
        let body = json!({
            "operation": "upload", "transfers": ["basic", "multipart", "xet"],
            "objects": objects, "hash_algo": "sha256", "ref": {"name": self.branch},
        });
        let answer = self.post_as(&url, &body, LFS_JSON).await?;
        self.accepted(&answer, "large files")?;
        self.read(&answer)
    }

    /// Sends a file, and asks for new addresses when they end before it is there.
    async fn send_object(
        &self,
        index: usize,
        file: &Local<'_>,
        mut object: Option<Object>,
    ) -> Result<(), HubError> {
        for n_left in (0..=self.settings.n_retries).rev() {
            let told = object.take();
            let told = told.ok_or_else(|| self.asked().odd("it leaves out a large file"))?;
            match self.try_object(index, file, told).await {
                Ok(()) => {
                    self.tell(Event::Done(index));
                    return Ok(());
                }
                Err(Failure::Other(error)) => return Err(self.blamed(file, error)),
                Err(Failure::Expired(error)) if n_left == 0 => {
                    return Err(self.blamed(file, error));
                }
                Err(Failure::Expired(_)) => object = self.batch(&[file]).await?.take(file),
            }
        }
        Err(self.asked().odd("its addresses end at once"))
    }

    /// A refusal may be for want of the bytes that were promised.
    fn blamed(&self, file: &Local<'_>, error: HubError) -> HubError {
        match error {
            HubError::Refused { .. } if !file.is_unchanged() => file.changed(),
            error => error,
        }
    }

    async fn try_object(
        &self,
        index: usize,
        file: &Local<'_>,
        object: Object,
    ) -> Result<(), Failure> {
        if let Some(ObjectError { code, message }) = object.error {
            return Err(Failure::Other(HubError::Refused {
                repo: self.repo.as_str().into(),
                what: format!("`{}`", file.path),
                status: code,
                message: self.shown(&message),
            }));
        }
        let Some(actions) = object.actions else {
            return Ok(());
        };
        if let Some(upload) = &actions.upload {
            match upload.header(PART_BYTES) {
                None => self.put_whole(index, file, upload).await?,
                Some(part_bytes) => self.put_parts(index, file, upload, part_bytes).await?,
            }
        }
        let Some(verify) = &actions.verify else {
            return Ok(());
        };
        let url = self.place(&verify.href)?;
        let body = json!({"oid": file.sha256, "size": file.n_bytes});
        let answer = self.post_as(&url, &body, LFS_JSON).await?;
        Ok(self.accepted(&answer, &format!("`{}`", file.path))?)
    }

    async fn put_whole(
        &self,
        index: usize,
        file: &Local<'_>,
        upload: &Action,
    ) -> Result<(), Failure> {
        let part = Part {
            index,
            first_byte: 0,
            n_bytes: file.n_bytes,
        };
        let url = self.place(&upload.href)?;
        let headers = self.headers(upload)?;
        self.put(file, part, &url, &headers).await.map(drop)
    }

    async fn put_parts(
        &self,
        index: usize,
        file: &Local<'_>,
        upload: &Action,
        part_bytes: &Value,
    ) -> Result<(), Failure> {
        let urls = upload.parts();
        let text = part_bytes.as_str().and_then(|text| text.parse().ok());
        let part_bytes: u64 = part_bytes.as_u64().or(text).unwrap_or(0);
        if part_bytes == 0 || file.n_bytes.div_ceil(part_bytes) != urls.len() as u64 {
            let why = "it splits a file into parts that do not make it up";
            return Err(Failure::Other(self.asked().odd(why)));
        }
        let mut parts = Vec::new();
        for (number, url) in (1_u64..).zip(urls) {
            let first_byte = (number - 1) * part_bytes;
            let part = Part {
                index,
                first_byte,
                n_bytes: part_bytes.min(file.n_bytes - first_byte),
            };
            let url = self.place(url)?;
            let answer = self.put(file, part, &url, &HeaderMap::new()).await?;
            let etag = answer.headers.get(ETAG);
            let etag = etag.and_then(|etag| etag.to_str().ok());
            let etag = etag.ok_or_else(|| self.asked().odd("it gives a part no name"))?;
            parts.push(json!({"partNumber": number, "etag": etag}));
        }
        let url = self.place(&upload.href)?;
        let body = json!({"oid": file.sha256, "parts": parts});
        let answer = self.post_as(&url, &body, LFS_JSON).await?;
        self.taken(&answer, file)
    }

    /// Puts a part of a file somewhere, again where that may help, from its first byte.
    async fn put(
        &self,
        file: &Local<'_>,
        part: Part,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Document, Failure> {
        let mut delay = self.settings.retry_delay;
        let mut n_left = self.settings.n_retries;
        loop {
            let answer = self.put_once(file, part, url, headers).await;
            let (may_pass, wait) = match &answer {
                Ok(answer) => {
                    let may_pass = is_passing(answer.status.as_u16());
                    (may_pass, retry_after(&answer.headers))
                }
                Err(error) => (error.is_of_the_way(), None),
            };
            if !may_pass || n_left == 0 || !self.remote.pause(wait, delay).await {
                let answer = answer?;
                self.taken(&answer, file)?;
                return Ok(answer);
            }
            n_left -= 1;
            delay *= 2;
        }
    }

    /// Whether a store took what it was given. It says of an address that ended what it says of a
    /// wrong one.
    fn taken(&self, answer: &Document, file: &Local<'_>) -> Result<(), Failure> {
        let what = format!("`{}`", file.path);
        match answer.status.as_u16() {
            400 | 401 | 403 => Err(Failure::Expired(HubError::Refused {
                repo: self.repo.as_str().into(),
                what,
                status: answer.status.as_u16(),
                message: String::new(),
            })),
            _ => Ok(self.accepted(answer, &what)?),
        }
    }

    /// Puts a part of a file somewhere, as long as it makes headway.
    async fn put_once(
        &self,
        file: &Local<'_>,
        part: Part,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Document, HubError> {
        let sent_bytes = Arc::new(AtomicU64::new(0));
        let (events, sent) = (self.events(), Arc::clone(&sent_bytes));
        let on_bytes = move |done_bytes| {
            sent.store(done_bytes, Ordering::Relaxed);
            let _ = events.send(Event::Bytes(part.index, part.first_byte + done_bytes));
        };
        let content = file.stream(part.first_byte, part.n_bytes, on_bytes)?;
        let request = self.patient_client.put(url.clone());
        let request = request
            .headers(headers.clone())
            .header(CONTENT_LENGTH, part.n_bytes)
            .body(Body::wrap_stream(content));
        let answer = async {
            let answer = request.send().await;
            let answer = answer.map_err(|error| self.asked().unreachable(error))?;
            self.remote.read(answer).await
        };
        let answer = while_moving(answer, &sent_bytes, self.patience()).await;
        let lost = |source: io::Error| HubError::Network {
            repo: self.repo.as_str().into(),
            endpoint: self.settings.endpoint.clone(),
            source: source.into(),
        };
        answer.map_err(lost)?
    }

    /// An address that the Hub gave. Mirrors give that of the Hub that they mirror.
    fn place(&self, href: &str) -> Result<Url, HubError> {
        let href = match href.strip_prefix(DEFAULT_ENDPOINT) {
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.settings.endpoint),
            _ => href.to_owned(),
        };
        let base = self.url(&[])?;
        base.join(&href).map_err(|error| self.asked().odd(error))
    }

    fn headers(&self, action: &Action) -> Result<HeaderMap, HubError> {
        let mut headers = HeaderMap::new();
        for (name, value) in action.header.iter().flatten() {
            let name = HeaderName::try_from(name);
            let value = HeaderValue::try_from(value.as_str().unwrap_or_default());
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(self.asked().odd("it wants headers that are none"));
            };
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

impl Action {
    fn header(&self, name: &str) -> Option<&Value> {
        self.header.as_ref()?.get(name)
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
