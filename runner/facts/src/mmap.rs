//! Files mapped into memory: the crate's only borrowed view of the disk.

#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe by nature; this module is all of it"
)]

use crate::FactsError;
use memmap2::Mmap;
use std::path::Path;

/// Maps a file for reading. A file must not be cut short while it is mapped.
pub(crate) fn map_file(path: &Path) -> Result<Mmap, FactsError> {
    let read_error = |source| FactsError::ReadFile {
        path: path.into(),
        source,
    };
    let file = files::open(path).map_err(read_error)?;
    // SAFETY: The map is read-only. Its header is parsed once, by bounds-checked code, and its data
    // is copied into tensors as plain numbers, so other bytes than expected break no invariant.
    // A file that another process truncates meanwhile raises SIGBUS: weights are written once and
    // replaced by renaming, which leaves the mapped file alone.
    unsafe { Mmap::map(&file) }.map_err(read_error)
}
