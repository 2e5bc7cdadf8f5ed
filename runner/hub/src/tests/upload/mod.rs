//! Uploads to a Hub on this machine.

mod commits;
mod faults;
mod hostile;
mod large;
mod plain;

use super::says;
use crate::{
    Hub, HubError, HubLimits, HubSettings, Token, Upload, UploadFile, UploadProgress, UploadSource,
    Uploaded,
};
use fault::Remedy;
use hub_server::{HubServer, Request};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

const REPO: &str = "org/saes";
const TOKEN: &str = "hf_writer";

/// Large enough to be sent in several pieces.
const LARGE_BYTES: usize = 600_000;

/// A Hub without models, and a user who may write to it.
struct Fixture {
    server: HubServer,
    dir: TempDir,
    settings: HubSettings,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = HubServer::start();
        server.set_token(TOKEN);
        let settings = HubSettings {
            token: Token::new(TOKEN),
            timeout: Duration::from_secs(5),
            n_retries: 2,
            retry_delay: Duration::from_millis(2),
            ..HubSettings::new(&server.url(), &dir.path().join("cache"))
        };
        Self {
            server,
            dir,
            settings,
        }
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings.clone()).unwrap()
    }

    /// Another user of the same Hub.
    fn hub_with(&self, change: impl FnOnce(&mut HubSettings)) -> Hub {
        let mut settings = self.settings.clone();
        change(&mut settings);
        Hub::new(settings).unwrap()
    }

    /// A file of this machine.
    fn file(&self, path: &str, content: &[u8]) -> UploadFile {
        let local = self.path(path);
        fs::create_dir_all(local.parent().unwrap()).unwrap();
        fs::write(&local, content).unwrap();
        UploadFile {
            path: path.into(),
            source: UploadSource::File(local),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("files").join(path)
    }

    /// A card, settings and a large file.
    fn sae(&self) -> Upload {
        upload([
            bytes("README.md", b"# SAEs"),
            self.file("layers.0/cfg.json", b"{\"k\": 32}"),
            self.file("layers.0/sae.safetensors", &large(0)),
        ])
    }

    fn upload(&self, upload: &Upload) -> Result<Uploaded, HubError> {
        self.hub().upload(upload, &mut |_| {})
    }

    /// What the upload sent, and what was seen of its progress.
    fn watched(&self, upload: &Upload) -> (Uploaded, Vec<UploadProgress>) {
        let mut seen = Vec::new();
        let uploaded = self.hub().upload(upload, &mut |now| seen.push(now));
        (uploaded.unwrap(), seen)
    }

    /// The files at the Hub are those of the upload, in `n_commits` commits after the one that the Hub makes itself.
    fn assert_there(&self, upload: &Upload, n_commits: usize) {
        let branch = upload.branch.as_deref().unwrap_or("main");
        let there = self.server.files(&upload.repo, branch);
        for file in &upload.files {
            let content = match &file.source {
                UploadSource::Bytes(bytes) => bytes.clone(),
                UploadSource::File(path) => fs::read(path).unwrap(),
            };
            assert!(there.get(&file.path) == Some(&content), "{}", file.path);
        }
        let history = self.server.history(&upload.repo, branch);
        assert_eq!(history.len(), 1 + n_commits, "{history:?}");
    }

    /// Requests whose `METHOD TARGET` contains `part`.
    fn requests(&self, part: &str) -> Vec<Request> {
        let is_one =
            |request: &Request| format!("{} {}", request.method, request.target).contains(part);
        let requests = self.server.requests();
        requests.into_iter().filter(is_one).collect()
    }

    /// What was sent with them.
    fn body_bytes(&self, part: &str) -> Vec<u64> {
        let requests = self.requests(part).into_iter();
        requests.map(|request| request.body_bytes).collect()
    }

    fn n_requests(&self, part: &str) -> usize {
        self.requests(part).len()
    }
}

fn upload(files: impl IntoIterator<Item = UploadFile>) -> Upload {
    Upload {
        repo: REPO.into(),
        files: files.into_iter().collect(),
        title: "Add SAEs".into(),
        ..Upload::default()
    }
}

fn bytes(path: &str, content: &[u8]) -> UploadFile {
    UploadFile {
        path: path.into(),
        source: UploadSource::Bytes(content.into()),
    }
}

/// Bytes that differ from index to index, and with the seed.
fn large(seed: u32) -> Vec<u8> {
    let byte =
        |index: u32| (index.wrapping_add(seed * 7919).wrapping_mul(2_654_435_761) >> 11) as u8;
    (0..LARGE_BYTES as u32).map(byte).collect()
}

/// The paths of the files that are in the new commit.
fn new_paths(uploaded: &Uploaded) -> Vec<&str> {
    let files = uploaded.files.iter().filter(|file| file.is_new);
    files.map(|file| file.path.as_str()).collect()
}
