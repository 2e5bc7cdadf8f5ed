//! `sae-run-worker`: all that computes with libtorch. `sae-run` starts it and tells it what to do in a file.
//!
//! - `sae-run-worker order FILE`: trains a stream, and reports in its `events.jsonl` (crate `train`). `--attached`:
//!   it saves and ends when its standard input ends; `--batch`: on signals of a cluster, which may be repeated
//!   `--pool CLAIM SECONDS DEVICE`: as long as it has this entry of the pool, on another device than the order's if that
//!   is not `-`
//! - `sae-run-worker requeued FILE N`: prints the file of what is left of an order after N runs of its job in a cluster
//! - `sae-run-worker task FILE`: does a [`plan::Task`], and answers in lines on its standard output: `task.rs`.
//!   `store.rs`: the one that keeps answering. `--ranks`: with the other ranks that launcher variables name, of which
//!   rank 0's answer counts: `ranks.rs`
//!
//! No tokio, no database, no network but that between ranks.

mod answers;
mod ranks;
mod store;
mod task;

use fault::{FailureKind, Remedy, message_chain};
use plan::PoolName;
use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use task::TaskFor;
use train::{AskedBy, PoolClaim, TrainError};

const USAGE: &str = "usage: sae-run-worker order FILE [--attached|--batch|--pool CLAIM SECONDS DEVICE] | requeued FILE N | task FILE [--ranks] | --version; `sae-run` starts it";

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    let texts: Vec<_> = args
        .iter()
        .map(|arg| arg.to_str().unwrap_or_default())
        .collect();
    let code = match texts[..] {
        ["order", _] => order(Path::new(&args[1]), AskedBy::Signals),
        ["order", _, "--attached"] => order(Path::new(&args[1]), AskedBy::Parent),
        ["order", _, "--batch"] => order(Path::new(&args[1]), AskedBy::Cluster),
        ["order", _, "--pool", claim, seconds, device] => {
            order_of_pool(Path::new(&args[1]), Path::new(claim), seconds, device)
        }
        ["requeued", _, n_restarts] => requeued(Path::new(&args[1]), n_restarts),
        ["task", _] => task::run(Path::new(&args[1]), TaskFor::One),
        ["task", _, "--ranks"] => task::run(Path::new(&args[1]), TaskFor::Ranks),
        ["--version"] => {
            answers::print(&format!("sae-run-worker {}", env!("CARGO_PKG_VERSION")));
            0
        }
        _ => {
            say(USAGE);
            FailureKind::Input.exit_code()
        }
    };
    ExitCode::from(code)
}

fn order(path: &Path, asked_by: AskedBy) -> u8 {
    train::run_worker(path, asked_by).unwrap_or_else(|error| failed(&error))
}

fn order_of_pool(path: &Path, claim: &Path, seconds: &str, device: &str) -> u8 {
    let name = claim.file_name().and_then(|name| name.to_str());
    let (Some(name), Ok(seconds)) = (name.and_then(PoolName::read), seconds.parse()) else {
        say(USAGE);
        return FailureKind::Input.exit_code();
    };
    let claim = PoolClaim {
        path: claim,
        lease: Duration::from_secs(seconds),
        n_runs: name.n_runs,
    };
    let device = (device != "-").then_some(device);
    train::run_pool_worker(path, claim, device).unwrap_or_else(|error| failed(&error))
}

fn requeued(path: &Path, n_restarts: &str) -> u8 {
    let Ok(n_restarts) = n_restarts.parse() else {
        say(USAGE);
        return FailureKind::Input.exit_code();
    };
    match train::requeued(path, n_restarts) {
        Ok(path) => {
            answers::print(&path.display().to_string());
            0
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &TrainError) -> u8 {
    say(&format!("error: {}", message_chain(error)));
    if let Some(hint) = error.hint() {
        say(&format!("hint: {hint}"));
    }
    error.kind().exit_code()
}

/// A line for the worker's log, or for people at a terminal.
#[expect(clippy::print_stderr, reason = "standard error is a worker's log")]
fn say(line: &str) {
    eprintln!("{}", plan::escaped(&plan::redacted(line)));
}
