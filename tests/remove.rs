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
        .remarks(&["kept: ", "part of `other`", "to delete: 1 job"]);
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
    let job = workspace.sql_value("SELECT job_id FROM job WHERE dir LIKE '%layers.1%'");
    let lock = plan::runs_layout::lock_path(job.as_str().unwrap());
    let lock = files::Claim::take(&workspace.path("runs").join(lock)).unwrap();
    let holder = format!("process {} on ", std::process::id());
    let refused = workspace.run(&["rm", "--yes", "tiny"]);
    refused
        .refuses(&[&holder, "trains job "])
        .hints("wait for it to end");
    drop(lock);
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

/// The jobs and what they had: by their names, in the order of time.
fn finals(workspace: &Workspace) -> Vec<serde_json::Value> {
    workspace
        .sql("SELECT job_id, checkpoint.created_ms FROM checkpoint WHERE is_final ORDER BY job_id")
}

#[test]
fn fresh_asks_and_says_what_goes() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let (before, rows) = (workspace.trained(), finals(&workspace));
    let outcome = workspace.run(&["tiny.toml", "--fresh"]);
    outcome
        .refuses(&["there is no terminal to ask at"])
        .hints("nothing was changed; `--fresh --yes` trains them again without asking")
        .remarks(&["done, 8 steps, ", "to delete: 2 jobs with 16 steps, "]);
    assert!(workspace.trained() == before, "something was deleted");
    assert_eq!(finals(&workspace), rows);
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["done already"]);
    // `--yes` is of `--fresh` alone.
    workspace.run(&["tiny.toml", "--yes"]).exits(2);
    workspace.run(&["tiny.toml", "--fresh", "-y"]).succeeds();
    assert_ne!(finals(&workspace), rows);
    assert_eq!(workspace.sql_value("SELECT count(*) FROM attempt"), 2);
}

#[test]
fn fresh_does_not_ask_where_there_is_nothing_to_lose() {
    let workspace = Workspace::with_small_sweep();
    let outcome = workspace.run(&["tiny.toml", "--fresh"]).succeeds();
    assert!(!outcome.stderr.contains("to forget"), "{outcome}");
}

#[test]
fn fresh_keeps_what_another_sweep_asks_for() {
    let workspace = two_sweeps();
    let before = finals(&workspace);
    let outcome = workspace.run(&["tiny.toml", "--fresh", "--yes"]).succeeds();
    outcome.remarks(&["kept: ", "part of `other`", "to delete: 1 job with 8 steps"]);
    let after = finals(&workspace);
    let kept: Vec<_> = after.iter().filter(|row| before.contains(row)).collect();
    assert_eq!((after.len(), kept.len()), (2, 1));
    let shared =
        "SELECT DISTINCT job_id FROM sweep_job JOIN sweep USING (sweep_id) WHERE name = 'other'";
    assert_eq!(
        kept[0]["job_id"],
        workspace.sql_value(&shared.replace("WHERE name", "WHERE sweep.name"))
    );
    // All its jobs are kept.
    let before = finals(&workspace);
    let other = [
        "tiny.toml",
        "--set",
        "name=other",
        "--set",
        "vary.hookpoints=[['layers.0']]",
        "--fresh",
    ];
    let outcome = workspace.run(&other).succeeds();
    outcome.remarks(&["kept: ", "the job is done already"]);
    assert_eq!(finals(&workspace), before);
}
