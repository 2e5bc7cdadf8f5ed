//! How much an answer of a Hub may take of this machine. A server sends what it likes, for as long as
//! it likes.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Longest file: as ext4 can hold it.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 44;

/// Seconds of patience, if no other number is given.
pub(crate) const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);

/// How much an answer of a Hub may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// Most bytes of an answer that is not a file, such as one page of a listing; 32 MiB. A page of the
    /// Hub has half a megabyte.
    pub max_answer_bytes: u64,
    /// Most bytes of all pages of a listing; 256 MiB.
    pub max_listing_bytes: u64,
    /// Most pages of a listing; 2000. The Hub lists a thousand files on each.
    pub max_pages: usize,
    /// Most files and folders of a listing; a million.
    pub max_entries: usize,
    /// Longest file that a listing may have, in bytes; 16 TiB.
    pub max_file_bytes: u64,
    /// Longest file that is read before the weights, such as a tokenizer, in bytes; 256 MiB. The longest
    /// known tokenizers have 60.
    pub max_planning_file_bytes: u64,
    /// Fewest bytes a second, on average over `rate_window`; 1024.
    pub min_bytes_per_second: u64,
    /// Time over which the rate is averaged: an answer that is slower ends; 60 seconds.
    pub rate_window: Duration,
    /// Longest time for an answer that is not a file, from the request to its last byte; 5 minutes.
    pub max_answer_time: Duration,
    /// Longest time for all pages of a listing; 20 minutes.
    pub max_listing_time: Duration,
    /// Longest wait that the Hub may ask for at once; 2 minutes.
    pub max_wait: Duration,
    /// Longest time to wait in all because the Hub asks for it; 5 minutes.
    pub max_total_wait: Duration,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self::with_patience(DEFAULT_PATIENCE)
    }
}

impl HubLimits {
    /// The defaults, with `patience` in place of a minute: all times are in proportion.
    pub fn with_patience(patience: Duration) -> Self {
        Self {
            max_answer_bytes: 32 * MIB,
            max_listing_bytes: 256 * MIB,
            max_pages: 2000,
            max_entries: 1_000_000,
            max_file_bytes: MAX_FILE_BYTES,
            max_planning_file_bytes: 256 * MIB,
            min_bytes_per_second: KIB,
            rate_window: patience,
            max_answer_time: patience.saturating_mul(5),
            max_listing_time: patience.saturating_mul(20),
            max_wait: patience.saturating_mul(2),
            max_total_wait: patience.saturating_mul(5),
        }
    }

    /// Bytes with which an answer that broke off was worth its while.
    pub(crate) fn least_progress(&self) -> u64 {
        let n_bytes = self.min_bytes_per_second as f64 * self.rate_window.as_secs_f64();
        (n_bytes as u64).max(1)
    }
}
