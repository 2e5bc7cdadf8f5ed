//! How long this process has waited for others: a watch beside it may see that no one will come.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Since when. One thread of a process waits at a time.
static SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// For how long this process has waited for other ranks now; `None`: it does not.
pub fn waiting_for() -> Option<Duration> {
    let since = SINCE.lock().unwrap_or_else(PoisonError::into_inner);
    since.map(|since| since.elapsed())
}

/// Does what may have to wait for other ranks.
pub(crate) fn waiting<T>(wait: impl FnOnce() -> T) -> T {
    set(Some(Instant::now()));
    let value = wait();
    set(None);
    value
}

fn set(since: Option<Instant>) {
    *SINCE.lock().unwrap_or_else(PoisonError::into_inner) = since;
}
