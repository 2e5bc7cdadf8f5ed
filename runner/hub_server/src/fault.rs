//! Failures on demand.

use super::http::{Flow, Received, Response};
use std::thread;
use std::time::Duration;

/// A failure, and the requests that it meets: by default all, for ever.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: Kind,
    /// Parts of `METHOD TARGET`.
    on: Vec<String>,
    n_left: Option<u32>,
}

#[derive(Clone, Debug)]
enum Kind {
    Status {
        status: u16,
        message: String,
        headers: Vec<(&'static str, String)>,
    },
    Truncate,
    Flow(Flow),
    /// Another status, if one is given, and a body without end.
    Endless(Option<u16>),
    NextPage {
        is_same: bool,
    },
    Header(&'static str, String),
    Garble,
    Delay(Duration),
    NoRanges,
    Replace(Vec<u8>),
    CutUpload(u64),
    LoseAnswer(Option<u16>),
    Expire,
}

impl Fault {
    /// Answers with a status and a body that says so.
    pub fn status(status: u16) -> Self {
        Self::says(status, "this is a test")
    }

    /// Answers with a status and what the Hub says to it.
    pub fn says(status: u16, message: &str) -> Self {
        Self::new(Kind::Status {
            status,
            message: message.into(),
            headers: Vec::new(),
        })
    }

    /// Too many requests; come back after this number of seconds.
    pub fn rate_limit(seconds: u32) -> Self {
        Self::new(Kind::Status {
            status: 429,
            message: "this is a test".into(),
            headers: vec![("Retry-After", seconds.to_string())],
        })
    }

    /// Sends elsewhere.
    pub fn redirect(location: &str) -> Self {
        Self::new(Kind::Status {
            status: 307,
            message: String::new(),
            headers: vec![("Location", location.into())],
        })
    }

    /// Breaks off in the middle of the body.
    pub fn truncate() -> Self {
        Self::new(Kind::Truncate)
    }

    /// Sends the first `n_bytes` of a body, and breaks off.
    pub fn cut_answer(n_bytes: usize) -> Self {
        Self::new(Kind::Flow(Flow::Cut(n_bytes)))
    }

    /// Sends a body one byte at a time, with a pause before each.
    pub fn trickle(pause: Duration) -> Self {
        Self::new(Kind::Flow(Flow::Trickle(pause)))
    }

    /// Sends headers without end.
    pub fn endless_headers() -> Self {
        Self::new(Kind::Flow(Flow::EndlessHeaders))
    }

    /// Sends a body without end.
    pub fn endless() -> Self {
        Self::new(Kind::Endless(None))
    }

    /// The same with a status that is not a success.
    pub fn endless_refusal(status: u16) -> Self {
        Self::new(Kind::Endless(Some(status)))
    }

    /// Names the page that was asked for as the next one.
    pub fn same_page() -> Self {
        Self::new(Kind::NextPage { is_same: true })
    }

    /// Names yet another page as the next one, each time.
    pub fn endless_pages() -> Self {
        Self::new(Kind::NextPage { is_same: false })
    }

    /// Sends another header.
    pub fn header(name: &'static str, value: &str) -> Self {
        Self::new(Kind::Header(name, value.into()))
    }

    /// Sends a body of the right length with one bit wrong.
    pub fn garble() -> Self {
        Self::new(Kind::Garble)
    }

    /// Sends another body, of whatever length.
    pub fn replace(body: &[u8]) -> Self {
        Self::new(Kind::Replace(body.into()))
    }

    /// Sends whole files if parts were asked for.
    pub fn no_ranges() -> Self {
        Self::new(Kind::NoRanges)
    }

    /// Answers late.
    pub fn delay(delay: Duration) -> Self {
        Self::new(Kind::Delay(delay))
    }

    /// Breaks the connection off when `n_bytes` of a body, or the whole body, have arrived, and does nothing.
    pub fn cut_upload(n_bytes: u64) -> Self {
        Self::new(Kind::CutUpload(n_bytes))
    }

    /// Does what is asked, and breaks off without an answer.
    pub fn lose_answer() -> Self {
        Self::new(Kind::LoseAnswer(None))
    }

    /// Does what is asked, and answers with a status as if it had not.
    pub fn late_status(status: u16) -> Self {
        Self::new(Kind::LoseAnswer(Some(status)))
    }

    /// Refuses, and all addresses and tokens of the stores that were given out so far with it.
    pub fn expire() -> Self {
        Self::new(Kind::Expire)
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            on: Vec::new(),
            n_left: None,
        }
    }

    /// Only on requests whose `METHOD TARGET` contains `part`, such as `GET /org/name/resolve`; may
    /// be repeated. Targets at the store of large files are `/HASH/FILE?signature=x` to download,
    /// `PUT /upload/HASH` and `PUT /part/N/HASH` to upload; those at the Xet store begin with `/v1`
    /// and `/v2`.
    pub fn on(mut self, part: &str) -> Self {
        self.on.push(part.into());
        self
    }

    /// Only `n` times.
    pub fn times(self, n: u32) -> Self {
        Self {
            n_left: Some(n),
            ..self
        }
    }
}

/// All failures of a server.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// The failure that meets a request, which is one time less then.
    pub(super) fn take(&mut self, method: &str, target: &str) -> Option<Fault> {
        let line = format!("{method} {target}");
        let meets = |fault: &&mut Fault| {
            fault.n_left != Some(0) && fault.on.iter().all(|part| line.contains(part))
        };
        let fault = self.0.iter_mut().find(meets)?;
        fault.n_left = fault.n_left.map(|n| n - 1);
        Some(fault.clone())
    }
}

