//! A user's own SQL, on a connection that cannot write.

use crate::authorizer::{only_queries, only_reads};
use crate::bounds::{MAX_HEAP_BYTES, MAX_VALUE_BYTES, bound};
use crate::compiled::count;
use crate::error::{StoreError, message, result_code};
use crate::open::{Store, connect_read_only};
use fault::Fault;
use futures::TryStreamExt;
use serde_json::Value;
use sqlx::sqlite::{SqliteRow, SqliteStatement, SqliteValueRef};
use sqlx::{
    AssertSqlSafe, Column, Connection, Decode, Executor, Row, SqlSafeStr, Sqlite, SqliteConnection,
    Statement, TypeInfo, ValueRef,
};
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a query gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryTable {
    /// Names of the columns, also if there are no rows.
    pub columns: Vec<String>,
    /// The rows. Integers, reals and text are unchanged; NULL and reals that are not finite are null, blobs are text in
    /// hex.
    pub rows: Vec<Vec<Value>>,
    /// True if there are more rows than were asked for.
    pub is_cut: bool,
}

/// How far a query may go.
#[derive(Clone, Debug)]
pub struct QueryLimits {
    /// Rows to give at most.
    pub max_rows: usize,
    /// Time to take at most; `None` for any.
    pub timeout: Option<Duration>,
    /// Ends the query soon after it is set, from another thread or task.
    pub stop: Arc<AtomicBool>,
}

/// How long a query may take if no other time was given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            max_rows: usize::MAX,
            timeout: Some(DEFAULT_TIMEOUT),
            stop: Arc::default(),
        }
    }
}

/// Takes the rows of a query as they come, so that they need not all be held.
pub trait RowSink {
    /// The names of the columns, before any row.
    fn begin(&mut self, columns: Vec<String>);

    /// The next row, with values as in [`QueryTable`]. `Break`: no more are wanted.
    fn take(&mut self, row: Vec<Value>) -> ControlFlow<()>;
}

/// Bytes of one row in the answer, and of all rows of a table.
const MAX_ROW_BYTES: usize = 32 << 20;
const MAX_TABLE_BYTES: usize = 64 << 20;

/// Instructions of SQLite's machine between two looks at the limits: some 0.1 ms.
const OPS_PER_LOOK: i32 = 10_000;

impl Store {
    /// Asks one question in SQL, on a separate connection that only reads.
    ///
    /// # Errors
    /// No or several statements, a statement that is not a query or would write, or one that SQLite
    /// does not understand.
    pub async fn query(&self, sql: &str) -> Result<QueryTable, StoreError> {
        self.query_within(sql, &QueryLimits::default()).await
    }

    /// The same within limits.
    ///
    /// # Errors
    /// As [`Store::query`]; a query that was stopped, took too long or too much memory, or whose answer is
    /// too large to be held.
    pub async fn query_within(
        &self,
        sql: &str,
        limits: &QueryLimits,
    ) -> Result<QueryTable, StoreError> {
        let mut held = HeldTable::default();
        let is_cut = self.query_into(sql, limits, &mut held).await?;
        if held.n_bytes > MAX_TABLE_BYTES {
            return Err(answer_too_large("answer", MAX_TABLE_BYTES).into());
        }
        Ok(QueryTable {
            is_cut,
            ..held.table
        })
    }

    /// The same, and gives each row to `sink`; true if there are more than were asked for.
    ///
    /// # Errors
    /// As [`Store::query_within`], except the size of the answer: only that of a row is limited. The rows before it
    /// were given.
    pub async fn query_into(
        &self,
        sql: &str,
        limits: &QueryLimits,
        sink: &mut (dyn RowSink + Send),
    ) -> Result<bool, StoreError> {
        let query_error = |error| query_error(self.path(), limits, error);
        let mut conn = connect_read_only(self.path()).await?;
        bound(&mut conn).await.map_err(query_error)?;
        limit(&mut conn, limits).await.map_err(query_error)?;
        let statement = compile(&mut conn, sql).await.map_err(query_error)??;
        let is_cut = fetch(&mut conn, &statement, limits.max_rows, sink).await;
        let is_cut = is_cut
            .map_err(query_error)?
            .map_err(|TooLong| answer_too_large("row of the answer", MAX_ROW_BYTES))?;
        conn.close().await.map_err(query_error)?;
        Ok(is_cut)
    }
}

