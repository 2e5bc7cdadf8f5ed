//! A user's own SQL, on a connection that cannot write.

use crate::error::{StoreError, message, result_code};
use crate::open::{Store, connect_read_only};
use serde_json::Value;
use sqlx::sqlite::{SqliteRow, SqliteValueRef};
use sqlx::{
    AssertSqlSafe, Column, Connection, Decode, Executor, Row, SqlSafeStr, Sqlite, SqliteConnection,
    Statement, TypeInfo, ValueRef,
};
use std::fmt::Write;
use std::path::Path;

/// What a query gives.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryTable {
    /// Names of the columns, also where there are no rows.
    pub columns: Vec<String>,
    /// The rows. Integers, reals and text are as they stand; NULL and reals that are not finite are
    /// null, blobs are text in hex.
    pub rows: Vec<Vec<Value>>,
}

/// What a query may begin with. This is for a clear word to the user: the connection could not write
/// anyway.
const READING: [&str; 4] = ["SELECT", "WITH", "VALUES", "EXPLAIN"];

impl Store {
    /// Asks one question in SQL, on a connection of its own that only reads.
    ///
    /// # Errors
    /// No or several statements, a statement that is no query or would write, or one that SQLite
    /// does not understand.
    pub async fn query(&self, sql: &str) -> Result<QueryTable, StoreError> {
        let keyword = check(sql)?;
        let mut conn = connect_read_only(self.path()).await?;
        let table = fetch(&mut conn, sql).await;
        let table = table.map_err(|error| query_error(self.path(), keyword, error))?;
        conn.close()
            .await
            .map_err(|error| StoreError::from_sqlx(self.path(), error))?;
        Ok(table)
    }
}

async fn fetch(conn: &mut SqliteConnection, sql: &str) -> Result<QueryTable, sqlx::Error> {
    // A user's SQL is dynamic by nature; the connection reads only.
    let statement = conn
        .prepare(AssertSqlSafe(sql.to_owned()).into_sql_str())
        .await?;
    let names = statement.columns().iter().map(Column::name);
    let columns = names.map(str::to_owned).collect();
    let rows = statement.query().fetch_all(conn).await?;
    let rows = rows.iter().map(to_json).collect::<Result<_, _>>()?;
    Ok(QueryTable { columns, rows })
}

fn query_error(path: &Path, keyword: String, error: sqlx::Error) -> StoreError {
    match result_code(&error) {
        Some(8) => StoreError::NotAQuery { keyword },
        // SQLITE_ERROR, TOOBIG, MISMATCH, RANGE: the fault is in the query.
        Some(1 | 18 | 20 | 25) => StoreError::BadQuery {
            message: message(&error),
        },
        _ => StoreError::from_sqlx(path, error),
    }
}

fn to_json(row: &SqliteRow) -> Result<Vec<Value>, sqlx::Error> {
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

/// The first word of a text that is one query.
fn check(sql: &str) -> Result<String, StoreError> {
    let statements = statements(sql);
    let Some(first) = statements.first() else {
        return Err(StoreError::EmptyQuery);
    };
    let keyword = first
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default()
        .to_ascii_uppercase();
    if !READING.contains(&keyword.as_str()) {
        return Err(StoreError::NotAQuery { keyword });
    }
    match statements.len() {
        1 => Ok(keyword),
        n_statements => Err(StoreError::SeveralStatements { n_statements }),
    }
}

/// The statements of a text, without comments and with quoted parts emptied.
fn statements(sql: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let (kept, n_bytes) = token(rest, c);
        match (kept, statements.last_mut()) {
            (";", _) => statements.push(String::new()),
            (kept, Some(statement)) => statement.push_str(kept),
            (_, None) => {}
        }
        rest = &rest[n_bytes..];
    }
    let trimmed = statements.iter().map(|s| s.trim().to_owned());
    trimmed.filter(|s| !s.is_empty()).collect()
}

/// What of the token at the start of `rest` is kept, and the token's length in bytes.
fn token(rest: &str, c: char) -> (&str, usize) {
    let to = |end: &str, from: usize| {
        let found = rest[from..].find(end);
        found.map_or(rest.len(), |n| from + n + end.len())
    };
    match c {
        '-' if rest.starts_with("--") => (" ", to("\n", 2)),
        '/' if rest.starts_with("/*") => (" ", to("*/", 2)),
        // A doubled quote ends one quoted part and begins the next: the same in the end.
        '\'' => ("''", to("'", 1)),
        '"' => ("\"\"", to("\"", 1)),
        '`' => ("``", to("`", 1)),
        '[' => ("[]", to("]", 1)),
        _ => (&rest[..c.len_utf8()], c.len_utf8()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, plan};
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
            "REINDEX",
        ] {
            let error = test.store.query(sql).await.unwrap_err();
            assert!(
                matches!(error, StoreError::NotAQuery { .. }),
                "{sql}: {error:?}"
            );
            assert!(error.hint().is_some());
        }
        assert!(!other.exists());
        assert_eq!(test.dump().await, rows);
    }

    /// What would happen if the check of the first word could be tricked. Only `VACUUM INTO` is left
    /// out: it makes its target before it is refused.
    #[tokio::test]
    async fn the_connection_itself_cannot_write() {
        let test = TestStore::new().await;
        let other = test.folder.path().join("other.db");
        for sql in [
            "INSERT INTO sweep_job DEFAULT VALUES".to_owned(),
            "DROP TABLE metric".to_owned(),
            "PRAGMA query_only = OFF; DELETE FROM _sqlx_migrations".to_owned(),
            "PRAGMA user_version = 3".to_owned(),
            format!(
                "ATTACH 'file:{}?mode=rwc' AS x; CREATE TABLE x.t (a)",
                other.display()
            ),
        ] {
            let mut conn = connect_read_only(test.store.path()).await.unwrap();
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
        assert!(matches!(
            error("SELECT FROM").await,
            StoreError::BadQuery { .. }
        ));
        assert!(matches!(
            error(" ; -- nothing").await,
            StoreError::EmptyQuery
        ));
        assert!(matches!(
            error("SELECT 1; SELECT ';'").await,
            StoreError::SeveralStatements { n_statements: 2 }
        ));
    }

    #[test]
    fn statements_are_told_apart() {
        let n = |sql| statements(sql).len();
        assert_eq!(n(""), 0);
        assert_eq!(n("SELECT 1"), 1);
        assert_eq!(n("SELECT 1;;\n /* ; */ ;"), 1);
        assert_eq!(n("SELECT 'it''s; one', \"a;b\", [c;d], `e;f` -- ; g"), 1);
        assert_eq!(n("SELECT '/*'; SELECT '*/'"), 2);
        assert_eq!(n("SELECT 'open; end"), 1);
        assert_eq!(n("SELECT 'größe' -- é\n; SELECT 'ß'"), 2);
        assert_eq!(check("/* why */ select 1").unwrap(), "SELECT");
        assert_eq!(check("select*from result").unwrap(), "SELECT");
    }
}
