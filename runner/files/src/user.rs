//! The user as whom this process reads and writes.

#![expect(unsafe_code, reason = "std has no call for the id of the user")]

/// The id of the user as whom this process reads and writes.
pub fn user_id() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}
