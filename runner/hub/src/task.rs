//! Asynchronous work, seen from blocking code.

use crate::download::Event;
use crate::{HubError, Progress};
use std::sync::mpsc::{Sender, channel};
use std::{panic, thread};

/// Runs `work` on a thread of its own, with a runtime there, so that this may be called within
/// another runtime too. `on_event` is called on this thread.
pub(crate) fn block_on<T: Send, E: Send>(
    work: impl AsyncFnOnce(Sender<E>) -> Result<T, HubError> + Send,
    on_event: impl FnMut(E),
) -> Result<T, HubError> {
    let thread_error = |source| HubError::Thread { source };
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        let run = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().map_err(thread_error)?;
            runtime.block_on(work(sender))
        };
        let worker = thread::Builder::new().name("hub".into());
        let worker = worker.spawn_scoped(scope, run).map_err(thread_error)?;
        receiver.into_iter().for_each(on_event);
        worker
            .join()
            .unwrap_or_else(|cause| panic::resume_unwind(cause))
    })
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
            done_bytes: files().map(|file| file.done_bytes).sum(),
            total_bytes: files().map(|file| file.n_bytes).sum(),
            is_waiting: files().any(|file| file.is_waiting) && files().find(is_busy).is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        // Begun anew, then found in the cache.
        assert_eq!(tally.add(0, Event::Bytes(1)).done_bytes, 1);
        let progress = tally.add(0, Event::Done);
        assert_eq!((progress.n_files_done, progress.done_bytes), (1, 10));
    }

    #[test]
    fn works_within_a_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            block_on(
                async |_: Sender<()>| {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    Ok(1)
                },
                |()| {},
            )
        });
        assert_eq!(answer.unwrap(), 1);
    }
}
