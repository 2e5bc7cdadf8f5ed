//! How a worker learns that it should end: signals, or the death of the process that started it.

use crate::TrainError;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set when the worker should save and end. A second signal ends it at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that SIGINT and SIGTERM set.
    pub(crate) fn on_signals() -> Result<Self, TrainError> {
        let stop = Self::default();
        // Of its own: a stop that was asked for otherwise does not make the first signal a second.
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the flag must still be down when the first signal comes.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signalled))
                .and_then(|_| flag::register(signal, Arc::clone(&signalled)))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.0)))
                .map_err(TrainError::io("handle signals in", Path::new(".")))?;
        }
        Ok(stop)
    }

    /// Also sets the flag when standard input ends: its other end is held by the parent, and the
    /// kernel closes it however the parent dies.
    pub(crate) fn follow_parent(&self) {
        let stop = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0u8; 64];
            while matches!(std::io::stdin().read(&mut buffer), Ok(n) if n > 0) {}
            stop.set();
        });
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
