//! Our own threads, the same number as libtorch's; never within one of its operations.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Arc, Mutex, PoisonError};

static POOL: Mutex<Option<Arc<ThreadPool>>> = Mutex::new(None);

/// Runs `work`, whose parallel loops take `n_threads` threads. They are kept for the next call.
///
/// # Panics
/// The system gives no thread.
pub fn in_threads<R: Send>(n_threads: usize, work: impl FnOnce() -> R + Send) -> R {
    pool(n_threads.max(1)).install(work)
}

fn pool(n_threads: usize) -> Arc<ThreadPool> {
    let mut kept = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = kept
        .as_ref()
        .filter(|pool| pool.current_num_threads() == n_threads);
    if let Some(pool) = fits {
        return Arc::clone(pool);
    }
    let builder = ThreadPoolBuilder::new().num_threads(n_threads);
    let pool = builder
        .thread_name(|idx| format!("kernel-{idx}"))
        .build()
        .expect("the system gives threads");
    Arc::clone(kept.insert(Arc::new(pool)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_as_asked_for() {
        for n_threads in [1, 3, 2] {
            assert_eq!(in_threads(n_threads, rayon::current_num_threads), n_threads);
        }
    }
}
