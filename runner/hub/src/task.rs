//! Asynchronous work, seen from blocking code.

use crate::HubError;
use fault::Fault;
use std::sync::mpsc::{Sender, channel};
use std::{io, panic, thread};
use tokio::sync::oneshot;

/// Runs `work` on a separate thread, with a runtime there, so that this may be called within another runtime too.
/// `on_event` is called on this thread.
pub(crate) fn block_on<T: Send, E: Send>(
    work: impl AsyncFnOnce(Sender<E>) -> Result<T, HubError> + Send,
    on_event: impl FnMut(E),
) -> Result<T, HubError> {
    let thread_error = |source: io::Error| {
        let fault = Fault::input("cannot start a thread for the network");
        HubError::Fault(fault.because(source))
    };
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        // Ends when this thread leaves here, even by a panic: otherwise the work would continue, and be waited for,
        // although no one wants it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Work that no one waits for any more does not continue.
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
