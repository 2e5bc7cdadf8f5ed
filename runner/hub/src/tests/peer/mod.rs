//! Python's client of the Hub against the Hub of the tests: that one does as the real one does, as
//! far as this client can tell.
//!
//! `SAE_RUN_PEER_PYTHON` names a Python that has the client; otherwise it is installed into the cache
//! folder from the package registry. Where that cannot be, the test says so and is skipped.

use crate::testing::HubServer;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the server was written after.
const CLIENT: [&str; 2] = ["huggingface_hub==2.4.0", "hf-xet==1.8.0"];

const TOKEN: &str = "hf_peer";

/// Long enough for two parts, and for the Hub to take it for a large one by its length.
const LARGE_BYTES: usize = 11 << 20;

#[test]
fn python_uploads_by_lfs() {
    let server = HubServer::start();
    agree(&server, "lfs");
}

#[test]
fn python_uploads_by_lfs_in_parts() {
    let server = HubServer::start();
    server.split_uploads(5 << 20);
    agree(&server, "lfs");
}

#[test]
fn python_uploads_to_the_xet_store() {
    let server = HubServer::start();
    server.offer_xet();
    agree(&server, "xet");
}

/// Runs client.py, which fails where the server does something else than the Hub.
fn agree(server: &HubServer, mode: &str) {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            eprintln!("skipped: no Python with the Hub's client: {reason}");
            return;
        }
    };
    server.set_token(TOKEN);
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir_all(files.join("layers.0")).unwrap();
    fs::write(files.join("layers.0/cfg.json"), "{}").unwrap();
    fs::write(files.join("empty"), "").unwrap();
    fs::write(files.join("layers.0/sae.safetensors"), content(3_000_000)).unwrap();
    fs::write(files.join("large"), content(LARGE_BYTES)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/peer/client.py");
    let mut client = Command::new(python);
    client
        .args([&script, Path::new(mode), &files])
        .env("HF_ENDPOINT", server.url())
        .env("HF_TOKEN", TOKEN)
        .env("HF_HOME", dir.path().join("home"))
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .env_remove("HF_HUB_DISABLE_XET");
    if mode == "lfs" {
        client.env("HF_HUB_DISABLE_XET", "1");
    }
    let output = client.output().unwrap();
    let requests = server.requests();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{requests:#?}");
    let n_puts = requests
        .iter()
        .filter(|request| request.method == "PUT")
        .count();
    assert!(n_puts > 0 || mode == "xet");
    let is_xet = |target: &str| target.contains("/shards");
    let used_xet = requests.iter().any(|request| is_xet(&request.target));
    assert_eq!(used_xet, mode == "xet", "{requests:#?}");
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
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().last().unwrap_or_default().to_owned())
        }
    }
}
