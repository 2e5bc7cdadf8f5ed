//! A Hub on this machine, for tests: it serves folders as models and data sets, keeps a log of what
//! it was asked, and fails on demand.
//!
//! ```no_run
//! use sae_run_hub::testing::{Fault, HubServer};
//! # let folder = std::path::Path::new("model");
//! let server = HubServer::start();
//! let commit = server.add_model("org/name", folder);
//! server.fail(Fault::status(503).on("GET /org/name/resolve").times(2));
//! // ... with `HF_ENDPOINT` set to `server.url()` ...
//! assert!(server.requests().iter().all(|request| !request.is_authorized));
//! ```
//!
//! It answers as the Hub does as far as Python's huggingface_hub 2.4.0 and hf-hub 1.0.0 ask: the
//! commit of a revision, the tree of a commit, and files, of which the large ones lie in a store at
//! another address. Panics where a test is wrong.

mod fault;
mod http;
mod repo;
mod serve;

pub use fault::Fault;
pub use repo::Access;

use crate::RepoKind;
use fault::Faults;
use http::Listener;
use repo::{Commit, Repo};
use serve::Place;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// A Hub on this machine; it ends when it is dropped.
#[derive(Debug)]
pub struct HubServer {
    state: Arc<Mutex<State>>,
    hub: Listener,
    /// Where the large files lie; held so that it lives as long.
    _store: Listener,
}

/// What the server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Whether it went to the store of large files and not to the Hub.
    pub is_to_store: bool,
    /// Whether it had a token, right or wrong.
    pub is_authorized: bool,
    /// The part of the file it asked for, such as `bytes=5-9`.
    pub range: Option<String>,
}

/// What the threads of a server share.
#[derive(Debug, Default)]
struct State {
    repos: BTreeMap<(RepoKind, String), Repo>,
    /// New ids by old ones.
    moved: BTreeMap<String, String>,
    token: Option<String>,
    page_size: Option<usize>,
    faults: Faults,
    requests: Vec<Request>,
    hub_url: String,
    store_url: String,
}

impl HubServer {
    /// A Hub without models and data sets.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        // Two names of this machine, so that the store is another host than the Hub.
        let hub = Listener::open("127.0.0.1", Place::Hub, &state);
        let store = Listener::open("localhost", Place::Store, &state);
        lock(&state).hub_url = hub.url();
        lock(&state).store_url = store.url();
        Self {
            state,
            hub,
            _store: store,
        }
    }

    /// Its address, for `HF_ENDPOINT`.
    pub fn url(&self) -> String {
        self.hub.url()
    }

    /// Makes the files of `folder`, and of the folders in it, the main branch of the model `id`,
    /// and gives the commit. The same files are the same commit.
    pub fn add_model(&self, id: &str, folder: &Path) -> String {
        self.add_revision(id, "main", folder)
    }

    /// The same for another branch or tag.
    pub fn add_revision(&self, id: &str, revision: &str, folder: &Path) -> String {
        self.add(RepoKind::Model, id, revision, folder)
    }

    /// As [`HubServer::add_model`], for the data set `id`.
    pub fn add_dataset(&self, id: &str, folder: &Path) -> String {
        self.add_dataset_revision(id, "main", folder)
    }

    /// The same for another branch or tag, such as `refs/convert/parquet`.
    pub fn add_dataset_revision(&self, id: &str, revision: &str, folder: &Path) -> String {
        self.add(RepoKind::Dataset, id, revision, folder)
    }

    fn add(&self, kind: RepoKind, id: &str, revision: &str, folder: &Path) -> String {
        let commit = Commit::read(folder);
        let mut state = self.state();
        let repo = state.repos.entry((kind, id.into())).or_default();
        repo.add(revision, commit)
    }

    /// Who may see a model, and the data set of that id.
    pub fn restrict(&self, id: &str, access: Access) {
        let mut state = self.state();
        let repos = state.repos.iter_mut();
        let mut repos = repos.filter(|((_, name), _)| name == id).peekable();
        assert!(repos.peek().is_some(), "`{id}` was not added");
        repos.for_each(|(_, repo)| repo.access = access);
    }

    /// Lists a file of a data set under another name, whatever that leads to.
    pub fn rename_file(&self, id: &str, old: &str, new: &str) {
        let mut state = self.state();
        let repo = state.repos.get_mut(&(RepoKind::Dataset, id.into()));
        repo.expect("the data set was added").rename_file(old, new);
    }

    /// The only token that is accepted.
    pub fn set_token(&self, token: &str) {
        self.state().token = Some(token.into());
    }

    /// Redirects what is asked about `old` to `new`.
    pub fn rename(&self, old: &str, new: &str) {
        self.state().moved.insert(old.into(), new.into());
    }

    /// Lists so many files at a time.
    pub fn set_page_size(&self, n_files: usize) {
        self.state().page_size = Some(n_files);
    }

    /// Fails on demand.
    pub fn fail(&self, fault: Fault) {
        self.state().faults.add(fault);
    }

    /// Fails no more.
    pub fn heal(&self) {
        self.state().faults = Faults::default();
    }

    /// What it was asked so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// Forgets what it was asked.
    pub fn forget_requests(&self) {
        self.state().requests.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no request panics")
}
