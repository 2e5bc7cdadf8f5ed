//! What SQLite lets a user's query do, asked by SQLite itself while it compiles the query.
#![expect(
    unsafe_code,
    reason = "sqlx has no call for sqlite3_set_authorizer; this module is all of it"
)]

use libsqlite3_sys as ffi;
use sqlx::SqliteConnection;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

/// Pragmas with an argument that only describe the schema, as `pragma_table_info('job')` asks them.
const DESCRIBING: [&str; 8] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
];

/// SQLite's question whether a statement may do something.
type Authorizer = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_char,
) -> c_int;

/// Has the connection compile nothing but queries: as [`only_reads`], and no PRAGMA. A PRAGMA without an argument may
/// do more than tell, such as `wal_checkpoint`.
pub(crate) async fn only_queries(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    set(conn, authorize_query).await
}

/// Has the connection refuse all but reading, with SQLITE_AUTH. A file opened read-only is not enough:
/// `VACUUM INTO` and ATTACH make files elsewhere.
pub(crate) async fn only_reads(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    set(conn, authorize).await
}

async fn set(conn: &mut SqliteConnection, authorizer: Authorizer) -> Result<(), sqlx::Error> {
    let mut handle = conn.lock_handle().await?;
    let db = handle.as_raw_handle().as_ptr();
    // SAFETY: the handle is open and locked, the callback keeps to the signature and takes no data.
    let code = unsafe { ffi::sqlite3_set_authorizer(db, Some(authorizer), ptr::null_mut()) };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(sqlx::Error::Protocol(format!(
            "sqlite3_set_authorizer gave {code}"
        ))),
    }
}

extern "C" fn authorize_query(
    data: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    trigger: *const c_char,
) -> c_int {
    match action {
        ffi::SQLITE_PRAGMA => ffi::SQLITE_DENY,
        _ => authorize(data, action, first, second, database, trigger),
    }
}

extern "C" fn authorize(
    _data: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    _database: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    let is_allowed = match action {
        ffi::SQLITE_SELECT | ffi::SQLITE_READ | ffi::SQLITE_RECURSIVE => true,
        ffi::SQLITE_FUNCTION => !is_one_of(second, &["load_extension"]),
        ffi::SQLITE_PRAGMA => second.is_null() || is_one_of(first, &DESCRIBING),
        _ => false,
    };
    if is_allowed {
        ffi::SQLITE_OK
    } else {
        ffi::SQLITE_DENY
    }
}

fn is_one_of(text: *const c_char, names: &[&str]) -> bool {
    if text.is_null() {
        return false;
    }
    // SAFETY: SQLite gives null or a string that ends in 0 and outlives the call.
    let text = unsafe { CStr::from_ptr(text) };
    names
        .iter()
        .any(|name| text.to_bytes().eq_ignore_ascii_case(name.as_bytes()))
}
