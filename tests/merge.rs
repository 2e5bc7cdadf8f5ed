//! Several runs folders: one that becomes part of another, and several that are read together.

use crate::common::{Files, Workspace, replace_line, signal, tiny_sweep_with, wait_for_end};
use crate::interrupt;
use serde_json::{Value, json};
use std::fs;

/// A folder with the runs folders `ana` and `ben`. They share one of three jobs, which have the names of their sweeps.
fn two_folders() -> Workspace {
    let workspace = Workspace::new();
    for (name, k) in [("ana", "[4, 8]"), ("ben", "[8, 16]")] {
        let sweep = tiny_sweep_with("name = ", &format!("name = '{name}'\nruns_dir = '{name}'"));
        let sweep = replace_line(&sweep, "k = ", &format!("k = {k}"));
        let sweep = replace_line(&sweep, "expansion_factor", "expansion_factor = [2]");
        let sweep = replace_line(&sweep, "hookpoints", "hookpoints = [['layers.0']]");
        let file = format!("{name}.toml");
        workspace.write(&file, sweep);
        workspace.run(&[&file]).succeeds();
    }
    workspace
}

fn rows(workspace: &Workspace, folders: &[&str], statement: &str) -> Vec<Value> {
    let folders = folders.iter().flat_map(|folder| ["--runs-dir", folder]);
    let args: Vec<&str> = ["sql", "--json", statement]
        .into_iter()
        .chain(folders)
        .collect();
    workspace.run(&args).succeeds().listed("rows")
}

const RESULTS: &str =
    "SELECT sweep, job, status, step, fvu, l0 FROM result ORDER BY sweep, ordinal";

#[test]
fn another_folder_becomes_part_of_this_one() {
    let workspace = two_folders();
    let [ana, ben] = ["ana", "ben"].map(|folder| rows(&workspace, &[folder], RESULTS));
    let (before, kept) = (workspace.files("ben"), workspace.files("ana/ana"));
    let merge = ["merge", "ben", "--runs-dir", "ana"];
    let outcome = workspace.run(&merge).succeeds();
    outcome.remarks(&["copying 1 job, ", "merged 1 job; 1 was here already"]);
    assert_eq!(rows(&workspace, &["ana"], RESULTS), [ana, ben].concat());
    assert!(
        workspace.files("ben") == before,
        "the other folder was changed"
    );
    assert!(
        workspace.files("ana/ana") == kept,
        "what was here was changed"
    );
    let rows = |statement| rows(&workspace, &["ana"], statement);
    assert_eq!(
        json!(rows("SELECT count(*) AS n FROM job")),
        json!([{"n": 3}])
    );
    assert_eq!(
        json!(rows("SELECT * FROM pragma_foreign_key_check")),
        json!([])
    );
    // Its SAEs are there, its sweep is done here, and a second merge has nothing to do.
    let dir = rows("SELECT dir FROM job JOIN sae USING (job_id) WHERE k = 16")[0]["dir"].clone();
    let dir = workspace.path("ana").join(dir.as_str().unwrap());
    assert!(dir.join("layers.0/sae.safetensors").is_file());
    let again = workspace
        .run(&["ben.toml", "--set", "runs_dir=ana"])
        .succeeds();
    again.remarks(&["all 2 jobs are done already"]);
    let files = workspace.files("ana");
    workspace
        .run(&merge)
        .succeeds()
        .remarks(&["merged 0 jobs; 2 were here already"]);
    let weights = |files: &Files| {
        let mut files = files.clone();
        files.retain(|path, _| path.ends_with(".safetensors"));
        files
    };
    assert!(weights(&workspace.files("ana")) == weights(&files));
    assert!(fs::read_dir(workspace.path("ana")).unwrap().all(|entry| {
        !entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".merging")
    }));
}

#[test]
fn a_folder_is_merged_into_one_that_is_not_there_yet() {
    let workspace = two_folders();
    for folder in ["ana", "ben"] {
        workspace
            .run(&["merge", folder, "--runs-dir", "all"])
            .succeeds();
    }
    let both = rows(&workspace, &["all"], RESULTS);
    assert_eq!(both, rows(&workspace, &["ana", "ben"], RESULTS));
    assert_eq!(both.len(), 4);
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let workspace = two_folders();
    let merge = |other: &str| workspace.run(&["merge", other, "--runs-dir", "ana"]);
    merge("nothing").refuses(&["there is no database at `nothing/runs.db`"]);
    merge("ana").refuses(&["is this runs folder itself"]);
    workspace.write(
        "bad/runs.db",
        "no database, but long enough to have a header ".repeat(40),
    );
    merge("bad").refuses(&["runs.db` is not an SQLite database"]);
    assert_eq!(rows(&workspace, &["ana"], RESULTS).len(), 2);
}

