//! The store of large files in chunks: Xet's own server. A listener in front keeps the log, checks tokens and fails
//! on demand.

use super::http::{Received, Response};
use super::repo::{Content, sha256};
use super::{State, lock};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use xet_client::cas_client::{
    DeletionControlableClient, DirectAccessClient, LocalClient, LocalServer,
};
use xet_runtime::core::XetContext;

/// How long a token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(15 * 60);

const HOST: &str = "127.0.0.1";

/// Xet's server; it ends when this is dropped.
pub(super) struct Cas {
    runtime: Option<Runtime>,
    client: Arc<LocalClient>,
    address: SocketAddr,
    /// By their SHA-256.
    contents: BTreeMap<String, Content>,
    _stop: oneshot::Sender<()>,
}

impl fmt::Debug for Cas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cas")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Cas {
    pub(super) fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("this machine has a thread left");
        let (stop, stopped) = oneshot::channel();
        let (client, address) = runtime.block_on(async {
            let context = XetContext::default().expect("the runtime will do");
            let client = LocalClient::temporary(context).await;
            let client = client.expect("there is a temporary folder");
            let listener = TcpListener::bind((HOST, 0)).await;
            let listener = listener.expect("this machine has a free port");
            let address = listener.local_addr().expect("an open port has an address");
            let server =
                LocalServer::from_client(client.clone(), None, HOST.into(), address.port());
            tokio::spawn(async move { server.serve_until_stopped(listener, stopped).await });
            (client, address)
        });
        Self {
            runtime: Some(runtime),
            client,
            address,
            contents: BTreeMap::new(),
            _stop: stop,
        }
    }

    /// A file by its SHA-256.
    pub(super) fn content(&mut self, oid: &str) -> Option<Content> {
        if !self.contents.contains_key(oid) {
            self.look();
        }
        self.contents.get(oid).cloned()
    }

    /// Looks for files that came since the last time. They hash here: what a client says about a file
    /// counts for nothing.
    fn look(&mut self) {
        let known: Vec<_> = self.contents.values().cloned().collect();
        let is_known = |hash: &String| {
            let mut known = known.iter();
            known.any(|content| content.xet_hash.as_ref() == Some(hash))
        };
        let Some(runtime) = &self.runtime else {
            return;
        };
        let client = &self.client;
        let found = runtime.block_on(async {
            let mut found = Vec::new();
            for (file, _) in client.list_file_shard_entries().await.unwrap_or_default() {
                if is_known(&file.hex()) {
                    continue;
                }
                // A file whose chunks have not all arrived does not count.
                if let Ok(bytes) = client.get_file_data(&file, None).await {
                    found.push((file.hex(), bytes.to_vec()));
                }
            }
            found
        });
        for (hash, bytes) in found {
            let content = Content {
                bytes: Arc::new(bytes),
                xet_hash: Some(hash),
            };
            self.contents.insert(sha256(&content.bytes), content);
        }
    }
}

impl Drop for Cas {
    fn drop(&mut self) {
        // Without waiting, which an async test would not allow.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A token for the store, and its address.
pub(super) fn token(state: &State) -> Response {
    if state.cas.is_none() {
        return Response::error(404, None, "this Hub has no Xet store");
    }
    let token = format!("xet-{}", state.sign());
    let now = state.now();
    let expires = (now + TOKEN_LIFE).duration_since(UNIX_EPOCH);
    let expires = expires.map_or(0, |since| since.as_secs());
    let url = &state.cas_url;
    Response::json(&json!({"accessToken": token, "exp": expires, "casUrl": url}))
        .with("X-Xet-Access-Token", token.clone())
        .with("X-Xet-Token-Expiration", expires.to_string())
        .with("X-Xet-Cas-Url", url.as_str())
        .with("Date", httpdate::fmt_http_date(now))
}

impl State {
    /// What the clock of the Hub shows.
    fn now(&self) -> SystemTime {
        let now = SystemTime::now();
        if self.clock_is_behind {
            now - self.clock_skew
        } else {
            now + self.clock_skew
        }
    }
}

/// Whether the store lets a request in. Addresses that it made itself need no token.
pub(super) fn admits(state: &Mutex<State>, received: &Received) -> bool {
    let path = received.path();
    let is_signed = ["/v1/fetch_term", "/v1/get_xorb/", "/simulation/"];
    let is_signed = is_signed.iter().any(|start| path.starts_with(start));
    let token = received.header("authorization");
    let number = token.and_then(|token| token.strip_prefix("Bearer xet-"));
    is_signed || number.is_some_and(|number| lock(state).is_valid(number))
}

/// Hands a request on to Xet's server, and its answer back.
pub(super) fn forward(
    state: &Mutex<State>,
    received: &Received,
    mut client: TcpStream,
) -> io::Result<()> {
    let address = lock(state).cas.as_ref().map(|cas| cas.address);
    let mut server = TcpStream::connect(address.ok_or(io::ErrorKind::NotConnected)?)?;
    let Received { method, target, .. } = received;
    let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    let ours = ["connection", "content-length", "transfer-encoding"];
    let headers = received.headers.iter();
    for (name, value) in headers.filter(|(name, _)| !ours.contains(&name.as_str())) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", received.body.len()));
    server.write_all(head.as_bytes())?;
    server.write_all(&received.body)?;
    io::copy(&mut server, &mut client).map(drop)
}
