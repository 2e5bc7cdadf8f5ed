//! `sae-run verify-resume`: the proof on a job of the user's.

use crate::common::{Workspace, fixture, replace_line, small_sweep, text};
use std::fs;

/// Jobs whose training has much to remember.
fn trained() -> Workspace {
    let workspace = Workspace::new();
    let lines = "k = [4]\noptimizer = ['adam', 'signum']\ninit_seeds = [[0, 1]]";
    let sweep = replace_line(&small_sweep(), "k = ", lines);
    let sweep = replace_line(&sweep, "hookpoints", "hookpoints = [['layers.1.mlp']]");
    let lines = "batch_size = 4\ngrad_acc_steps = 2\nk_decay_steps = 5\neval_fraction = 0.1";
    workspace.write("tiny.toml", replace_line(&sweep, "batch_size", lines));
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

#[test]
fn a_job_is_trained_again_with_kills_and_ends_in_the_same_bits() {
    let workspace = trained();
    let before = workspace.files("runs/tiny");
    for job in workspace.sql("SELECT DISTINCT job_id FROM result") {
        let job = job["job_id"].as_str().unwrap();
        let args = ["verify-resume", job, "--steps", "7", "--kills", "4"];
        let outcome = workspace.run(&args).succeeds();
        let outcome = outcome.remarks(&["killed after step", "resume is exact"]);
        let n_equal = outcome.stdout.matches("bit-identical").count();
        assert_eq!(n_equal, 2, "one for each seed\n{outcome}");
    }
    assert!(
        workspace.files("runs/tiny") == before,
        "nothing else was touched"
    );
}

#[test]
fn what_cannot_be_verified_is_told() {
    let workspace = Workspace::with_small_sweep();
    workspace
        .run(&["verify-resume", "k"])
        .refuses(&["no database"]);
    let dataset = workspace.path("texts.jsonl");
    fs::copy(fixture("tiny.jsonl"), &dataset).unwrap();
    let line = format!("dataset = '{}'", text(&dataset));
    workspace.write("tiny.toml", replace_line(&small_sweep(), "dataset", &line));
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
        .run(&["verify-resume", "k=9"])
        .refuses(&["no job", "k=9"]);
    workspace
        .run(&["verify-resume", "k", "--steps", "0"])
        .exits(2)
        .remarks(&["--steps"]);
    let jobs = workspace.sql("SELECT DISTINCT job_id FROM result ORDER BY job_id");
    let job = jobs[0]["job_id"].as_str().unwrap();
    let whole = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    let some: Vec<_> = whole.lines().skip(100).collect();
    fs::write(&dataset, some.join("\n")).unwrap();
    workspace
        .run(&["verify-resume", job])
        .refuses(&["changed since the plan was made"]);
}
