//! Work on several threads, with results in the order of the inputs.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::scope;

/// Applies `work` to every item of `items` on `n_threads` threads and hands the results, in the
/// order of the items, to `sink` on this thread, until `sink` fails. Items are drawn on a separate
/// thread, a few ahead; at most `4 * n_threads` items and results are in memory at once.
pub(crate) fn map_in_order<T: Send, R: Send, E>(
    items: impl Iterator<Item = T> + Send,
    n_threads: usize,
    work: impl Fn(T) -> R + Sync,
    mut sink: impl FnMut(R) -> Result<(), E>,
) -> Result<(), E> {
    let n_threads = n_threads.max(1);
    let (give_task, take_task) = sync_channel::<(T, SyncSender<R>)>(n_threads);
    let (give_slot, take_slot) = sync_channel::<Receiver<R>>(2 * n_threads);
    // Owned by the threads alone: when the last of them is gone, nothing can be given any more.
    let take_task = Arc::new(Mutex::new(take_task));
    scope(|scope| {
        scope.spawn(move || {
            for item in items {
                let (give_result, take_result) = sync_channel(1);
                let is_wanted = give_slot.send(take_result).is_ok();
                if !is_wanted || give_task.send((item, give_result)).is_err() {
                    return;
                }
            }
        });
        for _ in 0..n_threads {
            let (take_task, work) = (Arc::clone(&take_task), &work);
            scope.spawn(move || {
                while let Some((item, give_result)) = next(&take_task) {
                    // No one waits for it if the sink has failed.
                    let _ = give_result.send(work(item));
                }
            });
        }
        drop(take_task);
        for slot in take_slot {
            // A thread that panicked sends no result; the scope then passes the panic on.
            let Ok(result) = slot.recv() else { break };
            sink(result)?;
        }
        Ok(())
    })
}

fn next<T>(tasks: &Mutex<Receiver<T>>) -> Option<T> {
    tasks.lock().ok()?.recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn results_keep_the_order_of_the_items() {
        let mut seen = Vec::new();
        let slow_first = |item: u64| {
            std::thread::sleep(Duration::from_micros(if item.is_multiple_of(3) {
                300
            } else {
                0
            }));
            item * 2
        };
        map_in_order(0..500, 4, slow_first, |result| {
            seen.push(result);
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(seen, (0..500).map(|item| item * 2).collect::<Vec<_>>());
    }

    #[test]
    fn a_failing_sink_ends_it_and_few_items_are_drawn_ahead() {
        let n_drawn = AtomicUsize::new(0);
        let items = (0..1_000_000).inspect(|_| {
            n_drawn.fetch_add(1, Ordering::SeqCst);
        });
        let stop_at_ten = |item| if item == 10 { Err(item) } else { Ok(()) };
        assert_eq!(map_in_order(items, 2, |item| item, stop_at_ten), Err(10));
        assert!(n_drawn.load(Ordering::SeqCst) <= 11 + 4 * 2 + 1);
    }

    #[test]
    fn nothing_in_is_nothing_out() {
        let fail = |()| Err("called");
        assert_eq!(map_in_order(std::iter::empty(), 3, |()| (), fail), Ok(()));
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_passed_on() {
        let work = |item: u32| assert!(item < 5);
        let _ = map_in_order(0..10, 2, work, |()| Ok::<_, ()>(()));
    }
}
