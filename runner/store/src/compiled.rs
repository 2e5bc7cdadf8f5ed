//! What a text is to SQLite: how many statements, whether they are queries, whether they are complete.
#![expect(
    unsafe_code,
    reason = "sqlx compiles a text without saying how many statements it has or what they do, and has no call \
              for sqlite3_complete; this module is all of it"
)]

use libsqlite3_sys as ffi;
use sqlx::sqlite::LockedSqliteHandle;
use sqlx::{Error, SqliteConnection};
use std::ffi::CString;
use std::ptr;

/// What SQLite has compiled a text to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// Statements; comments and lone semicolons do not count.
    pub(crate) n_statements: usize,
    /// How many of them have columns and cannot write to the database file.
    pub(crate) n_queries: usize,
}

/// Compiles a text without running it.
///
/// # Errors
/// A text that is wrong, or that the connection's authorizer refuses. A zero byte, where SQLite stops reading.
pub(crate) async fn count(conn: &mut SqliteConnection, sql: &str) -> Result<Compiled, Error> {
    let mut handle = conn.lock_handle().await?;
    let (mut compiled, mut rest) = (Compiled::default(), sql.as_bytes());
    while !rest.is_empty() {
        rest = compile_next(&mut handle, rest, &mut compiled)?;
    }
    Ok(compiled)
}

/// Compiles and counts the first statement of a text that is not empty; gives what follows it.
fn compile_next<'a>(
    handle: &mut LockedSqliteHandle<'_>,
    sql: &'a [u8],
    compiled: &mut Compiled,
) -> Result<&'a [u8], Error> {
    let n_bytes =
        i32::try_from(sql.len()).map_err(|_| Error::Protocol("a text is too long".into()))?;
    let (mut statement, mut tail) = (ptr::null_mut(), ptr::null());
    let start = sql.as_ptr().cast();
    // SAFETY: the handle is open and locked, `start` has `n_bytes` bytes, and SQLite keeps neither pointer.
    let code = unsafe {
        let db = handle.as_raw_handle().as_ptr();
        ffi::sqlite3_prepare_v3(db, start, n_bytes, 0, &mut statement, &mut tail)
    };
    if code != ffi::SQLITE_OK {
        let error = handle
            .last_error()
            .map(|error| Error::Database(Box::new(error)));
        return Err(
            error.unwrap_or_else(|| Error::Protocol(format!("sqlite3_prepare_v3 gave {code}")))
        );
    }
    if !statement.is_null() {
        // SAFETY: SQLite has just made the statement; nothing else has it, and it is not used after its end.
        let (is_read_only, n_columns) = unsafe {
            let found = (
                ffi::sqlite3_stmt_readonly(statement) != 0,
                ffi::sqlite3_column_count(statement),
            );
            ffi::sqlite3_finalize(statement);
            found
        };
        compiled.n_statements += 1;
        compiled.n_queries += usize::from(is_read_only && n_columns > 0);
    }
    match tail.addr() - start.addr() {
        0 => Err(Error::Protocol("a text has a zero byte".into())),
        n_read => Ok(&sql[n_read..]),
    }
}

/// Whether a text ends with a complete statement: a `;` that is in no comment and in no quotes.
pub fn is_complete(sql: &str) -> bool {
    // SQLite reads up to a zero byte. A text that has one is refused, so the rest is of no use.
    CString::new(sql).map_or(true, |sql| {
        // SAFETY: the text ends in a zero byte and outlives the call.
        unsafe { ffi::sqlite3_complete(sql.as_ptr()) != 0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_complete_at_a_semicolon_of_its_own() {
        for sql in [
            "SELECT 1;",
            "SELECT\n1; -- done\n",
            "SELECT ';';",
            ";",
            "SELECT 1\0",
        ] {
            assert!(is_complete(sql), "{sql}");
        }
        for sql in [
            "",
            "SELECT 1",
            "SELECT ';\n",
            "SELECT 1 -- ;\n",
            "/* ;\n",
            "SELECT 1; SELECT 2",
        ] {
            assert!(!is_complete(sql), "{sql}");
        }
    }
}
