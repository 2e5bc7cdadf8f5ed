//! Databases of earlier versions: brought up to date with all that is in them.

use crate::open::MIGRATOR;
use crate::{AttemptStatus, Store, StoreError};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use std::fs;
use std::io::Read;
use std::path::Path;
use tempfile::TempDir;

/// As version 20261125000000 left it: one sweep that was done and evaluated, and one whose worker and
/// coordinator were killed in the middle.
const OLD: &[u8] = include_bytes!("../../../tests/fixtures/database/20261125000000.db.gz");

/// One row of each table that the first version had.
const FIRST_ROWS: &str = "
    INSERT INTO sweep VALUES (1, 's', 1, 't', 'd', 'grid', 'r', 'q', 'j', 7, 1);
    INSERT INTO job VALUES ('j', 's/j', 'queued', 'm', 'm0', 'd', 't0', 1, '{}', 1, NULL);
    UPDATE job SET status = 'running';
    INSERT INTO sweep_job VALUES (1, 0, 'j', 'k=4', NULL, '{}');
    INSERT INTO sae VALUES (1, 'j', 'layers.0', 'layers.0', 0, 8, 32, 4, 0.001);
    INSERT INTO stream VALUES ('st', 's/.streams/st', '{}', 1, 1, 1, 1, 20, 10, 3, 1, 5, 1);
    INSERT INTO stream_job VALUES ('st', 'j');
    INSERT INTO attempt (attempt_id, stream_id, number, status, started_ms) VALUES (1, 'st', 1, 'running', 1);
    INSERT INTO attempt_job VALUES (1, 'j');
    INSERT INTO metric (sae_id, step, attempt_id, n_tokens, squared_error, total_variance, l0_sum, n_dead, time_ms)
    VALUES (1, 10, 1, 100, 8.0, 16.0, 400.0, 0, 1), (1, 20, 1, 100, 4.0, 16.0, 400.0, 8, 2);
    INSERT INTO progress VALUES (1, 20, 200, 100);
    INSERT INTO checkpoint (job_id, step, attempt_id, path, is_final, created_ms)
    VALUES ('j', 20, 1, 's/j', 1, 3);";

async fn rows(store: &Store, sql: &str) -> Value {
    json!(store.query(sql).await.unwrap().rows)
}

async fn is_whole(store: &Store) -> bool {
    rows(store, "SELECT * FROM pragma_integrity_check").await == json!([["ok"]])
        && rows(store, "SELECT * FROM pragma_foreign_key_check").await == json!([])
}

/// A database as the first `n_migrations` make it, with rows.
async fn old_database(path: &Path, n_migrations: usize) {
    let options = SqliteConnectOptions::new().filename(path);
    let mut conn = options.create_if_missing(true).connect().await.unwrap();
    let migrations = MIGRATOR.iter().take(n_migrations).cloned();
    let migrator = Migrator::with_migrations(migrations.collect());
    migrator.run(&mut conn).await.unwrap();
    sqlx::raw_sql(FIRST_ROWS).execute(&mut conn).await.unwrap();
    let has_totals =
        "SELECT count(*) FROM pragma_table_info('metric') WHERE name = 'n_tokens_so_far'";
    let has_totals: bool = sqlx::query_scalar(has_totals)
        .fetch_one(&mut conn)
        .await
        .unwrap();
    if has_totals {
        let sql = "UPDATE metric SET n_tokens_so_far = 10 * step";
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
}

#[tokio::test]
async fn every_earlier_schema_is_brought_up_to_date_with_its_rows() {
    let n_migrations = MIGRATOR.iter().count();
    for n_earlier in 1..n_migrations {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("runs.db");
        old_database(&path, n_earlier).await;
        let error = Store::open_read_only(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::OlderSchema { .. }), "{error:?}");
        let store = Store::open(&path).await.unwrap();
        assert!(is_whole(&store).await, "after {n_earlier} migrations");
        let result = "SELECT sweep, job, status, n_tokens, step, fvu, l0, dead_pct, tokens_per_s,
                          checkpoint FROM result";
        let expected = json!([[
            "s",
            "k=4",
            "running",
            200,
            20,
            0.25,
            4.0,
            25.0,
            2000.0,
            "s/j/layers.0"
        ]]);
        assert_eq!(rows(&store, result).await, expected);
        let curve = "SELECT step, n_tokens, fvu FROM curve";
        let expected = json!([[10, 100, 0.5], [20, 200, 0.25]]);
        assert_eq!(rows(&store, curve).await, expected);
        store.abandon_dead_attempts().await.unwrap();
        assert_eq!(store.begin_attempt("st", "log").await.unwrap(), 2);
    }
}

