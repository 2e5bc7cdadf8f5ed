//! What this process waits for others with, and for how long: a thread beside it tells, and may see that no
//! one will come.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A wait is told after this long,
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// and from then on this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// One thread of a process waits at a time.
static NOW: Mutex<Option<Wait>> = Mutex::new(None);

#[derive(Clone)]
struct Wait {
    since: Instant,
    what: String,
}

/// For how long this process has waited for other ranks now; `None`: it does not.
pub fn waiting_for() -> Option<Duration> {
    now().map(|wait| wait.since.elapsed())
}

/// Has waits of more than some seconds told by `say`, in a thread of its own, for the life of the process.
pub fn tell_waits(say: impl Fn(&str) + Send + 'static) {
    thread::spawn(move || {
        let mut told = Told::default();
        loop {
            thread::sleep(PAUSE);
            if let Some(Wait { since, what }) = now()
                && told.is_due(since)
            {
                say(&format!("waiting for {what} since {:.0?}", since.elapsed()));
            }
        }
    });
}

/// Which wait was told last, and when it is due again.
#[derive(Debug, Default)]
pub struct Told(Option<(Instant, Instant)>);

impl Told {
    /// Whether the wait that began at `since` shall be told now.
    pub fn is_due(&mut self, since: Instant) -> bool {
        let due = match self.0 {
            Some((of_wait, last)) if of_wait == since => last + TOLD_EVERY,
            _ => since + TOLD_AFTER,
        };
        let is_due = Instant::now() >= due;
        if is_due {
            self.0 = Some((since, Instant::now()));
        }
        is_due
    }
}

/// Does what may have to wait for other ranks. `what`: for what, to be read after "waiting for".
pub(crate) fn waiting<T>(what: impl Into<String>, wait: impl FnOnce() -> T) -> T {
    let what = what.into();
    let since = Instant::now();
    set(Some(Wait { since, what }));
    let value = wait();
    set(None);
    value
}

fn now() -> Option<Wait> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set(wait: Option<Wait>) {
    *NOW.lock().unwrap_or_else(PoisonError::into_inner) = wait;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_after_five_seconds_and_then_every_minute() {
        let mut told = Told::default();
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        assert!(!told.is_due(ago(4)));
        let since = ago(6);
        assert!(told.is_due(since));
        assert!(!told.is_due(since));
        told.0 = Some((since, ago(61)));
        assert!(told.is_due(since));
        assert!(!told.is_due(ago(3)), "another wait");
    }
}
