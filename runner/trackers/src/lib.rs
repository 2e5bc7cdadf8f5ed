//! Writes the curves of jobs to trackers: TensorBoard, Trackio, Weights & Biases and MLflow.
//!
//! Each of them says how much it has of a run, and what it has is not written again: the truth is at the destination,
//! so that a point is there once, whenever a process was killed. Everything here blocks.
//!
//! - `tensorboard/`: event files; `trackio.rs`: lines in Trackio's inbox
//! - `bridge.rs`: the others, through a Python process with `runner/python/sae_run/bridge.py`
//! - `folder.rs`: the folder that trackers of this machine write to, and its locks

mod bridge;
mod folder;
mod tensorboard;
mod trackio;

#[cfg(test)]
mod testing;

pub use bridge::{Bridge, BridgeSite, PYTHON_VARIABLE};
pub use folder::{TrackerFolder, TrackerLock};
pub use tensorboard::TensorBoard;
pub use trackio::Trackio;

use fault::Fault;
use plan::{RunEnd, TrackedPoint, TrackedRun, TrackedSoFar};

/// A destination of curves.
pub trait Tracker {
    /// Begins with a run, or continues; gives how much of it is there.
    ///
    /// # Errors
    /// A destination that cannot be read or written.
    fn begin(&mut self, run: &TrackedRun) -> Result<TrackedSoFar, Fault>;

    /// Takes points of a run that was begun, in the order of their steps; gives how much is there now. It may be less
    /// than before: then all points after that are wanted again.
    ///
    /// # Errors
    /// A destination that cannot be written.
    fn log(&mut self, run: &TrackedRun, points: &[TrackedPoint]) -> Result<TrackedSoFar, Fault>;

    /// No more points come for now.
    ///
    /// # Errors
    /// A destination that cannot be written.
    fn end(&mut self, run: &TrackedRun, end: RunEnd) -> Result<(), Fault>;
}
