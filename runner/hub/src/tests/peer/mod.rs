//! Python's client of the Hub against the Hub of the tests: that one does as the real one does, as
//! far as this client can tell.
//!
//! `SAE_RUN_PEER_PYTHON` names a Python that has the client; otherwise it is installed into the cache
//! folder from the package registry. If that is impossible, the test says so and is skipped.

use crate::{Hub, HubSettings, Token, Upload, UploadFile, UploadSource};
use hub_server::{HubServer, Request};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What the server was written after.
const CLIENT: [&str; 2] = ["huggingface_hub==2.4.0", "hf-xet==1.8.0"];

const TOKEN: &str = "hf_peer";

/// Long enough for three parts, and for the Hub to take it for a large one by its length.
const LARGE_BYTES: usize = 11 << 20;

const PART_BYTES: u64 = 5 << 20;

#[test]
fn python_uploads_by_lfs() {
    if let Some(peer) = Peer::new("lfs") {
        peer.uploads();
    }
}

#[test]
fn python_uploads_by_lfs_in_parts() {
    if let Some(peer) = Peer::new("lfs") {
        peer.server.split_uploads(PART_BYTES);
        peer.uploads();
        let requests = peer.server.requests();
        let is_part = |request: &Request| request.target.starts_with("/part/3/");
        assert!(requests.iter().any(is_part));
    }
}

#[test]
fn python_uploads_to_the_xet_store() {
    if let Some(peer) = Peer::new("xet") {
        peer.server.offer_xet();
        peer.uploads();
    }
}

#[test]
fn python_has_what_was_uploaded() {
    for mode in ["lfs", "xet"] {
        let Some(peer) = Peer::new(mode) else {
            return;
        };
        match mode {
            "xet" => peer.server.offer_xet(),
            _ => peer.server.split_uploads(PART_BYTES),
        }
        peer.upload("org/saes");
        peer.client(&["org/saes"]);
        let requests = peer.server.requests();
        let is_of_xet = |request: &Request| request.target.contains("/reconstructions/");
        assert_eq!(requests.iter().any(is_of_xet), mode == "xet");
    }
}

/// Python's client and a Hub for it.
struct Peer {
    python: PathBuf,
    mode: &'static str,
    server: HubServer,
    dir: TempDir,
}

impl Peer {
    /// `None`: there is no such Python.
    fn new(mode: &'static str) -> Option<Self> {
        let python = match python() {
            Ok(python) => python,
            Err(reason) => {
                eprintln!("skipped: no Python with the Hub's client: {reason}");
                return None;
            }
        };
        let server = HubServer::start();
        server.set_token(TOKEN);
        let dir = tempfile::tempdir().unwrap();
        let peer = Self {
            python,
            mode,
            server,
            dir,
        };
        fs::create_dir_all(peer.folder().join("layers.0")).unwrap();
        for (path, content) in files() {
            fs::write(peer.folder().join(path), content).unwrap();
        }
        Some(peer)
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Uploads the files from here.
    fn upload(&self, repo: &str) {
        let file = |(path, _): (&str, Vec<u8>)| UploadFile {
            path: path.into(),
            source: UploadSource::File(self.folder().join(path)),
        };
        let upload = Upload {
            repo: repo.into(),
            files: files().into_iter().map(file).collect(),
            title: "Add SAEs".into(),
            ..Upload::default()
        };
        let settings = HubSettings {
            token: Token::new(TOKEN),
            ..HubSettings::new(&self.server.url(), &self.dir.path().join("cache"))
        };
        Hub::new(settings)
            .unwrap()
            .upload(&upload, &mut |_| {})
            .unwrap();
    }

    /// Lets Python upload them, and look at the result.
    fn uploads(&self) {
        self.client(&[]);
        let requests = self.server.requests();
        let is_of_xet = |request: &Request| request.target.contains("/shards");
        assert_eq!(requests.iter().any(is_of_xet), self.mode == "xet");
        let is_of_lfs = |request: &Request| request.target.ends_with("/objects/verify");
        assert_eq!(requests.iter().any(is_of_lfs), self.mode == "lfs");
    }

    /// Runs client.py, which fails if the server does something other than the Hub.
    fn client(&self, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/peer/client.py");
        let mut client = Command::new(&self.python);
        client
            .args([&script, Path::new(self.mode), &self.folder()])
            .args(arguments)
            .env("HF_ENDPOINT", self.server.url())
            .env("HF_TOKEN", TOKEN)
            .env("HF_HOME", self.dir.path().join("home"))
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            .env_remove("HF_HUB_DISABLE_XET");
        if self.mode == "lfs" {
            client.env("HF_HUB_DISABLE_XET", "1");
        }
        let output = client.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let requests = self.server.requests();
        assert!(output.status.success(), "{said}\n{requests:#?}");
    }
}

/// Small ones, and large ones by their name and by their length.
fn files() -> [(&'static str, Vec<u8>); 4] {
    [
        ("layers.0/cfg.json", b"{}".to_vec()),
        ("empty", Vec::new()),
        ("layers.0/sae.safetensors", content(3_000_000)),
        ("large", content(LARGE_BYTES)),
    ]
}

/// Bytes that do not repeat themselves.
fn content(n_bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..n_bytes).map(|_| byte()).collect()
}

/// A Python with the client.
fn python() -> Result<PathBuf, String> {
    if let Some(python) = env::var_os("SAE_RUN_PEER_PYTHON") {
        return Ok(python.into());
    }
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    let caches = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let caches = caches.or_else(|| Some(env::home_dir()?.join(".cache")));
    let own = variable("SAE_RUN_CACHE").map(PathBuf::from);
    let own = own.or_else(|| Some(caches?.join("sae-run")));
    let venv = own.ok_or("there is no home folder")?.join("hub-peer");
    fs::create_dir_all(&venv).map_err(|error| error.to_string())?;
    // Several tests want it at the same time.
    let lock = fs::File::create(venv.join(".lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let python = venv.join("bin/python");
    let stamp = venv.join(".installed");
    let wanted = CLIENT.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(python);
    }
    let mut make = Command::new("python3");
    run(make.args(["-m", "venv"]).arg(&venv))?;
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--retries",
        "1",
        "--timeout",
        "10",
    ]);
    run(install.arg("--disable-pip-version-check").args(CLIENT))?;
    fs::write(&stamp, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().last().unwrap_or_default().to_owned())
    }
}
