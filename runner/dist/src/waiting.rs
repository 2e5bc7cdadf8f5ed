//! What this process waits for others with, and for how long: a second thread reports it, and may see that no
//! one will come.

use plan::Told;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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

/// Reports waits of more than some seconds by `say`, in a separate thread, for the life of the process.
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
