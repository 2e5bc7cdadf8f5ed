//! What the tests share: a separate folder for each test, and the real binary in it.

mod elsewhere;
mod jobs;
mod outcome;
mod running;
mod sweep;
mod workspace;

pub(crate) use elsewhere::{trained_here, wait_for_step};
pub(crate) use jobs::{job_dir, with_jobs};
pub(crate) use outcome::Outcome;
pub(crate) use running::{Running, has_ended, signal, until, wait_for_end};
pub(crate) use sweep::{
    fixture, location_of, replace_line, small_sweep, tiny_sweep, tiny_sweep_with,
};
pub(crate) use workspace::{Files, Workspace, finish};

use std::path::Path;

/// Takes ids and what a machine's speed decides out of a text, for snapshots.
pub(crate) fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"\b[0-9a-f]{12}\b", "0123456789ab"),
        (r"\b\d+ CPU cores?\b", "[n] CPU cores"),
        (r"(?m)^(time +)(about|less) .*", "${1}[time]"),
        (r"(?m)^ +only .* are free\n", ""),
    ]
}

/// `path` as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