/// Two publications that found the same commit, between them another, and one of another branch.
const PUBLISHED_TWICE: &str = "
    INSERT INTO publication VALUES
        (1, 'o/r', 'main', 'c1', 'p', '0.1.0', 10), (2, 'o/r', 'main', 'c2', 'p', '0.1.0', 20),
        (3, 'o/r', 'main', 'c1', 'p', '0.1.0', 30), (4, 'o/r', 'v2', 'c1', 'p', '0.1.0', 40);
    INSERT INTO publication_file VALUES
        (1, 'README.md', NULL, NULL, 1, 'aa', 1), (1, 'a/cfg.json', 1, 'sparsify', 1, 'bb', 1),
        (2, 'README.md', NULL, NULL, 1, 'cc', 1),
        (3, 'README.md', NULL, NULL, 1, 'aa', 0), (3, 'b/cfg.json', 1, 'sparsify', 1, 'bb', 0),
        (4, 'a/cfg.json', 1, 'sparsify', 1, 'bb', 0);";

#[tokio::test]
async fn a_commit_that_was_recorded_twice_becomes_one_record() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("runs.db");
    let is_later = |migration: &&sqlx::migrate::Migration| migration.version > 20261125000003;
    let n_later = MIGRATOR.iter().filter(is_later).count();
    old_database(&path, MIGRATOR.iter().count() - n_later).await;
    let options = SqliteConnectOptions::new().filename(&path);
    let mut conn = options.connect().await.unwrap();
    sqlx::raw_sql(PUBLISHED_TWICE)
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    let store = Store::open(&path).await.unwrap();
    assert!(is_whole(&store).await);
    let commits = "SELECT publication_id, branch, commit_id FROM publication ORDER BY 1";
    let expected = json!([[1, "main", "c1"], [2, "main", "c2"], [4, "v2", "c1"]]);
    assert_eq!(rows(&store, commits).await, expected);
    let files = "SELECT publication_id, path, is_new, seen_ms FROM publication_file ORDER BY 1, 2";
    let expected = json!([
        [1, "README.md", 1, 30],
        [1, "a/cfg.json", 1, 10],
        [1, "b/cfg.json", 0, 30],
        [2, "README.md", 1, 20],
        [4, "a/cfg.json", 0, 40],
    ]);
    assert_eq!(rows(&store, files).await, expected);
}

#[tokio::test]
async fn a_database_that_an_earlier_version_wrote_goes_on() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("runs.db");
    let mut old = Vec::new();
    GzDecoder::new(OLD).read_to_end(&mut old).unwrap();
    fs::write(&path, old).unwrap();
    let store = Store::open(&path).await.unwrap();
    assert!(is_whole(&store).await);
    let result = "SELECT sweep, status, hookpoint, n_tokens, round(fvu, 4), round(fvu_eval, 4) FROM result ORDER BY sae_id";
    let expected = json!([
        ["tiny", "done", "layers.0", 4096, 0.4466, 0.4156],
        ["tiny", "done", "layers.1.mlp", 4096, 0.4057, 0.3876],
        ["tiny", "done", "layers.2", 4096, 0.5203, 0.4845],
        ["cut", "running", "layers.0", 3072, 0.4125, null],
        ["cut", "running", "layers.1.mlp", 3072, 0.3795, null],
        ["cut", "running", "layers.2", 3072, 0.4641, null],
    ]);
    assert_eq!(rows(&store, result).await, expected);
    let totals = "SELECT count(*) FROM metric AS last WHERE n_tokens_so_far <> (
                      SELECT sum(n_tokens) FROM metric WHERE sae_id = last.sae_id AND step <= last.step)";
    assert_eq!(rows(&store, totals).await, json!([[0]]));
    let open = store.open_streams().await.unwrap();
    assert_eq!(open.len(), 1);
    store.abandon_dead_attempts().await.unwrap();
    let cut = rows(
        &store,
        "SELECT job_id FROM job WHERE status = 'interrupted'",
    )
    .await;
    let job = store.job(cut[0][0].as_str().unwrap()).await.unwrap();
    assert_eq!(job.attempts[0].status, AttemptStatus::Crashed);
}
