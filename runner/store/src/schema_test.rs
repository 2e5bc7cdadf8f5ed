//! The schema documents itself: every table, view and column has a comment.

use crate::testing::TestStore;

const MIGRATION: &str = include_str!("../../../migrations/20261201000000_init.sql");

/// The lines of the statement that creates `name`, with the line before it.
fn lines_of(name: &str) -> Vec<&'static str> {
    let heads = [
        format!("CREATE TABLE {name} ("),
        format!("CREATE VIEW {name} AS"),
    ];
    let lines: Vec<_> = MIGRATION.lines().collect();
    let start = lines
        .iter()
        .position(|line| heads.iter().any(|h| h == line));
    let start = start.unwrap_or_else(|| panic!("`{name}` is in no migration"));
    let length = lines[start..].iter().position(|line| line.ends_with(';'));
    lines[start - 1..=start + length.unwrap()].to_vec()
}

/// Whether this line ends the definition of `column`.
fn defines(line: &str, column: &str) -> bool {
    let line = line.trim().trim_end_matches(',');
    line.starts_with(&format!("{column} ")) || line.ends_with(&format!("AS {column}"))
}

fn is_comment(line: &str) -> bool {
    line.trim()
        .strip_prefix("-- ")
        .is_some_and(|text| text.len() > 3)
}

/// Whether there is a comment between the column's definition and the one before it.
fn is_explained(lines: &[&str], column: &str, columns: &[String]) -> bool {
    // From the end: in a view the names occur in its common table expressions, too.
    let index = lines.iter().rposition(|line| defines(line, column));
    let Some(index) = index else { return false };
    let before = lines[..index].iter().rev();
    let mut own =
        before.take_while(|line| !columns.iter().any(|c| c != column && defines(line, c)));
    own.any(|line| is_comment(line))
}

#[tokio::test]
async fn every_table_view_and_column_is_explained() {
    let test = TestStore::new().await;
    let sql = "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_xinfo(t.name) AS c
               WHERE t.type IN ('table', 'view') AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'
               ORDER BY t.name, c.cid";
    let rows = test.rows(sql).await;
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (text(&row[0]), text(&row[1])))
        .collect();
    assert!(rows.len() > 100, "{} columns", rows.len());
    for (table, column) in &rows {
        let columns: Vec<_> = rows
            .iter()
            .filter(|r| &r.0 == table)
            .map(|r| r.1.clone())
            .collect();
        let lines = lines_of(table);
        assert!(is_comment(lines[0]), "`{table}` has no comment");
        assert!(
            is_explained(&lines, column, &columns),
            "`{table}.{column}` has no comment"
        );
    }
}

#[test]
fn a_missing_comment_is_noticed() {
    let columns = ["a_id".to_owned(), "b".to_owned()];
    let table = [
        "-- A table.",
        "CREATE TABLE t (",
        "    -- Key.",
        "    a_id TEXT,",
        "    b TEXT",
        ");",
    ];
    assert!(is_explained(&table, "a_id", &columns));
    assert!(!is_explained(&table, "b", &columns));
    let view = [
        "CREATE VIEW v AS",
        "SELECT",
        "    -- Key.",
        "    x.a AS a_id,",
        "    x.b AS b",
    ];
    assert!(is_explained(&view, "a_id", &columns));
    assert!(!is_explained(&view, "b", &columns));
}

/// SQLite tells a table from a STRICT one by the types it lets in.
#[tokio::test]
async fn every_table_is_strict_and_keyed() {
    let test = TestStore::new().await;
    let sql = "SELECT name FROM pragma_table_list
               WHERE type = 'table' AND NOT strict AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'
                   AND name NOT LIKE 'sqlite%'";
    assert_eq!(test.rows(sql).await, Vec::<Vec<serde_json::Value>>::new());
}
