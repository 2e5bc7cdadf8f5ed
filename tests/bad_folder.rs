//! Runs folders that cannot be used: because of permissions, or of what is there. Nothing in them is changed.

use crate::common::{Workspace, finish, fixture, text};
use sqlx::{ConnectOptions, Connection};
use std::fs;
use std::path::Path;

/// Every command that opens the database.
const COMMANDS: [&[&str]; 5] = [
    &["tiny.toml"],
    &["tiny.toml", "--fresh"],
    &["ls"],
    &["show", "k=4"],
    &["sql", "SELECT 1"],
];

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    // Not by permissions: they do not bind root.
    let workspace = Workspace::with_small_sweep();
    workspace.write("file", "");
    for folder in ["file/runs", "/proc/runs"] {
        let set = format!("runs_dir={folder}");
        workspace
            .run(&["tiny.toml", "--set", &set])
            .refuses(&["cannot write to the runs folder", folder])
            .hints("`--runs-dir DIR`");
    }
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let args = ["train", text(&model), text(&dataset), "--ctx_len", "64"];
    workspace
        .run(&[&args[..], &["--save_dir", "file/runs"]].concat())
        .refuses(&["cannot write to the runs folder"])
        .hints("`--runs-dir DIR`");
    assert!(!workspace.path("runs").exists());
}

#[test]
fn a_foreign_file_in_place_of_the_database_is_left_alone() {
    let workspace = Workspace::with_small_sweep();
    let notes = "no database, but long enough to have a header ".repeat(40);
    workspace.write("runs/runs.db", &notes);
    for args in COMMANDS {
        workspace
            .run(args)
            .refuses(&["runs.db` is not an SQLite database"])
            .hints("nothing was changed");
    }
    assert_eq!(
        fs::read_to_string(workspace.path("runs/runs.db")).unwrap(),
        notes
    );
    assert!(workspace.trained().is_empty());
}

#[test]
fn a_database_of_another_program_is_left_alone() {
    let workspace = Workspace::with_small_sweep();
    fs::create_dir(workspace.path("runs")).unwrap();
    execute(&workspace, "CREATE TABLE bookmark (url TEXT)");
    let before = fs::read(workspace.path("runs/runs.db")).unwrap();
    for args in COMMANDS {
        workspace
            .run(args)
            .refuses(&["runs.db` is a database of another program"])
            .hints("nothing was changed");
    }
    assert!(fs::read(workspace.path("runs/runs.db")).unwrap() == before);
}

#[test]
fn a_database_of_another_version_is_left_alone() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let versions = [
        (
            "UPDATE _sqlx_migrations SET version = 20261128000001",
            "runs.db` has schema 20261128000001, which only an unreleased version of sae-run knows",
            "choose another with `runs_dir`",
        ),
        (
            "UPDATE _sqlx_migrations SET version = 29990101000000",
            "runs.db` has schema 29990101000000, this version knows schemas up to",
            "a newer one",
        ),
    ];
    for (statement, message, hint) in versions {
        execute(&workspace, statement);
        let database = || fs::read(workspace.path("runs/runs.db")).unwrap();
        let (before, weights) = (database(), workspace.files("runs/tiny"));
        for args in COMMANDS {
            workspace.run(args).refuses(&[message]).hints(hint);
        }
        assert!(database() == before, "the database was changed");
        assert!(workspace.files("runs/tiny") == weights, "a run was changed");
    }
}

/// Changes the database as another program would.
pub(crate) fn execute(workspace: &Workspace, statement: &'static str) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        let path = workspace.path("runs/runs.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut connection = options.create_if_missing(true).connect().await.unwrap();
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_disk_that_refuses_to_grow_a_file_is_reported_in_our_message() {
    let workspace = Workspace::with_small_sweep();
    // The kernel answers EFBIG, as a disk with an error answers EIO: SQLite has one code for both.
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let args = ["-c", limited, env!("CARGO_BIN_EXE_sae-run"), "tiny.toml"];
    let outcome = finish(workspace.command_of(Path::new("/bin/sh"), &args));
    outcome
        .refuses(&[
            "the database `",
            "runs.db` cannot be read or written: the disk refuses it",
        ])
        .hints("`ulimit -f`");
    workspace.run(&["tiny.toml"]).succeeds();
}
