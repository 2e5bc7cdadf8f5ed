//! Large files to the Xet store, which takes them in chunks, without those that it has. hf-hub 1.0.0 does
//! the same only together with a commit.

use super::UploadSource;
use super::local::Local;
use super::progress::Event;
use super::publisher::Publisher;
use crate::HubError;
use crate::error::Cause;
use crate::exchange::{self, Document};
use crate::retry::{Tried, retry};
use fault::Fault;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, DATE, HeaderMap, HeaderValue};
use serde::Deserialize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;
use xet::error::XetError;
use xet::xet_session::{
    Sha256Policy, XetCommitReport, XetConfig, XetSessionBuilder, XetUploadCommit,
};

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(100);

/// How long everything may be at a standstill, in the longest times of an answer: a block of a slow line, or the store
/// at work on what it was sent about many files.
const STANDSTILLS: u32 = 2;

/// Blocks under way at the same time. Each is of 64 MB and held in memory; Xet's client would go up
/// to 64 blocks.
const MAX_PARALLEL: usize = 4;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    access_token: String,
    /// When it ends, by the Hub's clock: seconds since 1970.
    exp: u64,
    cas_url: String,
}

/// Why files did not arrive.
struct Failure {
    cause: Cause,
    /// Whether the same may go well a moment later, or with a new token.
    may_pass: bool,
}

impl From<XetError> for Failure {
    fn from(error: XetError) -> Self {
        let may_pass = !matches!(
            error,
            XetError::DataIntegrity(_)
                | XetError::Configuration(_)
                | XetError::Io(_)
                | XetError::NotFound(_)
                | XetError::KeyboardInterrupt
                | XetError::UserCancelled(_)
        );
        let cause = error.into();
        Self { cause, may_pass }
    }
}

/// Sends files.
pub(super) async fn send(publisher: &Publisher<'_>, files: &[&Local<'_>]) -> Result<(), HubError> {
    let attempt = async || {
        // A new token each time: the old one may have ended.
        let (url, token) = match token(publisher).await {
            Ok(token) => token,
            Err(error) => return Tried::Done(Err(error)),
        };
        match try_xet(publisher, files, &url, &token).await {
            Ok(sent) => Tried::Done(Ok(sent)),
            Err(Failure { cause, may_pass }) => {
                let outcome = Err(not_stored(publisher, cause));
                if may_pass {
                    Tried::Again {
                        outcome,
                        wait: None,
                    }
                } else {
                    Tried::Done(outcome)
                }
            }
        }
    };
    let sent = retry(&publisher.context, attempt).await?;
    check(publisher, files, &sent)
}

fn not_stored(publisher: &Publisher<'_>, cause: Cause) -> HubError {
    let text = format!(
        "cannot store the large files of `{}` at the Hub",
        publisher.repo()
    );
    let fault = Fault::input(text).because(cause);
    HubError::Fault(fault.with_hint("run it again: finished files are not sent again"))
}

/// Whether what was sent is what was hashed: the Hub finds files by their SHA-256.
fn check(
    publisher: &Publisher<'_>,
    files: &[&Local<'_>],
    sent: &[Option<String>],
) -> Result<(), HubError> {
    for (index, (file, sent)) in files.iter().zip(sent).enumerate() {
        if sent.as_ref().is_some_and(|sha256| *sha256 != file.sha256) {
            return Err(file.changed());
        }
        publisher.tell(Event::Done(index));
    }
    Ok(())
}

/// A token for the store, and where to get the next one.
async fn token(publisher: &Publisher<'_>) -> Result<(Url, Token), HubError> {
    let context = &publisher.context;
    let url = publisher.api("xet-write-token");
    let answer = exchange::send(context, || context.client.get(url.clone()), &url).await?;
    match answer.status.as_u16() {
        403 => publisher.accepted(&answer, "large files")?,
        _ => exchange::accepted(context, publisher.branch, (answer.status, &answer.headers))?,
    }
    let mut token: Token = publisher.read(&answer)?;
    token.exp = by_our_clock(token.exp, &answer);
    Ok((url, token))
}

/// Sends files, and gives the SHA-256 of what was sent of each.
async fn try_xet(
    publisher: &Publisher<'_>,
    files: &[&Local<'_>],
    token_url: &Url,
    token: &Token,
) -> Result<Vec<Option<String>>, Failure> {
    let mut config = XetConfig::new();
    let most = &mut config.client.ac_max_upload_concurrency;
    *most = MAX_PARALLEL.min(*most);
    let session = XetSessionBuilder::new_with_config(config)
        .with_cache_dir(&publisher.context.settings.xet_cache_dir)
        .build()?;
    let commit = session
        .new_upload_commit()?
        .with_endpoint(&token.cas_url)
        .with_token_info(&token.access_token, token.exp)
        .with_token_refresh_url(token_url.as_str(), token_header(publisher, token_url))
        .build()
        .await?;
    let mut tasks = Vec::new();
    for file in files {
        // Computed of what is sent, so that it shows when the file has changed.
        let sha256 = Sha256Policy::Compute;
        let sending = match file.source {
            UploadSource::File(path) => commit.upload_from_path(path.clone(), sha256).await?,
            UploadSource::Bytes(bytes) => {
                let name = Some(file.path.to_owned());
                commit.upload_bytes(bytes.clone(), sha256, name).await?
            }
        };
        tasks.push(sending.task_id());
    }
    let report = finish(publisher, &commit).await?;
    let sha256 = |task| report.uploads.get(task)?.xet_info.sha256.clone();
    Ok(tasks.iter().map(sha256).collect())
}

/// Waits until all has arrived, as long as there is headway: Xet's client itself waits for ever for a store that does
/// not say whether it has taken what it was sent about files.
async fn finish(
    publisher: &Publisher<'_>,
    commit: &XetUploadCommit,
) -> Result<XetCommitReport, Failure> {
    let patience = STANDSTILLS * publisher.context.settings.limits.max_answer_time;
    let mut finished = std::pin::pin!(commit.commit());
    let (mut n_moved, mut since) = (0, Instant::now());
    loop {
        if let Ok(finished) = timeout(POLL, finished.as_mut()).await {
            return Ok(finished?);
        }
        let progress = commit.progress();
        publisher.tell(Event::AllBytes(progress.total_bytes_completed));
        let so_far = (progress.total_bytes_completed)
            .saturating_add(progress.total_transfer_bytes_completed);
        if so_far != n_moved {
            (n_moved, since) = (so_far, Instant::now());
        } else if since.elapsed() > patience {
            let seconds = patience.as_secs_f64();
            return Err(Failure {
                cause: format!("it makes no progress for {seconds} s").into(),
                may_pass: false,
            });
        }
    }
}

fn token_header(publisher: &Publisher<'_>, url: &Url) -> HeaderMap {
    let token = publisher.context.token_for(url);
    let value = token.map(|token| HeaderValue::try_from(format!("Bearer {}", token.secret())));
    let mut headers = HeaderMap::new();
    if let Some(Ok(mut value)) = value {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

/// When a token ends by the clock of this machine, which Xet's client looks at: that may be wrong,
/// but how long a token lasts is not.
fn by_our_clock(end: u64, answer: &Document) -> u64 {
    let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    let theirs = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |s| s.as_secs());
    match theirs {
        Some(theirs) => {
            let life = end.saturating_sub(seconds(theirs));
            seconds(SystemTime::now()).saturating_add(life)
        }
        None => end,
    }
}
