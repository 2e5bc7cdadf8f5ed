//! The C library's allocator.

#![expect(
    unsafe_code,
    reason = "mallopt is a C function; this module is all of it"
)]

/// Tells the allocator to keep what is freed for what is allocated next. Every update makes and frees the
/// same large tensors, and to give their pages back to the system each time, and to get them cleared again,
/// took a fifth of an update. For whole programs, such as workers: it applies to the whole process.
/// Does nothing if the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for setting in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it takes two numbers, and locks the allocator itself.
        unsafe {
            libc::mallopt(setting, libc::c_int::MAX);
        }
    }
}
