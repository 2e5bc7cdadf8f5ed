//! Whether bytes come fast enough.

use crate::HubLimits;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Watches the rate of an answer.
#[derive(Debug)]
pub(crate) struct Pace {
    min_bytes_per_second: u64,
    window: Duration,
    begun: Instant,
    n_bytes: u64,
}

impl Pace {
    pub(crate) fn new(limits: &HubLimits) -> Self {
        Self {
            min_bytes_per_second: limits.min_bytes_per_second,
            window: limits.rate_window,
            begun: Instant::now(),
            n_bytes: 0,
        }
    }

    /// Counts bytes that came.
    pub(crate) fn count(&mut self, n_bytes: usize) {
        self.n_bytes = self.n_bytes.saturating_add(n_bytes as u64);
    }

    /// What `next` gives; `None`: too few bytes came in too long a time, and it has not given anything.
    pub(crate) async fn watch<T>(&mut self, next: impl Future<Output = T>) -> Option<T> {
        let mut next = pin!(next);
        loop {
            if let Ok(found) = timeout_at(self.begun + self.window, next.as_mut()).await {
                return Some(found);
            }
            let seconds = self.begun.elapsed().as_secs_f64();
            if (self.n_bytes as f64) < self.min_bytes_per_second as f64 * seconds {
                return None;
            }
            (self.begun, self.n_bytes) = (Instant::now(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::sleep;

    /// At least a thousand bytes a second, over a twentieth of one.
    fn limits() -> HubLimits {
        HubLimits {
            min_bytes_per_second: 1000,
            ..HubLimits::with_patience(Duration::from_millis(50))
        }
    }

    /// How many of the pieces come, each `n_bytes` long.
    async fn n_pieces(n_bytes: usize) -> usize {
        let limits = limits();
        let mut pace = Pace::new(&limits);
        for n_pieces in 0..50 {
            let piece = sleep(Duration::from_millis(5));
            match pace.watch(piece).await {
                Some(()) => pace.count(n_bytes),
                None => return n_pieces,
            }
        }
        50
    }

    #[tokio::test]
    async fn a_trickle_ends_and_a_slow_line_does_not() {
        assert!(n_pieces(1).await < 20);
        assert_eq!(n_pieces(1_000_000).await, 50);
    }

    #[tokio::test]
    async fn what_came_before_does_not_count_for_ever() {
        let limits = limits();
        let mut pace = Pace::new(&limits);
        pace.count(usize::MAX);
        let start = Instant::now();
        assert_eq!(pace.watch(pending::<()>()).await, None);
        assert!(start.elapsed() >= 2 * limits.rate_window);
    }
}
