//! The schema documents itself: every table, view and column has a comment.

use crate::testing::TestStore;

/// The newest first: a view may be created anew.
const MIGRATIONS: [&str; 10] = [
    include_str!("../../../migrations/20261128000001_tokens_per_update.sql"),
    include_str!("../../../migrations/20261128000000_publication_once.sql"),
    include_str!("../../../migrations/20261125000003_publication.sql"),
    include_str!("../../../migrations/20261125000002_running_total.sql"),
    include_str!("../../../migrations/20261125000001_stopped.sql"),
    include_str!("../../../migrations/20261125000000_provenance.sql"),
    include_str!("../../../migrations/20261124000002_round.sql"),
    include_str!("../../../migrations/20261124000001_training.sql"),
    include_str!("../../../migrations/20261124000000_evaluation.sql"),
    include_str!("../../../migrations/20261123000000_init.sql"),
];

/// The lines of the statement that creates `name`, with the line before it.
fn lines_of(name: &str) -> Vec<&'static str> {
    let heads = [
        format!("CREATE TABLE {name} ("),
        format!("CREATE VIEW {name} AS"),
    ];
    for text in MIGRATIONS {
        let lines: Vec<_> = text.lines().collect();
        if let Some(start) = lines
            .iter()
            .position(|line| heads.iter().any(|h| h == line))
        {
            let length = lines[start..].iter().position(|line| line.ends_with(';'));
            let head = comment_above(&lines, start);
            return lines[head..=start + length.unwrap()].to_vec();
        }
    }
    panic!("`{name}` is in no migration");
}

/// The last line of the comment above line `start`; what drops an earlier form may stand between.
fn comment_above(lines: &[&str], start: usize) -> usize {
    match lines[start - 1].starts_with("DROP ") {
        true => start - 2,
        false => start - 1,
    }
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

/// Whether a comment stands between the column's definition and the one before it.
fn is_explained(lines: &[&str], column: &str, columns: &[String]) -> bool {
    // From the end: in a view the names occur in its common table expressions, too.
    let place = lines.iter().rposition(|line| defines(line, column));
    let Some(place) = place else { return false };
    let before = lines[..place].iter().rev();
    let mut own =
        before.take_while(|line| !columns.iter().any(|c| c != column && defines(line, c)));
    own.any(|line| is_comment(line))
}

/// Whether a later migration added the column, with a comment above.
fn is_added(table: &str, column: &str) -> bool {
    let head = format!("ALTER TABLE {table} ADD COLUMN {column} ");
    MIGRATIONS.iter().any(|text| {
        let lines: Vec<_> = text.lines().collect();
        let place = lines.iter().position(|line| line.starts_with(&head));
        place.is_some_and(|place| is_comment(lines[place - 1]))
    })
}

#[tokio::test]
async fn every_table_view_and_column_is_explained() {
    let test = TestStore::new().await;
    let sql = "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
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
            is_explained(&lines, column, &columns) || is_added(table, column),
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