/// The rows of a query, as long as they are not too many to be held.
#[derive(Default)]
struct HeldTable {
    table: QueryTable,
    n_bytes: usize,
}

impl RowSink for HeldTable {
    fn begin(&mut self, columns: Vec<String>) {
        self.table.columns = columns;
    }

    fn take(&mut self, row: Vec<Value>) -> ControlFlow<()> {
        let text = |value: &Value| value.as_str().map_or(0, str::len);
        self.n_bytes += row.iter().map(text).sum::<usize>() + size_of_val(row.as_slice());
        if self.n_bytes > MAX_TABLE_BYTES {
            return ControlFlow::Break(());
        }
        self.table.rows.push(row);
        ControlFlow::Continue(())
    }
}

/// Has SQLite end the query when it is stopped or out of time, also if it gives no row meanwhile.
async fn limit(conn: &mut SqliteConnection, limits: &QueryLimits) -> Result<(), sqlx::Error> {
    let stop = limits.stop.clone();
    let deadline = limits
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let goes_on = move || {
        !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline)
    };
    let mut handle = conn.lock_handle().await?;
    handle.set_progress_handler(OPS_PER_LOOK, goes_on);
    Ok(())
}

/// Has SQLite compile the one query that a text should be.
async fn compile(
    conn: &mut SqliteConnection,
    sql: &str,
) -> Result<Result<SqliteStatement, Fault>, sqlx::Error> {
    // As the driver does it.
    let sql = sql.trim();
    if sql.contains('\0') {
        // The driver would have SQLite read up to it, again and again.
        return Ok(Err(bad_query("the query has a zero byte")));
    }
    only_queries(conn).await?;
    // A user's SQL is dynamic by nature. The driver compiles it on its own thread, which may take long.
    let text = AssertSqlSafe(sql.to_owned()).into_sql_str();
    let statement = conn.prepare(text).await?;
    let compiled = count(conn, sql).await?;
    only_reads(conn).await?;
    Ok(match (compiled.n_statements, compiled.n_queries) {
        (0, _) => Err(Fault::input("the query is empty")
            .with_hint("such as `SELECT job, fvu FROM result ORDER BY fvu`")),
        (1, 1) => Ok(statement),
        (1, _) => Err(not_a_query()),
        (n_statements, _) => Err(Fault::input(format!(
            "the query has {n_statements} statements, expected one"
        ))
        .with_hint("ask them one by one")),
    })
}

/// A row that is too long to be held.
struct TooLong;

/// Gives the rows to `sink`; whether there are more.
async fn fetch(
    conn: &mut SqliteConnection,
    statement: &SqliteStatement,
    max_rows: usize,
    sink: &mut (dyn RowSink + Send),
) -> Result<Result<bool, TooLong>, sqlx::Error> {
    let names = statement.columns().iter().map(Column::name);
    sink.begin(names.map(str::to_owned).collect());
    let mut n_rows = 0;
    let mut found = statement.query().fetch(conn);
    while let Some(row) = found.try_next().await? {
        if n_rows == max_rows {
            return Ok(Ok(true));
        }
        if n_bytes(&row)? > MAX_ROW_BYTES {
            return Ok(Err(TooLong));
        }
        n_rows += 1;
        if sink.take(to_json(&row)?).is_break() {
            break;
        }
    }
    Ok(Ok(false))
}

/// Bytes of a row's texts and blobs.
fn n_bytes(row: &SqliteRow) -> Result<usize, sqlx::Error> {
    let of_value = |index| {
        let value = row.try_get_raw(index)?;
        let is_long = matches!(value.type_info().name(), "TEXT" | "BLOB") && !value.is_null();
        let bytes = is_long.then(|| <&[u8] as Decode<Sqlite>>::decode(value));
        let bytes = bytes.transpose().map_err(sqlx::Error::Decode)?;
        Ok(bytes.map_or(0, <[u8]>::len))
    };
    (0..row.len()).map(of_value).sum()
}

