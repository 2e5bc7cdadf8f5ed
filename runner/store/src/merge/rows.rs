//! The rows of each table, in an order in which what a row refers to is there before it.

use crate::error::Trouble;
use sqlx::{AssertSqlSafe, SqliteConnection};

/// Which rows of a table come.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Of the rows `t` of the other database.
    condition: &'static str,
}

/// The jobs that come, with what they will be: those that are not here, and those that only there are done.
const JOBS: &str = "
CREATE TEMP TABLE merge_job AS
SELECT theirs.job_id, ?1 || theirs.dir AS dir, ours.dir AS replaced, theirs.status, theirs.done_ms
FROM other.job AS theirs LEFT JOIN main.job AS ours USING (job_id)
WHERE ours.job_id IS NULL OR (theirs.status = 'done' AND ours.status <> 'done')";

/// Tables that say what keys of the other database are here, made one after the other when what they need is there.
const MAPS: [(&str, &str); 4] = [
    (
        "stream",
        "CREATE TEMP TABLE merge_stream AS
         SELECT
             stream_id,
             stream_id NOT IN (SELECT stream_id FROM main.stream) AS is_new,
             (SELECT coalesce(max(number), 0) FROM main.attempt WHERE attempt.stream_id = theirs.stream_id) AS n_before
         FROM other.stream AS theirs",
    ),
    (
        "attempt",
        // Those of new streams, and those that anything of a job that comes refers to.
        "CREATE TEMP TABLE merge_attempt AS
         WITH their_sae AS (SELECT sae_id FROM other.sae WHERE job_id IN (SELECT job_id FROM temp.merge_job)),
         needed AS (
             SELECT attempt_id FROM other.attempt JOIN temp.merge_stream USING (stream_id) WHERE is_new
             UNION SELECT attempt_id FROM other.attempt_job WHERE job_id IN (SELECT job_id FROM temp.merge_job)
             UNION SELECT attempt_id FROM other.checkpoint WHERE job_id IN (SELECT job_id FROM temp.merge_job)
             UNION SELECT attempt_id FROM other.metric WHERE sae_id IN their_sae
             UNION SELECT attempt_id FROM other.verdict WHERE sae_id IN their_sae
             UNION SELECT attempt_id FROM other.calibration WHERE sae_id IN their_sae
             UNION SELECT attempt_id FROM other.evaluation WHERE sae_id IN their_sae
         )
         SELECT
             attempt_id AS old,
             (SELECT coalesce(max(attempt_id), 0) FROM main.attempt) + row_number() OVER (ORDER BY attempt_id) AS new,
             CASE WHEN is_new THEN number ELSE n_before + number END AS number
         FROM needed JOIN other.attempt AS theirs USING (attempt_id) JOIN temp.merge_stream USING (stream_id)",
    ),
    (
        "attempt_job",
        "CREATE TEMP TABLE merge_sae AS
         SELECT theirs.sae_id AS old, ours.sae_id AS new, theirs.job_id AS job_id
         FROM other.sae AS theirs JOIN main.sae AS ours USING (job_id, name)",
    ),
    (
        "publication",
        "CREATE TEMP TABLE merge_publication AS
         SELECT
             publication_id AS old,
             (SELECT coalesce(max(publication_id), 0) FROM main.publication)
                 + row_number() OVER (ORDER BY publication_id) AS new
         FROM other.publication AS theirs
         WHERE NOT EXISTS (
             SELECT 1 FROM main.publication AS ours
             WHERE ours.repo = theirs.repo AND ours.branch = theirs.branch AND ours.commit_id = theirs.commit_id
         )",
    ),
];

/// Keys that rows are looked up by.
const INDEXES: [&str; 4] = [
    "merge_attempt (old)",
    "merge_sae (old)",
    "merge_publication (old)",
    "merge_sweep (old)",
];

const OF_SAE: &str = "t.sae_id IN (
    SELECT old FROM temp.merge_sae WHERE job_id IN (SELECT job_id FROM temp.merge_job)
)";
const OF_ATTEMPT: &str = "t.attempt_id IN (SELECT old FROM temp.merge_attempt)";
const OF_JOB: &str = "t.job_id IN (SELECT job_id FROM temp.merge_job)";
const ALL: &str = "1";

/// All tables. Rows that are here stay as they are.
pub(super) const TABLES: [Table; 24] = [
    table("recipe", ALL),
    table(
        "sweep",
        "t.sweep_id IN (SELECT old FROM temp.merge_sweep WHERE is_new)",
    ),
    table(
        "sweep_origin",
        "t.sweep_id IN (SELECT old FROM temp.merge_sweep WHERE is_new)",
    ),
    table("round", ALL),
    table("job", OF_JOB),
    table("sweep_job", ALL),
    table(
        "note",
        "NOT EXISTS (SELECT 1 FROM main.note AS ours WHERE ours.text = t.text AND ours.created_ms = t.created_ms)",
    ),
    table("tag", ALL),
    table("sae", OF_JOB),
    table(
        "stream",
        "t.stream_id IN (SELECT stream_id FROM temp.merge_stream WHERE is_new)",
    ),
    table("stream_job", ALL),
    table("attempt", OF_ATTEMPT),
    table(
        "attempt_job",
        "t.attempt_id IN (SELECT old FROM temp.merge_attempt)
         AND t.job_id IN (SELECT job_id FROM temp.merge_job)",
    ),
    table("attempt_note", OF_ATTEMPT),
    table("progress", OF_ATTEMPT),
    table("metric", OF_SAE),
    table("metric_term", OF_SAE),
    table("verdict", OF_SAE),
    table("checkpoint", OF_JOB),
    table("extension", OF_JOB),
    table("calibration", OF_SAE),
    table("evaluation", OF_SAE),
    table(
        "publication",
        "t.publication_id IN (SELECT old FROM temp.merge_publication)",
    ),
    table(
        "publication_file",
        "t.publication_id IN (SELECT old FROM temp.merge_publication)",
    ),
];