/// What a killed run left continues in the folder that it became part of.
#[test]
fn an_unfinished_job_continues_where_it_was_merged() {
    let workspace = interrupt::workspace();
    let running = interrupt::start(&workspace);
    let worker = interrupt::worker_pid(&workspace);
    // Another process is at it.
    let holder = format!("process {} on ", running.pid());
    let merge = ["merge", "runs", "--runs-dir", "merged"];
    workspace
        .run(&merge)
        .refuses(&[&holder, "works in `"])
        .hints("wait for it to end");
    running.kill();
    wait_for_end(worker);
    let before = workspace.files("runs");
    workspace.run(&merge).succeeds().remarks(&["merged 4 jobs"]);
    assert!(
        workspace.files("runs") == before,
        "the other folder was changed"
    );
    fs::rename(workspace.path("runs"), workspace.path("moved")).unwrap();
    fs::rename(workspace.path("merged"), workspace.path("runs")).unwrap();
    interrupt::goes_on_to_the_same_end(&workspace);
}

#[test]
fn a_job_that_is_trained_here_now_is_not_replaced() {
    let workspace = interrupt::workspace();
    workspace
        .run(&["tiny.toml", "--set", "runs_dir=done"])
        .succeeds();
    let running = interrupt::start(&workspace);
    let worker = interrupt::worker_pid(&workspace);
    signal(worker, "STOP");
    let merge = ["merge", "done"];
    let holder = format!("process {} on ", running.pid());
    workspace
        .run(&merge)
        .refuses(&[&holder])
        .hints("nothing was changed");
    signal(worker, "CONT");
    running.kill();
    wait_for_end(worker);
    workspace.run(&merge).succeeds().remarks(&["merged 4 jobs"]);
    interrupt::ended_the_same(&workspace);
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    outcome.remarks(&["all 4 jobs are done already"]);
}

#[test]
fn several_folders_are_read_together() {
    let workspace = two_folders();
    let folders = ["--runs-dir", "ana", "--runs-dir", "ben"];
    let run = |args: &[&str]| workspace.run(&[args, &folders[..]].concat()).succeeds();
    let sweeps = run(&["ls", "--json"]).listed("sweeps");
    let mut names: Vec<_> = sweeps.iter().map(|row| row["sweep"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["ana", "ben"]);
    let saes = run(&["ls", "--json", "--where", "k > 0"]).listed("saes");
    assert_eq!(saes.len(), 4);
    for row in &saes {
        let checkpoint = row["checkpoint"].as_str().unwrap();
        assert!(fs::metadata(checkpoint).is_ok(), "{checkpoint}");
    }
    assert_eq!(rows(&workspace, &["ana", "ben"], RESULTS).len(), 4);
    run(&["report", "-o", "page.html"]).remarks(&["of 2 sweeps"]);
    let page = fs::read_to_string(workspace.path("page.html")).unwrap();
    assert!(page.contains("k=4") && page.contains("k=16"));
    workspace
        .run(&["ls", "--runs-dir", "ana", "--runs-dir", "nothing"])
        .refuses(&["there is no database at `"]);
    // Another sweep of the same name.
    let sweep = fs::read_to_string(workspace.path("ben.toml")).unwrap();
    workspace.write("third.toml", sweep.replace("'ben'", "'ana'"));
    workspace
        .run(&["third.toml", "--set", "runs_dir=third"])
        .succeeds();
    let outcome = workspace
        .run(&["ls", "--runs-dir", "ana", "--runs-dir", "third"])
        .succeeds();
    outcome.remarks(&["sweep `ana` of `third` is listed as `ana-2`"]);
}

/// After `kill -9` the database has jobs as running. Commands that only read say what is so.
#[test]
fn what_a_killed_run_left_open_is_not_listed_as_running() {
    let workspace = interrupt::workspace();
    let running = interrupt::start(&workspace);
    let worker = interrupt::worker_pid(&workspace);
    let n_running = |workspace: &Workspace| {
        let sweeps = workspace.run(&["ls", "--json"]).succeeds();
        (
            sweeps.listed("sweeps")[0]["n_running"].clone(),
            sweeps.stderr,
        )
    };
    assert_eq!(n_running(&workspace), (json!(4), String::new()));
    signal(worker, "STOP");
    signal(running.pid(), "STOP");
    let lock = fs::File::open(workspace.stream_dir().join("worker.lock")).unwrap();
    signal(worker, "KILL");
    running.kill();
    wait_for_end(worker);
    lock.lock().unwrap();
    let (n, told) = n_running(&workspace);
    assert_eq!(n, json!(4), "a worker may still save");
    assert!(
        told.contains("4 jobs listed as running: the `sae-run` that trained them was killed"),
        "{told}"
    );
    drop(lock);
    assert_eq!(n_running(&workspace), (json!(0), String::new()));
    assert_eq!(
        workspace.sql_value("SELECT DISTINCT status FROM job"),
        "interrupted"
    );
    interrupt::goes_on_to_the_same_end(&workspace);
}
