//! Asynchronous work, seen from blocking code.

use crate::download::Event;
use crate::{HubError, Progress};
use std::sync::mpsc::{Sender, channel};
use std::{io, panic, thread};
use tokio::sync::oneshot;

/// Runs `work` on a thread of its own, with a runtime there, so that this may be called within
/// another runtime too. `on_event` is called on this thread.
pub(crate) fn block_on<T: Send, E: Send>(
    work: impl AsyncFnOnce(Sender<E>) -> Result<T, HubError> + Send,
    on_event: impl FnMut(E),
) -> Result<T, HubError> {
    let thread_error = |source| HubError::Thread { source };
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        // Ends when this thread leaves here, be it by a panic: else the work would go on, and be waited
        // for, without anybody who wants it.
        let (_here, gone) = oneshot::channel::<()>();
        let run = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().map_err(thread_error)?;
            let work = async {
                tokio::select! {
                    done = work(sender) => done,
                    _ = gone => Err(thread_error(io::ErrorKind::Interrupted.into())),
                }
            };
            runtime.block_on(work)
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

    /// What nobody is there for any more does not go on.
    #[test]
    fn work_ends_with_the_one_who_waits_for_it() {
        let begin = std::time::Instant::now();
        let work = async |events: Sender<()>| {
            let _ = events.send(());
            tokio::time::sleep(Duration::from_secs(600)).await;
            Ok(())
        };
        let caught = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            let _ = block_on(work, |()| panic::resume_unwind(Box::new("seen")));
        }));
        assert!(caught.is_err());
        assert!(begin.elapsed() < Duration::from_secs(60));
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