const fn table(name: &'static str, condition: &'static str) -> Table {
    Table { name, condition }
}

/// A column's value here, of the row `t` there. A job begins as queued.
fn value(table: &str, column: &str) -> String {
    let mapped =
        |map: &str, new: &str| format!("(SELECT {new} FROM temp.{map} WHERE old = t.{column})");
    match (table, column) {
        ("job", "status") => "'queued'".into(),
        ("job", "done_ms") => "NULL".into(),
        ("sae", "sae_id") | (_, "verdict_id" | "note_id" | "tag_id") => "NULL".into(),
        ("note" | "tag", "sweep") => "(
            SELECT merge_sweep.name FROM temp.merge_sweep JOIN other.sweep ON sweep.sweep_id = merge_sweep.old
            WHERE sweep.name = t.sweep LIMIT 1
        )"
        .into(),
        ("attempt", "number") => {
            "(SELECT number FROM temp.merge_attempt WHERE old = t.attempt_id)".into()
        }
        ("sweep", "name" | "revision") => {
            format!("(SELECT {column} FROM temp.merge_sweep WHERE old = t.sweep_id)")
        }
        (_, "attempt_id") => mapped("merge_attempt", "new"),
        (_, "sae_id") => mapped("merge_sae", "new"),
        (_, "sweep_id") => mapped("merge_sweep", "new"),
        (_, "publication_id") => mapped("merge_publication", "new"),
        ("job" | "stream", "dir")
        | ("attempt", "log")
        | ("checkpoint", "path")
        | ("evaluation", "density") => {
            format!("?1 || t.{column}")
        }
        _ => format!("t.{column}"),
    }
}

pub(super) async fn choose_jobs(conn: &mut SqliteConnection, prefix: &str) -> Result<(), Trouble> {
    sqlx::query(JOBS).bind(prefix).execute(&mut *conn).await?;
    execute(
        conn,
        "CREATE UNIQUE INDEX temp.merge_job_id ON merge_job (job_id)".into(),
    )
    .await
}

/// Copies the rows of all tables; which versions of sweeps come was chosen before.
pub(super) async fn copy_all(conn: &mut SqliteConnection, prefix: &str) -> Result<(), Trouble> {
    for table in &TABLES {
        for (_, map) in MAPS.iter().filter(|(before, _)| *before == table.name) {
            execute(conn, (*map).to_owned()).await?;
        }
        for index in INDEXES {
            let map = index.split(' ').next().unwrap_or_default();
            let sql = format!("CREATE INDEX IF NOT EXISTS temp.{map}_old ON {index}");
            if has_map(conn, map).await? {
                execute(conn, sql).await?;
            }
        }
        copy(conn, table, prefix).await?;
    }
    finish_jobs(conn).await
}

async fn has_map(conn: &mut SqliteConnection, map: &str) -> Result<bool, Trouble> {
    let sql = "SELECT count(*) FROM sqlite_temp_schema WHERE name = ?";
    let n: i64 = sqlx::query_scalar(sql).bind(map).fetch_one(conn).await?;
    Ok(n > 0)
}

async fn copy(conn: &mut SqliteConnection, table: &Table, prefix: &str) -> Result<(), Trouble> {
    let Table { name, condition } = table;
    // Without those that are computed.
    let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?, 'main')")
        .bind(name)
        .fetch_all(&mut *conn)
        .await?;
    let values: Vec<_> = columns.iter().map(|column| value(name, column)).collect();
    let sql = format!(
        "INSERT INTO main.{name} ({}) SELECT {} FROM other.{name} AS t WHERE {condition} ON CONFLICT DO NOTHING",
        columns.join(", "),
        values.join(", ")
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(prefix)
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives the jobs that came the status that they had.
async fn finish_jobs(conn: &mut SqliteConnection) -> Result<(), Trouble> {
    let begin = "UPDATE main.job SET status = 'running'
        WHERE job_id IN (SELECT job_id FROM temp.merge_job WHERE status <> 'queued')";
    execute(conn, begin.into()).await?;
    let end = "UPDATE main.job SET status = merge_job.status, done_ms = merge_job.done_ms
        FROM temp.merge_job WHERE merge_job.job_id = job.job_id AND merge_job.status <> 'queued'";
    execute(conn, end.into()).await
}

/// Removes what was only of use for this.
pub(super) async fn drop_maps(conn: &mut SqliteConnection) -> Result<(), Trouble> {
    for map in [
        "merge_job",
        "merge_stream",
        "merge_attempt",
        "merge_sae",
        "merge_publication",
        "merge_sweep",
    ] {
        execute(conn, format!("DROP TABLE temp.{map}")).await?;
    }
    Ok(())
}

async fn execute(conn: &mut SqliteConnection, sql: String) -> Result<(), Trouble> {
    sqlx::query(AssertSqlSafe(sql)).execute(conn).await?;
    Ok(())
}
