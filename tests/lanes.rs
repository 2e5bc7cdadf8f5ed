//! Several workers at the same time.

use crate::common::{Workspace, replace_line, signal, tiny_sweep};
use serde_json::{Value, json};

/// Three streams that take a while.
fn workspace() -> Workspace {
    let workspace = Workspace::new();
    let sweep = replace_line(&tiny_sweep(), "batch_size", "batch_size = 2");
    let sweep = replace_line(&sweep, "max_examples", "max_examples = 480");
    let sweep = replace_line(&sweep, "k = ", "k = [4]\nshuffle_seed = [1, 2, 3]");
    workspace.write(
        "tiny.toml",
        replace_line(&sweep, "expansion_factor", "expansion_factor = [2]"),
    );
    workspace
}

/// The most attempts that ran at the same time.
fn most_at_once(workspace: &Workspace) -> Value {
    workspace.sql_value(
        "SELECT max(n) AS n FROM (
             SELECT (
                 SELECT count(*) FROM attempt AS other
                 WHERE other.started_ms <= attempt.started_ms AND other.ended_ms > attempt.started_ms
             ) AS n
             FROM attempt
         )",
    )
}

#[test]
fn two_workers_share_the_machine_and_change_no_bit() {
    let one = workspace();
    one.run(&["tiny.toml"]).succeeds();
    assert_eq!(most_at_once(&one), 1);
    let two = workspace();
    let outcome = two.run(&["tiny.toml", "--jobs", "2"]).succeeds();
    outcome.remarks(&["all 6 jobs are done"]);
    assert_eq!(most_at_once(&two), 2);
    assert!(two.trained() == one.trained());
    let statuses = two.sql("SELECT DISTINCT status FROM attempt");
    assert_eq!(statuses, [json!({"status": "done"})]);
}

#[test]
fn workers_wait_where_their_memory_would_not_suffice() {
    let workspace = workspace();
    let plan = workspace
        .run(&["plan", "tiny.toml", "--json"])
        .succeeds()
        .json();
    let memory = &plan["streams"][0]["memory"];
    let keys = ["model_bytes", "sae_bytes", "workspace_bytes"];
    let n_bytes: u64 = keys.iter().map(|key| memory[key].as_u64().unwrap()).sum();
    let limit = format!("launch.memory_bytes={}", n_bytes * 3 / 2);
    let limited = ["tiny.toml", "--jobs", "3", "--set", &limit];
    workspace.run(&limited).succeeds();
    assert_eq!(most_at_once(&workspace), 1);
}

#[test]
fn a_stop_ends_all_workers_and_begins_no_other() {
    let workspace = workspace();
    let mut running = workspace.start(&["tiny.toml", "--jobs", "2"]);
    running.says("step ");
    signal(running.pid(), "INT");
    running.wait().exits(130);
    let attempts = workspace.sql("SELECT status FROM attempt");
    let interrupted = json!({"status": "interrupted"});
    assert!(
        attempts.len() <= 2 && attempts.contains(&interrupted),
        "{attempts:?}"
    );
    workspace.run(&["tiny.toml", "--jobs", "2"]).succeeds();
    let undisturbed = self::workspace();
    undisturbed.run(&["tiny.toml"]).succeeds();
    assert!(workspace.trained() == undisturbed.trained());
}

#[test]
fn devices_that_are_not_there_fail_their_streams() {
    let workspace = workspace();
    let outcome = workspace.run(&["tiny.toml", "--devices", "cuda:7,tpu"]);
    assert_eq!(outcome.status.code(), Some(2), "{outcome}");
    workspace
        .run(&["tiny.toml", "--device", "cpu", "--devices", "cpu"])
        .exits(2)
        .remarks(&["cannot be used with"]);
}
