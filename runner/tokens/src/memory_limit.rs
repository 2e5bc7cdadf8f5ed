//! A limit of memory for as long as documents of others are read and tokenised.

use crate::OwnMemory;
use fault::FailureKind;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::SigId;
use signal_hook::consts::SIGABRT;
use signal_hook::low_level;
use std::fs;

/// While it lives, this process gets no more memory than the machine has left. A document or tokenizer that grows
/// without bound then ends this process, with an error that names both, and no other process of the machine.
///
/// `RLIMIT_DATA` is lowered to what the process has and nine tenths of what is available to it; Rust's answer to an
/// allocation that fails is SIGABRT. On systems other than Linux there is no limit.
pub(crate) struct MemoryLimit {
    before: Rlimit,
    on_abort: Option<SigId>,
}

impl MemoryLimit {
    /// Begins the limit. `what`: what is tokenised, and by which tokenizer, for the error.
    pub(crate) fn begin(what: &str) -> Self {
        let before = getrlimit(Resource::Data);
        let on_abort = tell_on_abort(format!(
            "error: not enough memory to tokenise {what}\n\
             hint: look for a very long document, or for rules of the tokenizer that make text longer\n"
        ));
        if let Some(limit) = in_use()
            .zip(available())
            .map(|(used, left)| used + left / 10 * 9)
        {
            let current = before.current.map_or(limit, |current| current.min(limit));
            // Where the system refuses, it is as without a limit.
            let _ = setrlimit(
                Resource::Data,
                Rlimit {
                    current: Some(current),
                    ..before
                },
            );
        }
        Self { before, on_abort }
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Data, self.before);
        if let Some(id) = self.on_abort {
            low_level::unregister(id);
        }
    }
}

/// Writes `message` to standard error and exits when memory that was asked for is not there.
#[expect(unsafe_code, reason = "what runs in a signal handler is limited")]
fn tell_on_abort(message: String) -> Option<SigId> {
    // SAFETY: it only calls write(2) and _exit(2), which a handler may.
    let registered = unsafe {
        low_level::register(SIGABRT, move || {
            let _ = rustix::io::write(rustix::stdio::stderr(), message.as_bytes());
            low_level::exit(FailureKind::Input.exit_code().into());
        })
    };
    registered.ok()
}

/// Bytes that this process can still get.
fn available() -> Option<u64> {
    let memory = OwnMemory::read()?;
    Some(memory.available).filter(|&n_bytes| n_bytes > 0)
}

/// Bytes of data that this process has, as `RLIMIT_DATA` counts them.
fn in_use() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_until_it_is_dropped() {
        let before = getrlimit(Resource::Data);
        let limit = MemoryLimit::begin("a test");
        let during = getrlimit(Resource::Data).current.unwrap();
        assert!(during > in_use().unwrap() / 2);
        assert!(during < in_use().unwrap() + available().unwrap());
        drop(limit);
        assert_eq!(getrlimit(Resource::Data).current, before.current);
    }
}
