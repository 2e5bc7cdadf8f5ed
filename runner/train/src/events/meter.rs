//! How fast training is.

use plan::EventKind;
use std::time::Instant;

/// Wall time and tokens since the last progress event.
pub(crate) struct Meter {
    since: Instant,
    pub(crate) n_tokens: u64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            n_tokens: 0,
        }
    }

    /// The speed since the last reading.
    pub(crate) fn read(&mut self, step: u64) -> EventKind {
        let Self { since, n_tokens } = std::mem::replace(self, Self::new());
        let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        EventKind::Progress {
            step,
            n_tokens,
            elapsed_ms,
        }
    }
}