impl Fault {
    /// Whether it keeps a server from sending parts of files.
    pub(super) fn hides_ranges(&self) -> bool {
        matches!(self.kind, Kind::NoRanges)
    }

    /// Whether it makes all addresses and tokens of the stores invalid.
    pub(super) fn expires(&self) -> bool {
        matches!(self.kind, Kind::Expire)
    }

    /// After how many bytes of a body it breaks off.
    pub(super) fn longest_body(&self) -> Option<u64> {
        match self.kind {
            Kind::CutUpload(n_bytes) => Some(n_bytes),
            _ => None,
        }
    }

    /// The answer if nothing is done.
    pub(super) fn refusal(&self) -> Option<Response> {
        let Kind::Status {
            status,
            message,
            headers,
        } = &self.kind
        else {
            return None;
        };
        let refused = Response::error(*status, None, message);
        Some(headers.iter().fold(refused, |response, (name, value)| {
            response.with(name, value.clone())
        }))
    }

    /// The answer that is sent; `None`: no answer.
    pub(super) fn spoil(self, received: &Received, mut response: Response) -> Option<Response> {
        match self.kind {
            Kind::Truncate => response.flow = Flow::Cut(response.body.len() / 2),
            Kind::Flow(flow) => response.flow = flow,
            Kind::Endless(status) => {
                response.status = status.unwrap_or(response.status);
                response.flow = Flow::Endless;
            }
            Kind::NextPage { is_same } => {
                let page: u64 = received
                    .parameter("page")
                    .unwrap_or_default()
                    .parse()
                    .unwrap_or(0);
                let next = if is_same {
                    String::new()
                } else {
                    format!("?page={}", page + 1)
                };
                response = response.with("Link", format!("<{next}>; rel=\"next\""));
            }
            Kind::Header(name, value) => response = response.with(name, value),
            Kind::Garble => {
                if let Some(byte) = response.body.last_mut() {
                    *byte ^= 1;
                }
            }
            Kind::Replace(body) => response.body = body,
            Kind::Delay(delay) => thread::sleep(delay),
            Kind::LoseAnswer(None) => return None,
            Kind::LoseAnswer(Some(status)) => {
                response = Response::error(status, None, "this is a test");
            }
            Kind::Status { .. } | Kind::CutUpload(_) | Kind::NoRanges | Kind::Expire => {}
        }
        Some(response)
    }
}
