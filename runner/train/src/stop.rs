//! How a worker learns that it should end: signals, or the death of the process that started it.

use crate::TrainError;
use crate::process::log;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a worker that has nothing to save may take to notice a stop.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a worker may wait for another rank after a stop: that one may still be in its forward pass.
const PATIENCE_WITH_RANKS: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Exit code of a worker that was stopped.
pub(crate) const STOPPED: u8 = 130;

/// Set when the worker should save and end. A second signal ends it at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopFlag {
    is_set: Arc<AtomicBool>,
    is_training: Arc<AtomicBool>,
}

impl StopFlag {
    /// A flag that SIGINT, SIGTERM and SIGUSR1 set. The last, which schedulers send before a time limit, asks and does not
    /// insist.
    pub(crate) fn on_signals() -> Result<Self, TrainError> {
        let stop = Self::default();
        // A separate flag: after a stop that was requested in another way, the first signal is still the first.
        let signalled = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the flag must still be down when the first signal comes.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signalled))
                .and_then(|_| flag::register(signal, Arc::clone(&signalled)))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.is_set)))
                .map_err(TrainError::io("handle signals in", Path::new(".")))?;
        }
        flag::register(SIGUSR1, Arc::clone(&stop.is_set))
            .map_err(TrainError::io("handle signals in", Path::new(".")))?;
        Ok(stop)
    }

    /// A flag that SIGINT, SIGTERM and SIGUSR1 set, however often they come: a cluster sends one to all processes of a job,
    /// and what started them passes it on.
    pub(crate) fn on_repeated_signals() -> Result<Self, TrainError> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            flag::register(signal, Arc::clone(&stop.is_set))
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

    /// Ends the process if a stop does not get through to it: while it meets other ranks, loads, tokenises
    /// a document or evaluates, after some seconds, for there is nothing to save; while it trains, only if it
    /// waits for a rank that does not come.
    pub(crate) fn end_if_stuck(&self) {
        let stop = self.clone();
        std::thread::spawn(move || {
            while !stop.is_set() {
                std::thread::sleep(PAUSE);
            }
            let asked = Instant::now();
            while !stop.is_stuck(asked.elapsed()) {
                std::thread::sleep(PAUSE);
            }
            log("stopped at once: there is nothing to save, or another rank does not come");
            signal_hook::low_level::exit(STOPPED.into());
        });
    }

    fn is_stuck(&self, since_asked: Duration) -> bool {
        if !self.is_training.load(Ordering::Relaxed) {
            since_asked > PATIENCE
        } else {
            let waiting = dist::waiting_for();
            waiting.is_some_and(|time| time.min(since_asked) > PATIENCE_WITH_RANKS)
        }
    }

    /// Does what saves on a stop.
    pub(crate) fn while_training<T>(&self, train: impl FnOnce() -> T) -> T {
        self.is_training.store(true, Ordering::Relaxed);
        let trained = train();
        self.is_training.store(false, Ordering::Relaxed);
        trained
    }

    pub(crate) fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }
}

/// Whether standard input has ended by now; its other end is held by the parent.
pub(crate) fn has_lost_parent() -> bool {
    let stdin = std::io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let found = poll(&mut polled, Some(&Timespec::default()));
    found.is_ok() && polled[0].revents().contains(PollFlags::HUP)
}
