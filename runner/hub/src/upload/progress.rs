//! How far an upload is.

/// What an upload does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UploadStep {
    /// It reads the files, to compare them with those of the branch.
    #[default]
    Hashing,
    /// It sends large files.
    Sending,
    /// It makes the commit, with the small files in it.
    Committing,
}

/// How far an upload is, within a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadProgress {
    /// What is done.
    pub step: UploadStep,
    /// Files that this step is done with.
    pub n_files_done: usize,
    /// Files of this step.
    pub n_files: usize,
    /// Bytes that were read or sent. May fall when something has to be sent again.
    pub done_bytes: u64,
    /// Bytes of all files of this step.
    pub total_bytes: u64,
}

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A step begins, with files of these lengths.
    Begin(UploadStep, Vec<u64>),
    /// Of a file, by its index in the step, this number of bytes is done.
    Bytes(usize, u64),
    /// Of all files, this number of bytes is done.
    AllBytes(u64),
    /// A file is done.
    Done(usize),
}

/// Adds up what happens.
#[derive(Debug, Default)]
pub(super) struct Tally {
    step: UploadStep,
    /// Length, the bytes that are done, and whether all is done.
    files: Vec<(u64, u64, bool)>,
    /// For steps in which that is only known of all files together.
    all_bytes: Option<u64>,
}

impl Tally {
    /// Takes in an event, and gives the sum of all.
    pub(super) fn add(&mut self, event: Event) -> UploadProgress {
        match event {
            Event::Begin(step, lengths) => {
                let files = lengths.into_iter().map(|n_bytes| (n_bytes, 0, false));
                *self = Self {
                    step,
                    files: files.collect(),
                    all_bytes: None,
                };
            }
            Event::AllBytes(n_bytes) => self.all_bytes = Some(n_bytes),
            Event::Bytes(index, done_bytes) => {
                if let Some((n_bytes, done, _)) = self.files.get_mut(index) {
                    *done = done_bytes.min(*n_bytes);
                }
            }
            Event::Done(index) => {
                if let Some((n_bytes, done, is_done)) = self.files.get_mut(index) {
                    (*done, *is_done) = (*n_bytes, true);
                }
            }
        }
        self.progress()
    }

    fn progress(&self) -> UploadProgress {
        let total_bytes = self.files.iter().map(|(n_bytes, ..)| n_bytes).sum();
        let done_bytes: u64 = self.files.iter().map(|(_, done, _)| done).sum();
        UploadProgress {
            step: self.step,
            n_files_done: self.files.iter().filter(|(.., is_done)| *is_done).count(),
            n_files: self.files.len(),
            done_bytes: done_bytes.max(self.all_bytes.unwrap_or(0)).min(total_bytes),
            total_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_add_up() {
        let mut tally = Tally::default();
        let step = UploadStep::Sending;
        tally.add(Event::Begin(step, vec![10, 100]));
        tally.add(Event::Bytes(1, 30));
        let expected = UploadProgress {
            step,
            n_files_done: 1,
            n_files: 2,
            done_bytes: 40,
            total_bytes: 110,
        };
        assert_eq!(tally.add(Event::Done(0)), expected);
        // Sent again.
        assert_eq!(tally.add(Event::Bytes(1, 5)).done_bytes, 15);
        assert_eq!(tally.add(Event::AllBytes(70)).done_bytes, 70);
        let next = tally.add(Event::Begin(UploadStep::Committing, vec![1]));
        assert_eq!((next.done_bytes, next.total_bytes), (0, 1));
    }
}
