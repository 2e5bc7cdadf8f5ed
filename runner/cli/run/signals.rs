//! The signals that ask for a stop.

use crate::error::CliError;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for a stop: those of Ctrl-C and of `kill`, and USR1, which schedulers send before a time limit.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    user: Signal,
    /// Whether any has come.
    is_asked: bool,
    /// Whether one other than USR1 has come.
    is_pressed: bool,
}

impl StopSignals {
    pub(crate) fn new() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                CliError::environment(format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            user: listen(SignalKind::user_defined1())?,
            is_asked: false,
            is_pressed: false,
        })
    }

    /// Returns at the first signal, and at each after it that insists. USR1 never does, nor does the first other signal
    /// after it: a scheduler and its script may both send one.
    pub(crate) async fn recv(&mut self) {
        loop {
            let is_press = tokio::select! {
                _ = self.interrupt.recv() => true,
                _ = self.terminate.recv() => true,
                _ = self.user.recv() => false,
            };
            let is_first = !std::mem::replace(&mut self.is_asked, true);
            let insists = is_press && self.is_pressed;
            self.is_pressed |= is_press;
            if is_first || insists {
                return;
            }
        }
    }
}
