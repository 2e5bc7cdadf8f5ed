//! The wish to stop tokenising.

use crate::error::CliError;
use crate::signals::StopSignals;
use crate::table;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tokio::runtime::Builder;

/// Exit code of a command that a signal has stopped.
pub(super) const STOPPED: u8 = 130;

/// Whether the user wants to stop. The first signal is noted here; a second one, or one after this is
/// dropped, ends the process at once.
pub(super) struct StopWish(Arc<State>);

#[derive(Default)]
struct State {
    is_wanted: AtomicBool,
    is_over: AtomicBool,
}

impl StopWish {
    /// Listens for signals from now on.
    ///
    /// # Errors
    /// Signals or a thread to wait for them are not to be had.
    pub(super) fn listen() -> Result<Self, CliError> {
        let failed = |error| CliError::environment(format!("cannot listen for signals: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let mut signals = {
            let _entered = runtime.enter();
            StopSignals::new()?
        };
        let wish = Self(Arc::default());
        let state = Arc::clone(&wish.0);
        let wait = async move {
            loop {
                signals.recv().await;
                state.note();
            }
        };
        let thread = thread::Builder::new().spawn(move || runtime.block_on(wait));
        thread.map_err(failed)?;
        Ok(wish)
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.is_wanted.load(Ordering::Relaxed)
    }
}

impl Drop for StopWish {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl State {
    fn note(&self) {
        let is_second = self.is_wanted.swap(true, Ordering::Relaxed);
        if is_second || self.is_over.load(Ordering::Relaxed) {
            std::process::exit(STOPPED.into());
        }
        table::note("stopping; once more to stop at once");
    }
}
