//! What a recipe may use of the machine.

use wasmtime::ResourceLimiter;

/// What one call of a recipe may use. Each limit has its own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instructions it may run (wasmtime's fuel, about one unit each); a Python recipe needs some
    /// 2 million to start. The default, 50 billion, is some 3 to 10 seconds.
    pub fuel: u64,
    /// Bytes of memory it may hold. The default is 512 MiB; the Python engine takes 30 MiB.
    pub memory_bytes: usize,
    /// Bytes its answer may take on the host. The default is 64 MiB.
    pub output_bytes: usize,
    /// Jobs it may propose in one round. The default is 100 000.
    pub max_jobs: usize,
    /// How deep lists and tables may be nested in a job's overrides. The default is 16; no setting is deeper than 2.
    pub max_nesting: usize,
    /// Bytes of stack. The default is 1 MiB, which is also the most: it is the host's own.
    pub stack_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 50_000_000_000,
            memory_bytes: 512 << 20,
            output_bytes: 64 << 20,
            max_jobs: 100_000,
            max_nesting: 16,
            stack_bytes: MAX_STACK_BYTES,
        }
    }
}

/// Half of what a thread has by default.
pub(crate) const MAX_STACK_BYTES: usize = 1 << 20;

/// Entries of all tables; CPython's function table has some ten thousand.
const MAX_TABLE_ENTRIES: usize = 1_000_000;

/// Core instances, tables and memories of one component; the Python engine has some tens.
const MAX_ITEMS: usize = 1000;

/// Stops a guest that takes too much memory and remembers that it did.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory_left: usize,
    table_left: usize,
    /// True once the guest asked for more memory than it may have.
    pub(crate) out_of_memory: bool,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory_left: limits.memory_bytes,
            table_left: MAX_TABLE_ENTRIES,
            out_of_memory: false,
        }
    }

    /// Takes what `desired` is above `current` out of what is `left`, or fails: a trap is clearer
    /// than what guests make of a refused `memory.grow`.
    fn grow(
        left: fn(&mut Self) -> &mut usize,
        limiter: &mut Self,
        current: usize,
        desired: usize,
    ) -> wasmtime::Result<bool> {
        match left(limiter).checked_sub(desired.saturating_sub(current)) {
            Some(rest) => *left(limiter) = rest,
            None => {
                limiter.out_of_memory = true;
                return Err(wasmtime::Error::msg("the guest reached its memory limit"));
            }
        }
        Ok(true)
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Self::grow(|limiter| &mut limiter.memory_left, self, current, desired)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Self::grow(|limiter| &mut limiter.table_left, self, current, desired)
    }

    fn instances(&self) -> usize {
        MAX_ITEMS
    }

    fn tables(&self) -> usize {
        MAX_ITEMS
    }

    fn memories(&self) -> usize {
        MAX_ITEMS
    }
}
