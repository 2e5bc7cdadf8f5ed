//! What the figures were measured on.

use sae_run_train::machine;
use serde::Serialize;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine, the build and the moment.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) text: String,
    libtorch: String,
    unix_s: u64,
    load_before: String,
}

pub(crate) fn describe() -> Machine {
    let n_cores = std::thread::available_parallelism().map_or(0, usize::from);
    // Loaded before it is asked for.
    let _ = tch::Tensor::from_slice(&[1i64]);
    let libtorch = machine().libtorch;
    let load_before = load();
    let text = format!(
        "{}, {n_cores} cores, load average {load_before}, libtorch {libtorch}, {}",
        cpu(),
        profile()
    );
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Machine {
        text,
        libtorch,
        unix_s: since.map_or(0, |since| since.as_secs()),
        load_before,
    }
}

/// Over one, five and fifteen minutes: above the number of cores, others use them too.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = text.split_whitespace().take(3).collect();
    averages.join(" ")
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    model.map_or("unknown CPU", |(_, model)| model).to_owned()
}

fn profile() -> &'static str {
    if cfg!(debug_assertions) {
        "profile dev (opt-level 1, dependencies 2)"
    } else {
        "profile release"
    }
}
