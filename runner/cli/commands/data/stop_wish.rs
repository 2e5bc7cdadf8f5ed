//! The wish to stop tokenising.

use crate::error::CliError;
use crate::run::signals::StopSignals;
use crate::show::table;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tokio::runtime::Builder;

/// Exit code of a command that a signal has stopped.
pub(super) const STOPPED: u8 = 130;

/// How long tokenising may take to notice: one document may hold the tokenizer much longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the user wants to stop. The first signal is noted here, and ends the process if nothing looks at the note;
/// a second one, or one after this is dropped, ends it at once. Nothing is lost: what was tokenised stays.
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
    /// Signals, or a thread to wait for them, are not available.
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
            signals.recv().await;
            state.note();
            tokio::select! {
                () = signals.recv() => state.end(),
                () = tokio::time::sleep(PATIENCE) => {}
            }
            if !state.is_over.load(Ordering::Relaxed) {
                state.end();
            }
            signals.recv().await;
            state.end();
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
        self.is_wanted.store(true, Ordering::Relaxed);
        if self.is_over.load(Ordering::Relaxed) {
            self.end();
        }
        table::note("stopping; press Ctrl-C again to stop at once");
    }

    /// Ends the process, whatever it does.
    fn end(&self) {
        signal_hook::low_level::exit(STOPPED.into());
    }
}
