//! Waits that the Hub asks for: how long in all, and who is informed.

use crate::{HubLimits, Notice};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Waits that are shorter are not reported.
const TOLD_FROM: Duration = Duration::from_secs(2);

type Tell = dyn Fn(&Notice) + Send + Sync;

/// The waits of all requests of a [`crate::Hub`].
#[derive(Default)]
pub(crate) struct Waits {
    tell: Option<Box<Tell>>,
    so_far: Mutex<SoFar>,
}

#[derive(Clone, Copy, Debug, Default)]
struct SoFar {
    total: Duration,
    /// The end of the latest wait.
    end: Option<Instant>,
}

impl Waits {
    /// Calls `tell` for each wait that is longer than a moment.
    pub(crate) fn told_to(tell: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        Self {
            tell: Some(Box::new(tell)),
            ..Self::default()
        }
    }

    /// How long was waited, and will be.
    pub(crate) fn total(&self) -> Duration {
        self.lock().total
    }

    /// Counts a wait that begins now, and reports it as `notice` says. Whether it may be: waits can be
    /// too long, by themselves or in all. Those of several requests at the same time count once.
    pub(crate) fn begin(
        &self,
        wait: Duration,
        limits: &HubLimits,
        notice: impl FnOnce() -> Notice,
    ) -> bool {
        let now = Instant::now();
        let end = now.checked_add(wait.min(limits.max_wait)).unwrap_or(now);
        let is_new = {
            let mut so_far = self.lock();
            let from = so_far.end.map_or(now, |end| end.max(now));
            let added = end.saturating_duration_since(from);
            let total = so_far.total.saturating_add(added);
            if wait > limits.max_wait || total > limits.max_total_wait {
                return false;
            }
            let is_new = so_far.end.is_none_or(|end| end <= now);
            *so_far = SoFar {
                total,
                end: Some(from.max(end)),
            };
            is_new
        };
        if let Some(tell) = self.tell.as_ref().filter(|_| is_new && wait >= TOLD_FROM) {
            tell(&notice());
        }
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits")
            .field("so_far", &*self.lock())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits of `seconds`, all asked for at once: which may be, and how many were reported.
    fn asked_for(seconds: &[u32]) -> (Vec<bool>, usize) {
        let told = Arc::new(Mutex::new(0));
        let heard = Arc::clone(&told);
        let waits = Waits::told_to(move |_| *heard.lock().unwrap() += 1);
        let limits = HubLimits::with_patience(10 * SECOND);
        let notice = |wait| Notice::Waiting {
            repo: "a/b".into(),
            endpoint: "https://host".into(),
            wait,
        };
        let waits = seconds.iter().map(|&seconds| {
            let wait = seconds * SECOND;
            waits.begin(wait, &limits, || notice(wait))
        });
        let may_be = waits.collect();
        let told = *told.lock().unwrap();
        (may_be, told)
    }

    #[test]
    fn a_wait_has_a_longest() {
        assert_eq!(asked_for(&[20]), (vec![true], 1));
        assert_eq!(asked_for(&[21]), (vec![false], 0));
        assert_eq!(asked_for(&[1]), (vec![true], 0));
    }

    #[test]
    fn waits_at_the_same_time_are_one() {
        assert_eq!(asked_for(&[20, 20, 10, 20]), (vec![true; 4], 1));
    }

    #[test]
    fn waits_in_a_row_have_a_sum() {
        let limits = HubLimits::with_patience(10 * SECOND);
        let waits = Waits::default();
        let notice = || unreachable!("nobody is told");
        for _ in 0..2 {
            assert!(waits.begin(20 * SECOND, &limits, notice));
            // As if it were over.
            waits.lock().end = Some(Instant::now());
        }
        assert!(!waits.begin(20 * SECOND, &limits, notice));
        assert!(waits.begin(9 * SECOND, &limits, notice));
        assert!(waits.total() <= limits.max_total_wait);
        assert!(!waits.begin(Duration::MAX, &limits, notice));
    }
}
