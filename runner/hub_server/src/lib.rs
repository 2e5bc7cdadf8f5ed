//! A Hub on this machine, for tests: it serves folders as models and data sets, keeps a log of what
//! it was asked, and fails on demand.
//!
//! ```no_run
//! use sae_run_hub_server::{Fault, HubServer};
//! # let folder = std::path::Path::new("model");
//! let server = HubServer::start();
//! let commit = server.add_model("org/name", folder);
//! server.fail(Fault::status(503).on("GET /org/name/resolve").times(2));
//! // ... with `HF_ENDPOINT` set to `server.url()` ...
//! assert!(server.requests().iter().all(|request| !request.is_authorized));
//! ```
//!
//! It answers as the Hub does as far as Python's huggingface_hub 2.4.0 and hf-hub 1.0.0 ask: the
//! commit of a revision, the tree of a commit, and files, of which the large ones are in a store at
//! another address. Anyone who has its token may make models, data sets and branches, upload files,
//! by LFS or to a Xet store, and commit; what was committed is downloaded from then on. Panics if a
//! test is wrong.
//!
//! # Files
//!
//! - `listen.rs`: ports and who answers there; `http.rs`, `route.rs`: what a request means
//! - `serve.rs`: what is read; `write.rs`, `lfs.rs`: what changes the Hub; `cas.rs`: Xet's own store
//! - `repo.rs`: folders as repositories; `fault.rs`: failures on demand

mod cas;
mod fault;
mod http;
mod lfs;
mod listen;
mod repo;
mod route;
mod serve;
mod write;

pub use fault::Fault;
pub use repo::Access;

use cas::Cas;
use fault::Faults;
use http::{Received, Response};
use lfs::Lfs;
use listen::Listener;
use repo::{Commit, Repo};
use route::{RepoKind, Service};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A Hub on this machine; it ends when it is dropped.
#[derive(Debug)]
pub struct HubServer {
    state: Arc<Mutex<State>>,
    hub: Listener,
    /// The listener of the store of large files; held so that it lives as long.
    _store: Listener,
    /// The listener of the Xet store, likewise.
    _cas: Listener,
}

/// What the server was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// Whether it went to a store of large files and not to the Hub.
    pub is_to_store: bool,
    /// Whether it had a token, right or wrong.
    pub is_authorized: bool,
    /// The part of the file it asked for, such as `bytes=5-9`.
    pub range: Option<String>,
    /// Length of what was sent with it, as far as that arrived.
    pub body_bytes: u64,
}

/// What the threads of a server share.
#[derive(Debug, Default)]
struct State {
    repos: BTreeMap<(RepoKind, String), Repo>,
    /// New ids by old ones.
    moved: BTreeMap<String, String>,
    token: Option<String>,
    /// One that may not write.
    read_token: Option<String>,
    page_size: Option<usize>,
    faults: Faults,
    requests: Vec<Request>,
    hub_url: String,
    store_url: String,
    cas_url: String,
    lfs: Lfs,
    cas: Option<Cas>,
    /// Addresses and tokens of the stores that were given out.
    n_signed: Cell<u64>,
    /// Number of the first token that is not valid any more.
    n_expired: u64,
    /// How far the Hub's clock is off.
    clock_skew: Duration,
    clock_is_behind: bool,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Without a token.
    Nobody,
    /// With a wrong one.
    Stranger,
    /// May read.
    Reader,
    /// May write as well.
    Writer,
}

impl State {
    /// The failure that meets a request.
    fn meet(&mut self, received: &Received) -> Option<Fault> {
        let fault = self.faults.take(&received.method, &received.target)?;
        if fault.expires() {
            self.n_expired = self.n_signed.get();
        }
        Some(fault)
    }

    fn who(&self, received: &Received) -> Who {
        let Some(token) = received.header("authorization") else {
            return Who::Nobody;
        };
        let token = token.strip_prefix("Bearer ");
        match token {
            Some(_) if token == self.token.as_deref() => Who::Writer,
            Some(_) if token == self.read_token.as_deref() => Who::Reader,
            _ => Who::Stranger,
        }
    }

    /// Whether the sender may change anything.
    fn check_writer(&self, received: &Received) -> Result<(), Response> {
        match self.who(received) {
            Who::Writer => Ok(()),
            Who::Reader => {
                let message = "You don't have the rights to write to this namespace";
                Err(Response::error(403, None, message))
            }
            Who::Stranger => Err(route::stranger()),
            Who::Nobody => {
                let message = "Invalid username or password.";
                Err(Response::error(401, None, message))
            }
        }
    }

    /// The number of a new address or token.
    fn sign(&self) -> u64 {
        let number = self.n_signed.get();
        self.n_signed.set(number + 1);
        number
    }

