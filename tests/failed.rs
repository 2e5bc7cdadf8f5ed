//! Jobs that failed: their reason is kept, and they are not trained again unless that is asked for.

use crate::common::{Workspace, fixture, replace_line, text, with_jobs};
use serde_json::json;
use std::fs;

const SHORT: &str = "batch_size = 8\nmax_examples = 64\nexpansion_factor = 2";

fn one_diverges() -> Workspace {
    let jobs = [
        ("good", "hookpoints=['layers.0']"),
        ("bad", "hookpoints=['layers.1'], lr=1e30"),
    ];
    with_jobs(SHORT, &jobs)
}

fn n_attempts(workspace: &Workspace, job: &str) -> serde_json::Value {
    workspace.sql_value(&format!(
        "SELECT count(*) FROM attempt_job JOIN sweep_listing USING (job_id) WHERE job = '{job}'"
    ))
}

#[test]
fn a_job_that_diverged_keeps_its_reason_and_is_left_out() {
    let workspace = one_diverges();
    let outcome = workspace
        .run(&["tiny.toml"])
        .fails(&["job `bad` (", "`layers.1` at step "]);
    let outcome = outcome
        .hints("lower `lr`")
        .remarks(&["1 of 2 jobs done, 1 failed"]);
    assert_eq!(outcome.stderr.matches("NaN").count(), 1, "{outcome}");
    assert!(!outcome.stderr.contains("checkpoint is kept"), "{outcome}");
    for status in ["done", "failed"] {
        assert!(outcome.stdout.contains(status), "{outcome}");
    }
    let reason = "NaN or infinite";
    let ls = workspace.run(&["ls", "tiny"]).succeeds();
    assert!(
        ls.stdout.contains(") failed: ") && ls.stdout.contains(reason),
        "{ls}"
    );
    let show = workspace.run(&["show", "bad"]).succeeds().stdout;
    assert!(
        show.contains("status     failed: `layers.1` at step "),
        "{show}"
    );
    assert!(show.contains("folder     none yet"), "{show}");
    let sweep = workspace.run(&["show", "tiny"]).succeeds().stdout;
    assert!(
        sweep.contains("bad (") && sweep.contains(") failed: ") && sweep.contains(reason),
        "{sweep}"
    );
    let kept = "SELECT job, status, failure IS NOT NULL AS has_reason FROM result ORDER BY job";
    let expected = json!([
        {"job": "bad", "status": "failed", "has_reason": 1},
        {"job": "good", "status": "done", "has_reason": 0},
    ]);
    assert_eq!(json!(workspace.sql(kept)), expected);
    workspace
        .run(&["publish", "bad", "--repo", "me/saes", "--dry-run"])
        .exits(2);

    let again = workspace
        .run(&["tiny.toml"])
        .fails(&["failed in an earlier run", reason]);
    again.remarks(&[
        "`--retry-failed`",
        "1 of 2 jobs done, 1 of them earlier, 1 failed",
    ]);
    assert_eq!(n_attempts(&workspace, "bad"), 1);
    let asked = workspace
        .run(&["tiny.toml", "--retry-failed"])
        .fails(&["failed: `layers.1`"]);
    assert!(!asked.stderr.contains("earlier run"), "{asked}");
    assert_eq!(n_attempts(&workspace, "bad"), 2);
    assert_eq!(n_attempts(&workspace, "good"), 1);
}

#[test]
fn verdicts_name_job_and_hookpoint() {
    let workspace = one_diverges();
    workspace.run(&["tiny.toml"]).exits(1);
    let rows = workspace.sql("SELECT sweep, job, hookpoint, is_fatal, hint FROM sae_verdict");
    let expected = json!([
        {"sweep": "tiny", "job": "bad", "hookpoint": "layers.1", "is_fatal": 1, "hint": "lower `lr`"}
    ]);
    assert_eq!(json!(rows), expected);
}

#[test]
fn what_a_worker_finds_wrong_is_the_failure_of_a_job_and_is_not_tried_again() {
    let workspace = with_jobs(SHORT, &[("a", "hookpoints=['layers.1']")]);
    let good = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    let sweep = fs::read_to_string(workspace.path("tiny.toml")).unwrap();
    let line = format!("dataset = '{}'", text(&workspace.path("texts.jsonl")));
    workspace.write("tiny.toml", replace_line(&sweep, "dataset", &line));
    workspace.write("texts.jsonl", good.clone() + "{\"text\": 7}\n");
    workspace.run(&["tiny.toml"]).fails(&["texts.jsonl"]);
    let again = workspace.run(&["tiny.toml"]).fails(&[
        "job `a` (",
        "failed in an earlier run",
        "texts.jsonl",
    ]);
    again.remarks(&["0 of 1 job done, 1 failed"]);
    assert_eq!(n_attempts(&workspace, "a"), 1);
    // Other data make another job.
    workspace.write("texts.jsonl", good);
    workspace.run(&["tiny.toml"]).succeeds();
}
