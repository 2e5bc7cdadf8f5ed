//! Reports of how far work on held-out sequences is.

use crate::TrainError;
use crate::events::EventLog;
use crate::stop::StopFlag;
use plan::EventKind;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Time between two reports of how far it is.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Runs `work`, which gets what it calls with the numbers of sequences that are done and of all, and reports that now and
/// then.
pub(super) fn with_reports<T>(
    stop: &StopFlag,
    events: &mut EventLog,
    work: impl FnOnce(&mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let (mut last, mut unwritten) = (Instant::now(), None);
    let done = work(&mut |n_done, n_sequences| {
        if last.elapsed() >= REPORT_INTERVAL {
            last = Instant::now();
            let progress = EventKind::Evaluating {
                n_done,
                n_sequences,
            };
            unwritten = events.write(progress).err();
        }
        if stop.is_set() || unwritten.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    match unwritten {
        Some(error) => Err(error),
        None => Ok(done),
    }
}