fn query_error(path: &Path, limits: &QueryLimits, error: sqlx::Error) -> StoreError {
    let fault = match result_code(&error) {
        // SQLITE_READONLY, and SQLITE_AUTH if the authorizer said no.
        Some(8 | 23) => not_a_query(),
        // SQLITE_NOMEM.
        Some(7) => query_too_large(),
        // The driver's thread ends if there is no memory for its copy of a row.
        None if matches!(error, sqlx::Error::WorkerCrashed) => query_too_large(),
        // SQLITE_INTERRUPT, by the progress handler.
        Some(9) => match limits.timeout {
            Some(timeout) if !limits.stop.load(Ordering::Relaxed) => {
                return StoreError::QueryTimedOut { timeout };
            }
            _ => return StoreError::QueryStopped,
        },
        // SQLITE_TOOBIG, of a value; a query's text is the other thing that can be.
        Some(18) if message(&error).contains("string or blob") => value_too_long(),
        // SQLITE_ERROR, TOOBIG, MISMATCH, RANGE: the fault is in the query.
        Some(1 | 18 | 20 | 25) => bad_query(&message(&error)),
        _ => return StoreError::from_sqlx(path, error),
    };
    fault.into()
}

/// A statement that is not a query or would write.
fn not_a_query() -> Fault {
    Fault::input("the statement is refused: queries only read").with_hint(
        "begin with SELECT, WITH, VALUES or EXPLAIN; what a PRAGMA tells, \
         `SELECT * FROM pragma_table_info('job')` tells too",
    )
}

/// A query that SQLite does not understand, with its message.
fn bad_query(message: &str) -> Fault {
    Fault::input(message).with_hint(
        "`SELECT name, sql FROM sqlite_schema` shows tables, views and what their columns mean; the views \
         `result` and `curve` are made for reading",
    )
}

fn query_too_large() -> Fault {
    let limit = plan::bytes(MAX_HEAP_BYTES as u64);
    Fault::input(format!("the query needs more than {limit} of memory")).with_hint(
        "sorting, grouping and DISTINCT need memory: ask for fewer rows or columns, with `WHERE` \
         or `LIMIT`",
    )
}

fn value_too_long() -> Fault {
    let limit = plan::bytes(MAX_VALUE_BYTES as u64);
    Fault::input(format!("a value of the query is longer than {limit}"))
        .with_hint("`substr` cuts a value, `LIMIT` in a subquery shortens a list")
}

/// An answer, or one of its rows, that is larger than can be held.
fn answer_too_large(what: &str, limit_bytes: usize) -> Fault {
    Fault::input(format!(
        "the {what} is larger than {}",
        plan::bytes(limit_bytes as u64)
    ))
    .with_hint(
        "ask for fewer columns or rows; `sae-run sql --csv` and `--json` print any number of rows",
    )
}

pub(crate) fn to_json(row: &SqliteRow) -> Result<Vec<Value>, sqlx::Error> {
    let value = |index| {
        let value = row.try_get_raw(index)?;
        decode(value).map_err(sqlx::Error::Decode)
    };
    (0..row.len()).map(value).collect()
}

