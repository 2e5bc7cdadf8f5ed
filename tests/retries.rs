//! Streams whose workers die are tried again, those whose input is wrong are not.

use crate::common::{Running, Workspace, replace_line, signal, text, tiny_sweep, until};
use serde_json::{Value, json};
use std::fs;

/// One long job, with a checkpoint now and then.
fn workspace(retries: u32) -> Workspace {
    let lines = [
        ("batch_size", "batch_size = 2".to_owned()),
        ("max_examples", "max_examples = 640".into()),
        ("save_every", "save_every = 40".into()),
        ("expansion_factor", "expansion_factor = [2]".into()),
        ("k = ", "k = [4]".into()),
        ("retries", format!("retries = {retries}")),
    ];
    let change = |sweep: String, (start, line): (&str, String)| replace_line(&sweep, start, &line);
    let workspace = Workspace::new();
    workspace.write("tiny.toml", lines.into_iter().fold(tiny_sweep(), change));
    workspace
}

fn attempts(workspace: &Workspace) -> Value {
    json!(workspace.sql("SELECT status FROM attempt ORDER BY number"))
}

/// Kills the worker of attempt `number` once it has trained for a while.
fn kill_worker(workspace: &Workspace, running: &mut Running, number: u64) {
    let pid = until("the worker", || {
        assert!(
            running.status().is_none(),
            "it ended before attempt {number}"
        );
        if !workspace.path("runs/tiny/.streams").is_dir() {
            return None;
        }
        let events = workspace.events();
        let of_attempt = || events.iter().filter(|event| event["attempt"] == number);
        let n_reports = of_attempt()
            .filter(|event| event["event"] == "progress")
            .count();
        let started = of_attempt().find(|event| event["event"] == "started")?;
        (n_reports > 5).then(|| started["pid"].as_u64().unwrap())
    });
    signal(u32::try_from(pid).unwrap(), "KILL");
}

#[test]
fn a_killed_worker_is_followed_by_another_and_the_bits_are_the_same() {
    let undisturbed = workspace(0);
    undisturbed.run(&["tiny.toml"]).succeeds();
    let workspace = workspace(2);
    let mut running = workspace.start(&["tiny.toml"]);
    kill_worker(&workspace, &mut running, 1);
    running.says("continuing from the last checkpoints in 1 s");
    kill_worker(&workspace, &mut running, 2);
    running.says("continuing from the last checkpoints in 2 s");
    let outcome = running.wait().succeeds();
    outcome.remarks(&["SIGKILL", "all 2 jobs are done"]);
    let expected = json!([{"status": "crashed"}, {"status": "crashed"}, {"status": "done"}]);
    assert_eq!(attempts(&workspace), expected);
    assert!(workspace.trained() == undisturbed.trained());
}

#[test]
fn retries_come_to_an_end() {
    let workspace = workspace(1);
    let mut running = workspace.start(&["tiny.toml"]);
    for number in [1, 2] {
        kill_worker(&workspace, &mut running, number);
    }
    running
        .wait()
        .exits(1)
        .remarks(&["SIGKILL", "hint: run the same command again"]);
    let expected = json!([{"status": "crashed"}, {"status": "crashed"}]);
    assert_eq!(attempts(&workspace), expected);
}

#[test]
fn a_stop_is_no_reason_to_try_again() {
    let workspace = workspace(2);
    let mut running = workspace.start(&["tiny.toml"]);
    running.says("step ");
    signal(running.pid(), "INT");
    running.wait().exits(130);
    assert_eq!(attempts(&workspace), json!([{"status": "interrupted"}]));
}

#[test]
fn bad_input_is_not_tried_again() {
    let workspace = workspace(2);
    let good = fs::read_to_string(crate::common::fixture("tiny.jsonl")).unwrap();
    workspace.write("texts.jsonl", good + "{\"text\": 7}\n");
    let dataset = workspace.path("texts.jsonl");
    let line = format!("dataset = '{}'", text(&dataset));
    let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    workspace.write("tiny.toml", replace_line(&sweep, "dataset", &line));
    workspace.run(&["tiny.toml"]).fails(&["texts.jsonl"]);
    assert_eq!(attempts(&workspace), json!([{"status": "failed"}]));
}
