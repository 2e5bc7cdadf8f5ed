//! This process: its log, and the machine it runs on.

use std::fs;

/// A line for standard error, which is a worker's log; people read it at a terminal.
#[expect(
    clippy::print_stderr,
    reason = "a worker's standard error is its log file"
)]
pub(crate) fn log(line: &str) {
    eprintln!("{}", plan::escaped(line));
}

pub(crate) fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}
