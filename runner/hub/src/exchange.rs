//! Requests and their answers: repeated where that may help, and no longer than an answer may be.

use crate::HubError;
use crate::HubLimits;
use crate::asked::retry_after;
use crate::pace::Pace;
use crate::remote::Remote;
use crate::{Notice, asked::Asked};
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Most bytes that are read of the text of a refusal.
const MAX_REFUSAL_BYTES: u64 = 64 << 10;

/// An answer that is small enough to be read whole.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Why there is no answer, or not all of it.
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

    fn told(self, asked: &Asked<'_>) -> HubError {
        match self {
            Self::Transport(error) => asked.unreachable(error),
            Self::TooLong => asked.too_long(),
            Self::TooSlow => asked.too_slow(),
            Self::TooLate => asked.too_late(),
        }
    }
}

/// The beginning of an answer.
trait Head {
    fn head(&self) -> (StatusCode, &HeaderMap);
}

impl Head for Document {
    fn head(&self) -> (StatusCode, &HeaderMap) {
        (self.status, &self.headers)
    }
}

impl Head for Response {
    fn head(&self) -> (StatusCode, &HeaderMap) {
        (self.status(), self.headers())
    }
}

impl Document {
    async fn read(mut response: Response, limits: &HubLimits) -> Result<Self, Failure> {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let read = match status.is_success() {
            true => fill(&mut body, &mut response, limits).await,
            // What there is of its text: the status says enough.
            false => {
                let limits = HubLimits {
                    max_answer_bytes: MAX_REFUSAL_BYTES,
                    ..limits.clone()
                };
                let read = fill(&mut body, &mut response, &limits).await;
                read.or_else(|failure| match failure {
                    Failure::Transport(_) => Err(failure),
                    Failure::TooLong | Failure::TooSlow | Failure::TooLate => Ok(()),
                })
            }
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

impl Remote<'_> {
    /// Asks for a document, again where that may help.
    pub(crate) async fn get(&self, url: &Url) -> Result<Document, HubError> {
        self.send(|| self.client().get(url.clone()), url).await
    }

    /// Sends what `request` makes, for `url`, again where that may help and as late as the Hub asks
    /// for. The token goes to the Hub alone.
    pub(crate) async fn send(
        &self,
        request: impl Fn() -> RequestBuilder,
        url: &Url,
    ) -> Result<Document, HubError> {
        self.repeated(async || self.document(request(), url).await)
            .await
    }

    /// The same where the answer is to be read by the caller, piece by piece.
    pub(crate) async fn open(
        &self,
        request: impl Fn() -> RequestBuilder,
        url: &Url,
    ) -> Result<Response, HubError> {
        let limit = self.settings().limits.max_answer_time;
        let attempt = async || {
            let response = timeout(limit, self.response(request(), url)).await;
            response.unwrap_or(Err(Failure::TooLate))
        };
        self.repeated(attempt).await
    }

    /// Sends a request for `url` once.
    pub(crate) async fn send_once(
        &self,
        request: RequestBuilder,
        url: &Url,
    ) -> Result<Document, HubError> {
        let document = self.document(request, url).await;
        document.map_err(|failure| failure.told(&self.asked("")))
    }

    /// Reads an answer.
    pub(crate) async fn read(&self, response: Response) -> Result<Document, HubError> {
        let document = Document::read(response, &self.settings().limits).await;
        document.map_err(|failure| failure.told(&self.asked("")))
    }

    /// Waits as long as the Hub asks for, or else for `delay`. At once and false: it asks for too much.
    pub(crate) async fn pause(&self, asked_for: Option<Duration>, delay: Duration) -> bool {
        let limits = &self.settings().limits;
        let may_wait = asked_for.is_none_or(|wait| {
            let notice = || Notice::Waiting {
                repo: self.repo().as_str().into(),
                endpoint: self.settings().endpoint.clone(),
                wait,
            };
            self.waits().begin(wait, limits, notice)
        });
        if may_wait {
            sleep(asked_for.unwrap_or(delay)).await;
        }
        may_wait
    }

    async fn repeated<T: Head>(
        &self,
        attempt: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let told = |failure: Failure| failure.told(&self.asked(""));
        let mut delay = self.settings().retry_delay;
        for _ in 0..self.settings().n_retries {
            match attempt().await {
                Ok(answer) => {
                    let (status, headers) = answer.head();
                    let is_last = !is_passing(status.as_u16());
                    if is_last || !self.pause(retry_after(headers), delay).await {
                        return Ok(answer);
                    }
                }
                Err(failure) if failure.may_pass() => {
                    self.pause(None, delay).await;
                }
                Err(failure) => return Err(told(failure)),
            }
            delay *= 2;
        }
        attempt().await.map_err(told)
    }

    async fn document(&self, request: RequestBuilder, url: &Url) -> Result<Document, Failure> {
        let limits = &self.settings().limits;
        let document = async {
            let response = self.response(request, url).await?;
            Document::read(response, limits).await
        };
        let document = timeout(limits.max_answer_time, document).await;
        document.unwrap_or(Err(Failure::TooLate))
    }

    async fn response(&self, request: RequestBuilder, url: &Url) -> Result<Response, Failure> {
        let request = match self.token_for(url) {
            Some(token) => request.bearer_auth(token.secret()),
            None => request,
        };
        Ok(request.send().await?)
    }
}

/// Whether a status says that a moment later it may be another.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}
