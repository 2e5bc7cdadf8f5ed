//! A limit of memory for as long as documents of others are read and tokenised.

use crate::{OwnMemory, TokenSpec};
use datasets::{DatasetError, Documents};
use fault::FailureKind;
use plan::DataFile;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::SigId;
use signal_hook::consts::SIGABRT;
use signal_hook::low_level;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// While it lives, this process gets no more memory than the machine has left. A file, document or tokenizer that
/// grows without bound then ends this process, with an error that names all, and no other process of the machine.
///
/// `RLIMIT_DATA` is lowered to what the process has and nine tenths of what is available to it; Rust's answer to an
/// allocation that fails is SIGABRT. On systems other than Linux there is no limit.
pub(crate) struct MemoryLimit {
    before: Rlimit,
    on_abort: Option<SigId>,
    file_idx: Arc<AtomicUsize>,
}

impl MemoryLimit {
    /// Begins the limit for the documents of `spec`.
    pub(crate) fn begin(spec: &TokenSpec) -> Self {
        let before = getrlimit(Resource::Data);
        let file_idx = Arc::<AtomicUsize>::default();
        let on_abort = tell_on_abort(messages(spec), Arc::clone(&file_idx));
        if let Some(limit) = in_use()
            .zip(available())
            .map(|(used, left)| used + left / 10 * 9)
        {
            let current = before.current.map_or(limit, |current| current.min(limit));
            // If the system refuses, it is as without a limit.
            let _ = setrlimit(
                Resource::Data,
                Rlimit {
                    current: Some(current),
                    ..before
                },
            );
        }
        Self {
            before,
            on_abort,
            file_idx,
        }
    }

    /// Opens the documents of `spec`, of which an error names the file.
    pub(crate) fn open(&self, spec: &TokenSpec) -> Result<Documents, DatasetError> {
        let file_idx = Arc::clone(&self.file_idx);
        Documents::open_telling(spec.files.clone(), spec.rows.clone(), file_idx)
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

/// For each file, what is said when memory runs out.
fn messages(spec: &TokenSpec) -> Vec<String> {
    let (name, tokenizer) = (&spec.files.name, spec.tokenizer_dir.display());
    let message = |file: &DataFile| {
        format!(
            "error: not enough memory to tokenise `{name}` by `{tokenizer}`: `{}` was being read\n\
             hint: look for a very long document, a damaged file, or rules of the tokenizer that make text longer\n",
            file.path.display()
        )
    };
    spec.files.files.iter().map(message).collect()
}

/// Writes the message of the file that is read to standard error and exits when memory that was asked for is not
/// there.
#[expect(unsafe_code, reason = "what runs in a signal handler is limited")]
fn tell_on_abort(messages: Vec<String>, file_idx: Arc<AtomicUsize>) -> Option<SigId> {
    // SAFETY: it only reads memory and calls write(2) and _exit(2), which a handler may.
    let registered = unsafe {
        low_level::register(SIGABRT, move || {
            let message = messages.get(file_idx.load(Ordering::Relaxed));
            let message = message.map_or("", String::as_str);
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
    use crate::fixtures::tiny_spec;

    #[test]
    fn the_limit_holds_until_it_is_dropped() {
        let before = getrlimit(Resource::Data);
        let limit = MemoryLimit::begin(&tiny_spec());
        let during = getrlimit(Resource::Data).current.unwrap();
        assert!(during > in_use().unwrap() / 2);
        assert!(during < in_use().unwrap() + available().unwrap());
        drop(limit);
        assert_eq!(getrlimit(Resource::Data).current, before.current);
    }
}