    fn is_valid(&self, number: &str) -> bool {
        let number = number.parse();
        number.is_ok_and(|number| (self.n_expired..self.n_signed.get()).contains(&number))
    }

    /// Whether the address of a request is one that was given out, and still good.
    fn is_signed(&self, received: &Received) -> bool {
        let signature = received.parameter("signature");
        signature.is_some_and(|number| self.is_valid(number))
    }
}

impl HubServer {
    /// A Hub without models and data sets.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        // Two names of this machine, so that the store is another host than the Hub.
        let hub = Listener::open("127.0.0.1", Service::Hub, &state);
        let store = Listener::open("localhost", Service::Store, &state);
        let cas = Listener::open("localhost", Service::Cas, &state);
        lock(&state).hub_url = hub.url();
        lock(&state).store_url = store.url();
        lock(&state).cas_url = cas.url();
        Self {
            state,
            hub,
            _store: store,
            _cas: cas,
        }
    }

    /// Takes large files into a Xet store from now on, of those who can: it is the one that comes
    /// with Xet's client.
    pub fn offer_xet(&self) {
        self.state().cas.get_or_insert_with(Cas::start);
    }

    /// Takes large files in parts of this length, of those who can.
    pub fn split_uploads(&self, part_bytes: u64) {
        self.state().lfs.part_bytes = Some(part_bytes);
    }

    /// Offers no way of sending large files that anyone knows.
    pub fn take_no_large_files(&self) {
        self.state().lfs.is_odd = true;
    }

    /// Sets the Hub's clock back.
    pub fn set_clock_back(&self, skew: Duration) {
        let mut state = self.state();
        (state.clock_skew, state.clock_is_behind) = (skew, true);
    }

    /// Sets the Hub's clock forward.
    pub fn set_clock_forward(&self, skew: Duration) {
        let mut state = self.state();
        (state.clock_skew, state.clock_is_behind) = (skew, false);
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
        self.for_each_repo(id, |repo| repo.access = access);
    }

    /// Lists a file of a model, and of the data set of that id, under another name, whatever that leads
    /// to.
    pub fn rename_file(&self, id: &str, old: &str, new: &str) {
        self.for_each_repo(id, |repo| repo.rename_file(old, new));
    }

    /// Lists a file of a model, and of the data set of that id, with another length than it has.
    pub fn claim_size(&self, id: &str, path: &str, n_bytes: u64) {
        self.for_each_repo(id, |repo| repo.claim_size(path, n_bytes));
    }

    /// The only token that is accepted, except that of [`HubServer::set_read_token`].
    pub fn set_token(&self, token: &str) {
        self.state().token = Some(token.into());
    }

    /// A token that may read what that of [`HubServer::set_token`] may, and write nothing.
    pub fn set_read_token(&self, token: &str) {
        self.state().read_token = Some(token.into());
    }

    /// The commits of a branch of a model, the newest first; empty if there is no such branch.
    pub fn history(&self, id: &str, branch: &str) -> Vec<String> {
        let state = self.state();
        let repo = state.repos.get(&(RepoKind::Model, id.into()));
        let history = repo.map(|repo| repo.history(branch)).unwrap_or_default();
        history.iter().map(|(hash, _)| (*hash).to_owned()).collect()
    }

    /// The files of a model at a branch, tag or commit, by their paths.
    pub fn files(&self, id: &str, revision: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let repo = state.repos.get(&(RepoKind::Model, id.into()));
        let commit = repo.and_then(|repo| repo.commit(revision));
        let files = commit.into_iter().flat_map(|(_, commit)| &commit.files);
        let file = |(path, file): (&String, &repo::RepoFile)| (path.clone(), file.content.to_vec());
        files.map(file).collect()
    }

    /// What the Xet store calls a file of a model, if it has the file.
    pub fn xet_hash(&self, id: &str, revision: &str, path: &str) -> Option<String> {
        let state = self.state();
        let repo = state.repos.get(&(RepoKind::Model, id.into()))?;
        let (_, commit) = repo.commit(revision)?;
        commit.files.get(path)?.xet_hash.clone()
    }

    /// Redirects what is asked about `old` to `new`.
    pub fn rename(&self, old: &str, new: &str) {
        self.state().moved.insert(old.into(), new.into());
    }

    /// Lists `n_files` files at a time.
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

    /// Changes a model, and the data set of that id.
    fn for_each_repo(&self, id: &str, change: impl FnMut(&mut Repo)) {
        let mut state = self.state();
        let repos = state.repos.iter_mut();
        let repos = repos.filter(|((_, name), _)| name == id);
        let mut repos = repos.map(|(_, repo)| repo).peekable();
        assert!(repos.peek().is_some(), "`{id}` was not added");
        repos.for_each(change);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no request panics")
}