fn decode(value: SqliteValueRef<'_>) -> Result<Value, sqlx::error::BoxDynError> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let kind = value.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INTEGER" => <i64 as Decode<Sqlite>>::decode(value)?.into(),
        "REAL" => <f64 as Decode<Sqlite>>::decode(value)?.into(),
        "BLOB" => hex(<&[u8] as Decode<Sqlite>>::decode(value)?).into(),
        _ => <String as Decode<Sqlite>>::decode(value)?.into(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, plan};
    use fault::Remedy;
    use serde_json::json;

    #[tokio::test]
    async fn values_come_as_json() {
        let test = TestStore::new().await;
        let sql =
            "SELECT NULL AS a, 7 AS b, 0.5 AS c, 'x;--' AS d, x'00ff' AS e, 9e999, ''; -- end";
        let table = test.store.query(sql).await.unwrap();
        assert_eq!(table.columns, ["a", "b", "c", "d", "e", "9e999", "''"]);
        let row = json!([null, 7, 0.5, "x;--", "00ff", null, ""]);
        assert_eq!(json!(table.rows), json!([row]));
    }

    #[tokio::test]
    async fn columns_are_named_also_without_rows() {
        let test = TestStore::new().await;
        let sql = "WITH j AS (SELECT job, fvu FROM result) SELECT * FROM j";
        let table = test.store.query(sql).await.unwrap();
        assert_eq!(table.columns, ["job", "fvu"]);
        assert!(table.rows.is_empty());
    }

    #[tokio::test]
    async fn what_would_write_is_refused() {
        let test = TestStore::new().await;
        test.record(&plan("s", &[json!({"k": 4})])).await;
        let rows = test.dump().await;
        let other = test.folder.path().join("other.db");
        for sql in [
            "INSERT INTO sweep (name) VALUES ('x')",
            "update job set status = 'running'",
            "DELETE FROM metric",
            "WITH x AS (SELECT 1) DELETE FROM sweep_job",
            "WITH x AS (SELECT 1) UPDATE job SET model = 'x'",
            "DROP VIEW result",
            "CREATE TEMP TABLE t (x)",
            &format!("ATTACH '{}' AS other", other.display()),
            &format!("ATTACH 'file:{}?mode=rwc' AS other", other.display()),
            &format!("VACUUM INTO '{}'", other.display()),
            "PRAGMA query_only = OFF",
            "PRAGMA user_version = 3",
            "BEGIN IMMEDIATE",
            "END",
            "SAVEPOINT a",
            "DETACH main",
            "REINDEX",
            "ANALYZE",
            "VACUUM",
            "EXPLAIN VACUUM",
            "EXPLAIN DELETE FROM metric",
            "DELETE FROM metric RETURNING 1",
            "REPLACE INTO sweep (name) VALUES ('x') RETURNING 1",
            "ALTER TABLE job RENAME TO j",
            // A PRAGMA that only tells and one that does something.
            "PRAGMA table_info(job)",
            "PRAGMA user_version",
            "PRAGMA wal_checkpoint",
            "PRAGMA optimize",
            // What would change nothing, and so needs no right to.
            "DROP TABLE IF EXISTS missing",
            "DROP TRIGGER IF EXISTS missing",
            "CREATE INDEX IF NOT EXISTS sweep_job_job ON sweep_job (job_id)",
            // Comments and semicolons in front.
            ";; /* SELECT */ DELETE FROM metric",
            "-- SELECT\nDROP TABLE metric",
            "SELECT 1; DELETE FROM metric",
        ] {
            let error = test.store.query(sql).await.unwrap_err();
            assert_eq!(error.to_string(), not_a_query().to_string(), "{sql}");
            assert!(error.hint().is_some());
        }
        assert!(!other.exists());
        assert_eq!(test.dump().await, rows);
    }

    /// What would happen if the check of what was compiled could be tricked.
    #[tokio::test]
    async fn the_connection_itself_cannot_write() {
        let test = TestStore::new().await;
        let other = test.folder.path().join("other.db");
        for sql in [
            "INSERT INTO sweep_job DEFAULT VALUES".to_owned(),
            "DROP TABLE metric".to_owned(),
            "PRAGMA query_only = OFF; DELETE FROM _sqlx_migrations".to_owned(),
            "PRAGMA user_version = 3".to_owned(),
            "CREATE TEMP TABLE t (a)".to_owned(),
            "SELECT 1; BEGIN".to_owned(),
            "SELECT load_extension('x')".to_owned(),
            format!("VACUUM INTO '{}'", other.display()),
            format!("ATTACH '{}' AS x", other.display()),
            format!(
                "ATTACH 'file:{}?mode=rwc' AS x; CREATE TABLE x.t (a)",
                other.display()
            ),
        ] {
            let mut conn = connect_read_only(test.store.path()).await.unwrap();
            only_reads(&mut conn).await.unwrap();
            let done = sqlx::query(AssertSqlSafe(sql.clone()))
                .execute(&mut conn)
                .await;
            assert!(done.is_err(), "{sql}");
            assert!(!other.exists(), "{sql}");
        }
    }

    #[tokio::test]
    async fn a_question_that_makes_no_sense_is_told_in_the_words_of_sqlite() {
        let test = TestStore::new().await;
        let error = |sql| {
            let store = &test.store;
            async move { store.query(sql).await.unwrap_err() }
        };
        let bad = error("SELECT fvuu FROM result").await;
        assert_eq!(bad.to_string(), "no such column: fvuu");
        assert!(bad.hint().unwrap().contains("sqlite_schema"));
        for (sql, expected) in [
            ("SELECT FROM", "near \"FROM\": syntax error"),
            (" ; -- nothing", "the query is empty"),
            (
                "SELECT 1; SELECT ';'",
                "the query has 2 statements, expected one",
            ),
        ] {
            assert_eq!(error(sql).await.to_string(), expected);
        }
    }

    const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

    #[tokio::test]
    async fn an_endless_query_is_cut_by_rows_time_or_a_stop() {
        let test = TestStore::new().await;
        let ask = |what: &str, limits: QueryLimits| {
            let (store, sql) = (
                test.store.clone(),
                format!("{ENDLESS} SELECT {what} FROM n"),
            );
            async move { store.query_within(&sql, &limits).await }
        };
        let rows = QueryLimits {
            max_rows: 3,
            ..QueryLimits::default()
        };
        let table = ask("i", rows.clone()).await.unwrap();
        assert_eq!(table.rows, [[1], [2], [3]]);
        assert!(table.is_cut);
        let sql = "SELECT * FROM (VALUES (1), (2), (3))";
        let table = test.store.query_within(sql, &rows).await.unwrap();
        assert!(!table.is_cut, "it has no more than that");

        let timeout = Some(Duration::from_millis(50));
        let time = QueryLimits {
            timeout,
            ..QueryLimits::default()
        };
        let error = ask("count(*)", time).await.unwrap_err();
        assert!(
            matches!(error, StoreError::QueryTimedOut { .. }),
            "{error:?}"
        );

        let limits = QueryLimits::default();
        let stop = limits.stop.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
        });
        let error = ask("count(*)", limits).await.unwrap_err();
        assert!(matches!(error, StoreError::QueryStopped), "{error:?}");
    }

    #[tokio::test]
    async fn statements_are_told_apart() {
        let test = TestStore::new().await;
        let n_statements = |sql: &'static str| {
            let store = &test.store;
            async move {
                let Err(error) = store.query(sql).await else {
                    return 1;
                };
                match error.to_string().split(' ').collect::<Vec<_>>()[..] {
                    ["the", "query", "is", "empty"] => 0,
                    ["the", "query", "has", n, "statements,", ..] => n.parse().unwrap(),
                    _ => panic!("{sql}: {error:?}"),
                }
            }
        };
        for (sql, expected) in [
            ("", 0),
            (" ; -- nothing", 0),
            ("SELECT 1", 1),
            ("\u{a0}SELECT 1;\u{2003}\n", 1),
            ("select*from result", 1),
            ("/* why */ VALUES (1), (2)", 1),
            ("; ;SELECT 1;;\n /* ; */ ;", 1),
            (
                "SELECT 'it''s; one', \"a;b\", ';' AS [c;d], 1 AS `e;f` -- ; g",
                1,
            ),
            ("EXPLAIN SELECT 1", 1),
            ("SELECT count(*) FROM pragma_table_info('job')", 1),
            ("SELECT 1; SELECT 2;; SELECT 3", 3),
            ("SELECT '/*'; SELECT '*/'", 2),
            ("SELECT 'größe' -- é\n; SELECT 'ß'", 2),
        ] {
            assert_eq!(n_statements(sql).await, expected, "{sql}");
        }
        for sql in [
            "SELECT 'open; end",
            "SELECT 1\0",
            "SELECT 1;\0DELETE FROM metric",
        ] {
            let error = test.store.query(sql).await.unwrap_err();
            assert_eq!(error.hint(), bad_query("").hint(), "{error:?}");
        }
    }
}
