//! A port, and who answers there: one request per connection.

use super::http::{Received, Response};
use super::route::Service;
use super::serve::Asked;
use super::{Fault, Request, State, cas, lock, write};
use std::io::{self, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// A thread that takes connections.
#[derive(Debug)]
pub(super) struct Listener {
    host: &'static str,
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Opens a port of this machine, called `host` in its address.
    pub(super) fn open(host: &'static str, service: Service, state: &Arc<Mutex<State>>) -> Self {
        let socket = TcpListener::bind((host, 0)).expect("this machine has a free port");
        let address = socket.local_addr().expect("an open port has an address");
        let is_over = Arc::new(AtomicBool::new(false));
        let (state, over) = (Arc::clone(state), Arc::clone(&is_over));
        let accept = move || {
            for connection in socket.incoming() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let state = Arc::clone(&state);
                // A client that went away is its own affair.
                let answer = move || connection.and_then(|stream| answer(stream, service, &state));
                thread::spawn(answer);
            }
        };
        Self {
            host,
            address,
            is_over,
            thread: Some(thread::spawn(accept)),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.address.port())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread up.
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn answer(stream: TcpStream, service: Service, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let Some(mut received) = Received::read(&mut reader)? else {
        return Ok(());
    };
    let fault = lock(state).meet(&received);
    let longest = fault.as_ref().and_then(Fault::longest_body);
    let is_whole = received.read_body(&mut reader, longest);
    lock(state).requests.push(logged(&received, service));
    if !is_whole? || longest.is_some() {
        // The connection breaks: what else was sent is left unread.
        return Ok(());
    }
    if service == Service::Cas && fault.is_none() && cas::admits(state, &received) {
        return cas::forward(state, &received, stream);
    }
    match respond(&received, service, state, fault) {
        Some(response) => response.write(stream, received.method == "HEAD"),
        None => Ok(()),
    }
}

/// What the log keeps of a request.
fn logged(received: &Received, service: Service) -> Request {
    Request {
        method: received.method.clone(),
        target: received.target.clone(),
        is_to_store: service != Service::Hub,
        is_authorized: received.header("authorization").is_some(),
        range: received.header("range").map(str::to_owned),
        body_bytes: received.body.len() as u64,
    }
}

/// The answer to a request, spoilt if a fault meets it; `None`: no answer at all.
fn respond(
    received: &Received,
    service: Service,
    state: &Mutex<State>,
    fault: Option<Fault>,
) -> Option<Response> {
    if let Some(refusal) = fault.as_ref().and_then(Fault::refusal) {
        return Some(refusal);
    }
    let response = {
        let mut state = lock(state);
        let range = received
            .header("range")
            .filter(|_| !fault.as_ref().is_some_and(Fault::hides_ranges));
        match service {
            Service::Cas => Response::error(401, None, "the token is not valid, or not any more"),
            Service::Hub | Service::Store if received.is_write() => {
                write::answer(&mut state, received, service)
            }
            Service::Hub | Service::Store => Asked {
                state: &state,
                received,
                range,
            }
            .answer(service),
        }
    };
    // Without the lock: a fault may take its time.
    match fault {
        Some(fault) => fault.spoil(received, response),
        None => Some(response),
    }
}
