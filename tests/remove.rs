//! `sae-run rm`: what is deleted, what is kept, and what stays untouched.

use crate::common::Workspace;
use std::fs::{self, File};
use std::process::Command;

fn two_sweeps() -> Workspace {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
        .run(&[
            "tiny.toml",
            "--set",
            "name=other",
            "--set",
            "vary.hookpoints=[['layers.0']]",
        ])
        .succeeds();
    workspace
}

#[test]
fn it_asks_and_keeps_what_another_sweep_asks_for() {
    let workspace = two_sweeps();
    let before = workspace.trained();
    workspace
        .run(&["rm", "tiny"])
        .refuses(&["no terminal"])
        .hints("--yes")
        .remarks(&["kept: ", "asked for by `other`", "to delete: 1 job"]);
    assert!(workspace.trained() == before, "something was deleted");
    workspace.run(&["rm", "--yes", "tiny"]).succeeds();
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 1);
    let dir = workspace.sql_value("SELECT dir FROM job");
    let dir = workspace.path("runs").join(dir.as_str().unwrap());
    assert!(dir.join("layers.0/cfg.json").is_file());
    workspace
        .run(&["rm", "--yes", "other"])
        .succeeds()
        .remarks(&["deleted 1 job"]);
    assert!(!workspace.path("runs/tiny").exists());
    assert!(!workspace.path("runs/other").exists());
    // It comes back when it is asked for again.
    workspace.run(&["tiny.toml"]).succeeds();
    assert_eq!(
        workspace.sql_value("SELECT count(*) FROM job WHERE status = 'done'"),
        2
    );
}

#[test]
fn a_path_outside_of_the_runs_folder_is_not_believed() {
    let workspace = two_sweeps();
    workspace.write("precious/file", "kept");
    crate::bad_folder::execute(
        &workspace,
        "UPDATE job SET dir = '../precious' WHERE dir LIKE '%layers.1%'",
    );
    workspace.run(&["rm", "--yes", "tiny"]).exits(2);
    assert!(workspace.path("precious/file").is_file());
}

#[test]
fn nothing_is_deleted_under_somebody_who_works_there() {
    let workspace = two_sweeps();
    let before = workspace.trained();
    let open = |path: &str| File::create(workspace.path(path)).unwrap();
    let at_the_folder = open("runs/.lock");
    at_the_folder.lock().unwrap();
    let refused = workspace.run(&["rm", "--yes", "tiny"]);
    refused
        .refuses(&["is in use by"])
        .hints("wait for it to end");
    drop(at_the_folder);
    let stream = workspace.stream_dir();
    let at_the_stream = File::create(stream.join("worker.lock")).unwrap();
    at_the_stream.lock().unwrap();
    let refused = workspace.run(&["rm", "--yes", "tiny"]);
    refused.refuses(&["worker"]).hints("wait for it to end");
    drop(at_the_stream);
    assert!(workspace.trained() == before, "something was deleted");
    assert_eq!(workspace.sql_value("SELECT count(*) FROM job"), 2);
    workspace.run(&["rm", "--yes", "tiny"]).succeeds();
}

/// Rows go first. What a crash after that leaves is not believed by the next run.
#[test]
fn folders_that_a_crash_left_are_trained_anew() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let trained = workspace.trained();
    // All folders are back, or all but those that go first: the streams.
    for streams_are_left in [true, false] {
        copy(&workspace, "runs/tiny", "kept");
        workspace.run(&["rm", "--yes", "tiny"]).succeeds();
        copy(&workspace, "kept", "runs/tiny");
        fs::remove_dir_all(workspace.path("kept")).unwrap();
        if !streams_are_left {
            fs::remove_dir_all(workspace.path("runs/tiny/.streams")).unwrap();
        }
        workspace.run(&["tiny.toml"]).succeeds();
        assert!(workspace.trained() == trained);
        let sql = "SELECT count(*) FROM result WHERE status = 'done' AND fvu > 0";
        assert_eq!(workspace.sql_value(sql), 3);
    }
}

fn copy(workspace: &Workspace, from: &str, to: &str) {
    let mut copy = Command::new("cp");
    copy.arg("-a")
        .args([from, to].map(|path| workspace.path(path)));
    assert!(copy.status().unwrap().success());
}
