//! As much HTTP as a Hub for tests needs: one request per connection, whole bodies.

use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

/// Longest line of a request.
const MAX_LINE_BYTES: u64 = 16 << 10;

/// A request as it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Received {
    pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            match read_line(reader)? {
                None => return Ok(None),
                Some(line) if line.is_empty() => break,
                Some(line) => lines.push(line),
            }
        }
        let mut lines = lines.into_iter();
        let first = lines.next().unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        let header = |line: String| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Ok(words.next().zip(words.next()).map(|(method, target)| Self {
            method,
            target,
            headers: lines.filter_map(header).collect(),
            body: Vec::new(),
        }))
    }

    /// Reads the body, no more than `longest` bytes, and says whether that is all.
    pub(super) fn read_body(
        &mut self,
        reader: &mut impl BufRead,
        longest: Option<u64>,
    ) -> io::Result<bool> {
        let longest = longest.unwrap_or(u64::MAX);
        if self.header("transfer-encoding") == Some("chunked") {
            return self.read_chunks(reader, longest);
        }
        let length = self.header("content-length");
        let length: u64 = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut part = reader.take(length.min(longest));
        part.read_to_end(&mut self.body)?;
        Ok(self.body.len() as u64 == length)
    }

    fn read_chunks(&mut self, reader: &mut impl BufRead, longest: u64) -> io::Result<bool> {
        loop {
            let line = read_line(reader)?.unwrap_or_default();
            let digits = line.split(';').next().unwrap_or_default();
            let Ok(length) = u64::from_str_radix(digits, 16) else {
                return Ok(false);
            };
            if self.body.len() as u64 + length > longest {
                return Ok(false);
            }
            let n_read = reader.take(length).read_to_end(&mut self.body)?;
            // The line end after a chunk, or the last one.
            read_line(reader)?;
            if n_read as u64 != length || length == 0 {
                return Ok(length == 0);
            }
        }
    }

    /// The target without its query.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Whether something changes by it.
    pub(super) fn is_write(&self) -> bool {
        matches!(self.method.as_str(), "POST" | "PUT")
    }

    /// The body as JSON; `null` if it is not JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// A header by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A line without its end; `None` at the end of all.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    let n_read = reader.take(MAX_LINE_BYTES).read_line(&mut line)?;
    Ok((n_read > 0).then(|| line.trim_end().to_owned()))
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    pub(super) flow: Flow,
}

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The whole body.
    Whole,
    /// Only this number of its bytes; then the connection breaks.
    Cut(usize),
    /// A byte at a time, with a pause before each.
    Trickle(Duration),
    /// Spaces, as long as they are read.
    Endless,
    /// No body, and headers as long as they are read.
    EndlessHeaders,
}

impl Response {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            flow: Flow::Whole,
        }
    }

    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::new(200, value.to_string()).with("Content-Type", "application/json")
    }

    /// As the Hub says no: in headers, for `HEAD`, and in the body.
    pub(super) fn error(status: u16, code: Option<&'static str>, message: &str) -> Self {
        let body = serde_json::json!({ "error": message }).to_string();
        let response = Self::new(status, body)
            .with("X-Error-Message", message)
            .with("ETag", "W/\"1c-of-the-refusal\"");
        match code {
            Some(code) => response.with("X-Error-Code", code),
            None => response,
        }
    }

    pub(super) fn redirect(status: u16, location: String) -> Self {
        Self::new(status, "").with("Location", location)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn write(&self, mut stream: TcpStream, is_head: bool) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Test\r\nConnection: close\r\n", self.status);
        if self.flow != Flow::Endless {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.flow == Flow::EndlessHeaders {
            stream.write_all(head.as_bytes())?;
            return for_ever(&mut stream, b"X-More: and more of them\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if !is_head {
            self.write_body(&mut stream)?;
        }
        stream.shutdown(Shutdown::Write)
    }

    fn write_body(&self, stream: &mut TcpStream) -> io::Result<()> {
        match self.flow {
            Flow::Whole => stream.write_all(&self.body),
            Flow::Cut(n_bytes) => stream.write_all(&self.body[..n_bytes.min(self.body.len())]),
            Flow::Trickle(pause) => self.body.iter().try_for_each(|&byte| {
                thread::sleep(pause);
                stream.write_all(&[byte])
            }),
            Flow::Endless => for_ever(stream, &[b' '; 1 << 16]),
            Flow::EndlessHeaders => Ok(()),
        }
    }
}

/// Sends the same again and again, until the other end has had enough.
fn for_ever(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(bytes)?;
    }
}
