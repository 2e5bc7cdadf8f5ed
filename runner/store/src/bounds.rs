//! How much memory a user's query may take: SQLite itself keeps to it.
#![expect(
    unsafe_code,
    reason = "sqlx has no call for sqlite3_limit and the heap limit; this module is all of it"
)]

use libsqlite3_sys as ffi;
use sqlx::SqliteConnection;

/// Bytes of one value, and of a row that is sorted or grouped.
pub(crate) const MAX_VALUE_BYTES: i32 = 16 << 20;

/// Bytes of all that SQLite holds in this process. With `temp_store` in memory that is also what a query sorts,
/// groups and remembers: none of that goes to the disk.
pub(crate) const MAX_HEAP_BYTES: i64 = 256 << 20;

/// Bytes of a query's text.
const MAX_QUERY_BYTES: i32 = 1 << 20;

/// Bytes of a pattern of LIKE or GLOB, which is matched in one go that nothing ends.
const MAX_PATTERN_BYTES: i32 = 1000;

/// Bounds what a connection's queries may hold; the whole is bounded for the process, which is how SQLite
/// counts.
pub(crate) async fn bound(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut handle = conn.lock_handle().await?;
    let bounds = [
        (ffi::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES),
        (ffi::SQLITE_LIMIT_SQL_LENGTH, MAX_QUERY_BYTES),
        (ffi::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_PATTERN_BYTES),
    ];
    for (limit, value) in bounds {
        // SAFETY: the handle is open and locked; the numbers are such that SQLite knows.
        unsafe { ffi::sqlite3_limit(handle.as_raw_handle().as_ptr(), limit, value) };
    }
    // SAFETY: it takes no pointer, and SQLite is made for threads.
    unsafe { ffi::sqlite3_hard_heap_limit64(MAX_HEAP_BYTES) };
    Ok(())
}
