//! Requests and their answers: repeated if that may help, and no longer than an answer may be.

use crate::HubError;
use crate::HubLimits;
use crate::context::Context;
use crate::pace::Pace;
use crate::refusal::{self, Refusal, retry_after};
use crate::retry::{Tried, is_passing, retry};
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tokio::time::timeout;

/// Most bytes that are read of the text of a refusal.
const MAX_REFUSAL_BYTES: u64 = 64 << 10;

/// An answer that is small enough to be read whole.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Asks for a document about `revision`, again if that may help.
pub(crate) async fn get(
    context: &Context<'_>,
    url: &Url,
    revision: &str,
) -> Result<Document, HubError> {
    let answer = send(context, || context.client.get(url.clone()), url).await?;
    accepted(context, revision, (answer.status, &answer.headers))?;
    Ok(answer)
}

/// Whether the Hub has what it was asked for, about `revision`.
pub(crate) fn accepted(
    context: &Context<'_>,
    revision: &str,
    (status, headers): (StatusCode, &HeaderMap),
) -> Result<(), HubError> {
    if status.is_success() {
        Ok(())
    } else {
        let refusal = Refusal::of(status, headers);
        Err(refusal::refused(context, revision, &refusal))
    }
}

/// Sends what `request` makes, for `url`, again if that may help. The token goes to the Hub alone.
pub(crate) async fn send(
    context: &Context<'_>,
    request: impl Fn() -> RequestBuilder,
    url: &Url,
) -> Result<Document, HubError> {
    let attempt = async || {
        let answer = document(context, request(), url).await;
        tried(context, answer, |answer| (answer.status, &answer.headers))
    };
    retry(context, attempt).await
}

/// The same if the answer is to be read by the caller, piece by piece.
pub(crate) async fn open(
    context: &Context<'_>,
    request: impl Fn() -> RequestBuilder,
    url: &Url,
) -> Result<Response, HubError> {
    let attempt = async || {
        let limit = context.settings.limits.max_answer_time;
        let answer = timeout(limit, response(context, request(), url)).await;
        let answer = answer.unwrap_or(Err(Failure::TooLate));
        tried(context, answer, |answer| {
            (answer.status(), answer.headers())
        })
    };
    retry(context, attempt).await
}

/// Sends a request for `url` once.
pub(crate) async fn send_once(
    context: &Context<'_>,
    request: RequestBuilder,
    url: &Url,
) -> Result<Document, HubError> {
    let answer = document(context, request, url).await;
    answer.map_err(|failure| failure.told(context))
}

/// Reads an answer.
pub(crate) async fn read(context: &Context<'_>, answer: Response) -> Result<Document, HubError> {
    let answer = Document::read(answer, &context.settings.limits).await;
    answer.map_err(|failure| failure.told(context))
}

/// Why there is no answer, or not a whole one.
#[derive(Debug)]
enum Failure {
    Transport(reqwest::Error),
    TooLong,
    TooSlow,
    TooLate,
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(error)
    }
}

impl Failure {
    /// Whether a moment later it may be otherwise.
    fn may_pass(&self) -> bool {
        match self {
            Self::Transport(error) => {
                error.is_request() || error.is_timeout() || error.is_body() || error.is_decode()
            }
            Self::TooLong | Self::TooSlow | Self::TooLate => false,
        }
    }

    fn told(self, context: &Context<'_>) -> HubError {
        match self {
            Self::Transport(error) => refusal::unreachable(context, error),
            Self::TooLong => refusal::too_long(context),
            Self::TooSlow => refusal::too_slow(context),
            Self::TooLate => refusal::too_late(context),
        }
    }
}

/// Whether to ask again. `head`: status and headers of an answer.
fn tried<T>(
    context: &Context<'_>,
    answer: Result<T, Failure>,
    head: impl Fn(&T) -> (StatusCode, &HeaderMap),
) -> Tried<Result<T, HubError>> {
    let (may_pass, wait) = match &answer {
        Ok(answer) => {
            let (status, headers) = head(answer);
            (is_passing(status.as_u16()), retry_after(headers))
        }
        Err(failure) => (failure.may_pass(), None),
    };
    let outcome = answer.map_err(|failure| failure.told(context));
    if may_pass {
        Tried::Again { outcome, wait }
    } else {
        Tried::Done(outcome)
    }
}

async fn document(
    context: &Context<'_>,
    request: RequestBuilder,
    url: &Url,
) -> Result<Document, Failure> {
    let limits = &context.settings.limits;
    let document = async {
        let response = response(context, request, url).await?;
        Document::read(response, limits).await
    };
    let document = timeout(limits.max_answer_time, document).await;
    document.unwrap_or(Err(Failure::TooLate))
}

async fn response(
    context: &Context<'_>,
    request: RequestBuilder,
    url: &Url,
) -> Result<Response, Failure> {
    let request = match context.token_for(url) {
        Some(token) => request.bearer_auth(token.secret()),
        None => request,
    };
    Ok(request.send().await?)
}

impl Document {
    async fn read(mut response: Response, limits: &HubLimits) -> Result<Self, Failure> {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let read = if status.is_success() {
            fill(&mut body, &mut response, limits).await
        } else {
            // As much of the text as can be read: the status says enough.

            let limits = HubLimits {
                max_answer_bytes: MAX_REFUSAL_BYTES,
                ..limits.clone()
            };
            let read = fill(&mut body, &mut response, &limits).await;
            read.or_else(|failure| match failure {
                Failure::Transport(_) => Err(failure),
                Failure::TooLong | Failure::TooSlow | Failure::TooLate => Ok(()),
            })
        };
        read.map(|()| Self {
            status,
            headers,
            body,
        })
    }
}

/// Reads an answer to its end.
async fn fill(
    body: &mut Vec<u8>,
    response: &mut Response,
    limits: &HubLimits,
) -> Result<(), Failure> {
    let mut pace = Pace::new(limits);
    loop {
        let piece = pace.watch(response.chunk()).await;
        let Some(piece) = piece.ok_or(Failure::TooSlow)?? else {
            return Ok(());
        };
        pace.count(piece.len());
        if (body.len() + piece.len()) as u64 > limits.max_answer_bytes {
            return Err(Failure::TooLong);
        }
        body.extend_from_slice(&piece);
    }
}
