//! The whole crate against a Hub on this machine.

mod access;
mod damage;
mod dataset_cache;
mod datasets;
mod download;
mod hostile;
mod odd_repos;
mod offline;
mod parsers;
mod peer;
mod upload;

use crate::{Hub, HubError, HubLimits, HubSettings, Progress, Snapshot, Token};
use fault::Remedy;
use hub_server::{HubServer, Request};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const REPO: &str = "org/name";

/// Large enough to arrive in several pieces.
const WEIGHT_BYTES: usize = 3_000_000;

/// A Hub with one model, and an empty cache.
struct Fixture {
    server: HubServer,
    dir: TempDir,
    settings: HubSettings,
    commit: String,
}

impl Fixture {
    /// A model with its weights in one file.
    fn new() -> Self {
        Self::with_files(&single_file_model())
    }

    fn with_files(files: &[(&str, Vec<u8>)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = HubServer::start();
        let settings = HubSettings {
            timeout: Duration::from_secs(5),
            n_retries: 2,
            retry_delay: Duration::from_millis(2),
            ..HubSettings::new(&server.url(), &dir.path().join("cache"))
        };
        let mut fixture = Self {
            server,
            dir,
            settings,
            commit: String::new(),
        };
        fixture.commit = fixture.publish("main", files);
        fixture
    }

    /// Makes `files` a branch of the model.
    fn publish(&self, revision: &str, files: &[(&str, Vec<u8>)]) -> String {
        let folder = self.written(files);
        self.server.add_revision(REPO, revision, &folder)
    }

    /// A folder with `files`.
    fn written(&self, files: &[(&str, Vec<u8>)]) -> PathBuf {
        let folder = self.dir.path().join("published");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        for (name, content) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings.clone()).unwrap()
    }

    fn offline(&self) -> Hub {
        let offline = true;
        Hub::new(HubSettings {
            offline,
            ..self.settings.clone()
        })
        .unwrap()
    }

    fn with_token(&self, token: &str) -> Hub {
        let token = Token::new(token);
        Hub::new(HubSettings {
            token,
            ..self.settings.clone()
        })
        .unwrap()
    }

    /// The main branch, as far as planning needs it.
    fn model(&self) -> Result<Snapshot, HubError> {
        self.hub().model_files(REPO, None)
    }

    /// The main branch with its weights.
    fn whole_model(&self) -> Result<Snapshot, HubError> {
        let snapshot = self.model()?;
        self.hub().download_weights(&snapshot, &mut |_| {})?;
        Ok(snapshot)
    }

    fn weights(&self, snapshot: &Snapshot) -> Result<Vec<Progress>, HubError> {
        let mut seen = Vec::new();
        let mut see = |progress| seen.push(progress);
        self.hub().download_weights(snapshot, &mut see)?;
        Ok(seen)
    }

    /// The repository's part of the cache.
    fn cached(&self, path: &str) -> PathBuf {
        self.settings.cache_dir.join("models--org--name").join(path)
    }

    /// What the Hub was asked since the last look: `METHOD TARGET`.
    fn asked(&self) -> Vec<String> {
        let requests = self.server.requests();
        self.server.forget_requests();
        let line = |request: Request| format!("{} {}", request.method, request.target);
        requests.into_iter().map(line).collect()
    }
}

fn single_file_model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", br#"{"model_type": "llama"}"#.to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", b"{\"eos_token\": \"a\"}".to_vec()),
        ("README.md", b"a model".to_vec()),
        ("model.safetensors", weights(1)),
        ("pytorch_model.bin", weights(2)),
    ]
}

/// Two shards and their index.
fn sharded_model() -> Vec<(&'static str, Vec<u8>)> {
    let index = serde_json::json!({"weight_map": {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }});
    let mut files = single_file_model();
    files.retain(|(name, _)| !name.starts_with("model") && !name.starts_with("pytorch"));
    files.extend([
        (
            "model.safetensors.index.json",
            index.to_string().into_bytes(),
        ),
        ("model-00001-of-00002.safetensors", weights(3)),
        ("model-00002-of-00002.safetensors", weights(4)),
    ]);
    files
}

/// Whether the message of an error has a part.
fn says(error: &HubError, part: &str) -> bool {
    error.to_string().contains(part)
}

/// Bytes that differ from index to index.
fn weights(seed: u32) -> Vec<u8> {
    let byte = |index: u32| (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8;
    (0..WEIGHT_BYTES as u32).map(byte).collect()
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    let mut names: Vec<_> = entries.map(|entry| name(entry).unwrap()).collect();
    names.sort_unstable();
    names
}
