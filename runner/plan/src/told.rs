//! When it is reported to users that something waits.

use std::time::{Duration, Instant};

/// A wait is reported after this long,
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// and from then on this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Which wait was reported last, and when.
#[derive(Debug, Default)]
pub struct Told(Option<(Instant, Instant)>);

impl Told {
    /// Whether the wait that began at `since` is to be reported now.
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
