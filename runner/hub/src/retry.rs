//! What is tried again if that may help.

use crate::context::Context;
use std::time::Duration;

/// What came of one attempt.
pub(crate) enum Tried<T> {
    /// Another attempt would give the same.
    Done(T),
    /// A moment later it may be otherwise.
    Again {
        outcome: T,
        /// How long the Hub asks to wait.
        wait: Option<Duration>,
    },
    /// The same, after so much progress that it counts as the first attempt.
    Further(T),
}

/// The outcome of the last attempt. There are `n_retries` more than one at most, as late as the Hub
/// asks for, or else with waits that double.
pub(crate) async fn retry<T>(
    context: &Context<'_>,
    mut attempt: impl AsyncFnMut() -> Tried<T>,
) -> T {
    let first = (context.settings.n_retries, context.settings.retry_delay);
    let (mut n_left, mut delay) = first;
    loop {
        let (outcome, wait) = match attempt().await {
            Tried::Done(outcome) => return outcome,
            Tried::Again { outcome, wait } => (outcome, wait),
            Tried::Further(outcome) => {
                (n_left, delay) = first;
                (outcome, None)
            }
        };
        if n_left == 0 || !context.pause(wait, delay).await {
            return outcome;
        }
        n_left -= 1;
        delay *= 2;
    }
}

/// Whether a status says that a moment later it may be another.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}
