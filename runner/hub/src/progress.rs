//! How far a download is.

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that are in the cache.
    pub n_files_done: usize,
    /// Files to download.
    pub n_files: usize,
    /// Bytes that are there, including those of an earlier attempt. May fall when a file has to be
    /// started again.
    pub done_bytes: u64,
    /// Bytes of all files to download.
    pub total_bytes: u64,
    /// Whether all there is to do is to wait for another process that downloads the same.
    pub is_waiting: bool,
}

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// It is to be downloaded; this is the number of its bytes.
    Wanted(u64),
    /// Another process downloads it; this one waits.
    Waiting,
    /// This number of its bytes is there.
    Bytes(u64),
    /// It is in the cache.
    Done,
}

/// Adds up what happens to files.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    files: Vec<FileState>,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    n_bytes: u64,
    done_bytes: u64,
    is_done: bool,
    is_waiting: bool,
}

impl Tally {
    /// Takes in an event, and gives the sum of all.
    pub(crate) fn add(&mut self, index: usize, event: Event) -> Progress {
        if index >= self.files.len() {
            self.files.resize(index + 1, FileState::default());
        }
        let file = &mut self.files[index];
        file.is_waiting = matches!(event, Event::Waiting);
        match event {
            Event::Wanted(n_bytes) => {
                *file = FileState {
                    n_bytes,
                    ..FileState::default()
                };
            }
            Event::Bytes(done_bytes) => file.done_bytes = done_bytes.min(file.n_bytes),
            Event::Done => (file.is_done, file.done_bytes) = (true, file.n_bytes),
            Event::Waiting => {}
        }
        self.progress()
    }

    fn progress(&self) -> Progress {
        let files = || self.files.iter();
        let is_busy = |file: &&FileState| !file.is_done && file.done_bytes > 0;
        Progress {
            n_files_done: files().filter(|file| file.is_done).count(),
            n_files: self.files.len(),
            done_bytes: sum(files().map(|file| file.done_bytes)),
            total_bytes: sum(files().map(|file| file.n_bytes)),
            is_waiting: files().any(|file| file.is_waiting) && files().find(is_busy).is_none(),
        }
    }
}

/// A sum of what others say, which may be anything.
fn sum(n_bytes: impl Iterator<Item = u64>) -> u64 {
    n_bytes.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_add_up() {
        let mut tally = Tally::default();
        for (index, n_bytes) in [10, 100].into_iter().enumerate() {
            tally.add(index, Event::Wanted(n_bytes));
        }
        tally.add(1, Event::Waiting);
        let waiting = tally.add(0, Event::Wanted(10));
        assert!(waiting.is_waiting);
        let progress = tally.add(0, Event::Bytes(4));
        let expected = Progress {
            n_files_done: 0,
            n_files: 2,
            done_bytes: 4,
            total_bytes: 110,
            is_waiting: false,
        };
        assert_eq!(progress, expected);
        // Started again, then found in the cache.
        assert_eq!(tally.add(0, Event::Bytes(1)).done_bytes, 1);
        let progress = tally.add(0, Event::Done);
        assert_eq!((progress.n_files_done, progress.done_bytes), (1, 10));
    }

    #[test]
    fn sums_have_an_end() {
        let mut tally = Tally::default();
        for index in 0..3 {
            tally.add(index, Event::Wanted(u64::MAX));
            tally.add(index, Event::Bytes(u64::MAX - 1));
        }
        let progress = tally.add(0, Event::Done);
        assert_eq!(
            (progress.done_bytes, progress.total_bytes),
            (u64::MAX, u64::MAX)
        );
    }
}
