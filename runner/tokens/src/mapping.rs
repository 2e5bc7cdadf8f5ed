//! The one unsafe line of this crate: mapping a token file into memory.
#![expect(unsafe_code, reason = "a file cannot be mapped into memory otherwise")]

use memmap2::Mmap;
use std::fs::File;

/// Maps a token file, read-only.
pub(crate) fn map_tokens(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: token files are never changed in place. They are written under another name and
    // renamed, and a new one replaces the name and leaves the mapped file as it is.
    unsafe { Mmap::map(file) }
}
