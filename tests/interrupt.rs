//! Runs that are stopped or killed: the next one resumes, and is bit-identical to one that was
//! never disturbed.

use crate::common::{Running, Workspace, replace_line, signal, tiny_sweep, until, wait_for_end};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::sync::LazyLock;

const N_STEPS: u64 = 320;

/// Four jobs; long enough to be interrupted, with a checkpoint now and then.
fn long_sweep() -> String {
    let max_examples = format!("max_examples = {}", 2 * N_STEPS);
    [
        // A stop mostly comes between two reports.
        ("batch_size", "batch_size = 2\nlog_every = 3"),
        ("max_examples", &max_examples),
        ("save_every", "save_every = 80"),
        ("expansion_factor", "expansion_factor = [2]"),
    ]
    .into_iter()
    .fold(tiny_sweep(), |sweep, (start, line)| {
        replace_line(&sweep, start, line)
    })
}

/// What a run left: the job folders' files, and the sums of every step.
#[derive(PartialEq)]
struct Left {
    files: BTreeMap<String, Vec<u8>>,
    sums: Vec<Value>,
}

const SUMS: &str =
    "SELECT job_id, name, step, n_tokens, squared_error, total_variance, l0_sum, n_dead
    FROM metric JOIN sae USING (sae_id) ORDER BY job_id, name, step";

fn left(workspace: &Workspace) -> Left {
    Left {
        files: workspace.trained(),
        sums: workspace.sql(SUMS),
    }
}

/// What an undisturbed run leaves.
static UNDISTURBED: LazyLock<Left> = LazyLock::new(|| {
    let workspace = workspace();
    workspace.run(&["tiny.toml"]).succeeds();
    left(&workspace)
});

pub(crate) fn workspace() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", long_sweep());
    workspace
}

/// Events of a kind so far.
fn count(workspace: &Workspace, kind: &str) -> usize {
    let events = workspace.events();
    events.iter().filter(|event| event["event"] == kind).count()
}

/// Waits until the worker has reported `n` events of a kind.
pub(crate) fn reported(workspace: &Workspace, kind: &str, n: usize) {
    until(&format!("event `{kind}`"), || {
        (count(workspace, kind) >= n).then_some(())
    });
    assert_eq!(count(workspace, "finished"), 0, "too late to disturb it");
}

/// Starts the sweep and waits until each job has a checkpoint.
pub(crate) fn start(workspace: &Workspace) -> Running {
    let running = workspace.start(&["tiny.toml"]);
    reported(workspace, "checkpoint", 4);
    running
}

pub(crate) fn worker_pid(workspace: &Workspace) -> u32 {
    let events = workspace.events();
    let started = events
        .iter()
        .rfind(|event| event["event"] == "started")
        .unwrap();
    u32::try_from(started["pid"].as_u64().unwrap()).unwrap()
}

/// Runs the sweep again: it resumes from a checkpoint and ends as if nothing had happened.
#[track_caller]
pub(crate) fn goes_on_to_the_same_end(workspace: &Workspace) {
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["all 4 jobs are done"]);
    ended_the_same(workspace);
    let ready = workspace
        .events()
        .into_iter()
        .rfind(|event| event["event"] == "ready")
        .unwrap();
    let first_step = ready["first_step"].as_u64().unwrap();
    assert!(
        0 < first_step && first_step < N_STEPS,
        "it began at {first_step}"
    );
}

#[track_caller]
pub(crate) fn ended_the_same(workspace: &Workspace) {
    let left = left(workspace);
    let names: Vec<_> = UNDISTURBED.files.keys().collect();
    assert_eq!(left.files.keys().collect::<Vec<_>>(), names);
    for (name, bytes) in &UNDISTURBED.files {
        assert!(left.files[name] == *bytes, "{name} differs");
    }
    assert_eq!(
        left.sums.len(),
        UNDISTURBED.sums.len(),
        "steps are lost or doubled"
    );
    for (ours, undisturbed) in left.sums.iter().zip(&UNDISTURBED.sums) {
        assert_eq!(ours, undisturbed);
    }
    assert!(
        workspace.files("runs/tiny/.state").is_empty(),
        "a state stayed"
    );
}

/// The status of the jobs, which is the same for all.
fn job_status(workspace: &Workspace) -> Value {
    workspace.sql_value("SELECT DISTINCT status FROM job")
}

fn attempts(workspace: &Workspace) -> Value {
    json!(workspace.sql("SELECT status FROM attempt ORDER BY number"))
}

#[test]
fn ctrl_c_stops_after_a_checkpoint() {
    for name in ["INT", "TERM", "USR1"] {
        let workspace = workspace();
        let running = start(&workspace);
        signal(running.pid(), name);
        let remarks = [
            "stopping after a checkpoint",
            "stopped; run the same command again",
        ];
        running.wait().exits(130).remarks(&remarks);
        assert_eq!(attempts(&workspace), json!([{"status": "interrupted"}]));
        assert_eq!(job_status(&workspace), "stopped");
        // It stopped at once, not at the next regular checkpoint.
        let last = workspace.events().pop().unwrap();
        assert_eq!(last["event"], "interrupted");
        let step = &last["step"];
        let saved =
            workspace.sql("SELECT DISTINCT max(step) AS step FROM checkpoint GROUP BY job_id");
        assert_eq!(json!(saved), json!([{"step": step}]));
        goes_on_to_the_same_end(&workspace);
        assert_eq!(
            attempts(&workspace),
            json!([{"status": "interrupted"}, {"status": "done"}])
        );
    }
}

#[test]
fn ctrl_c_twice_stops_a_worker_that_does_not_answer() {
    let workspace = workspace();
    let mut running = start(&workspace);
    let worker = worker_pid(&workspace);
    signal(worker, "STOP");
    signal(running.pid(), "INT");
    running.says("again to stop at once");
    signal(running.pid(), "INT");
    running.wait().exits(130);
    wait_for_end(worker);
    assert_eq!(attempts(&workspace), json!([{"status": "interrupted"}]));
    assert_eq!(job_status(&workspace), "stopped");
    goes_on_to_the_same_end(&workspace);
}

#[test]
fn no_token_is_lost_where_reports_are_rare() {
    let workspace = workspace();
    let args = ["tiny.toml", "--set", "train.log_every=11"];
    let running = workspace.start(&args);
    reported(&workspace, "checkpoint", 4);
    signal(running.pid(), "INT");
    running.wait().exits(130);
    workspace.run(&args).succeeds();
    let weights = |files: &BTreeMap<String, Vec<u8>>| {
        let mut weights = files.clone();
        weights.retain(|path, _| path.ends_with(".safetensors"));
        weights
    };
    let (ours, undisturbed) = (workspace.trained(), &UNDISTURBED.files);
    assert!(weights(&ours) == weights(undisturbed), "other weights");
    let sql =
        "SELECT DISTINCT sum(n_tokens) AS n_tokens, max(step) AS step FROM metric GROUP BY sae_id";
    let expected = json!([{"n_tokens": N_STEPS * 2 * 64, "step": N_STEPS}]);
    assert_eq!(json!(workspace.sql(sql)), expected);
}

#[test]
fn a_killed_worker_is_told_and_the_next_goes_on() {
    let workspace = workspace();
    let running = start(&workspace);
    signal(worker_pid(&workspace), "KILL");
    running.wait().exits(1).remarks(&[
        "error: stream ",
        "SIGKILL",
        "hint: run the same command again",
        "worker.log",
    ]);
    assert_eq!(attempts(&workspace), json!([{"status": "crashed"}]));
    assert_eq!(job_status(&workspace), "failed");
    goes_on_to_the_same_end(&workspace);
}

#[test]
fn a_worker_killed_before_its_first_checkpoint_begins_anew() {
    let workspace = workspace();
    let running = workspace.start(&["tiny.toml", "--set", "train.save_every=100000"]);
    reported(&workspace, "progress", 3);
    signal(worker_pid(&workspace), "KILL");
    running.wait().exits(1);
    assert!(workspace.trained().is_empty());
    workspace.run(&["tiny.toml"]).succeeds();
    ended_the_same(&workspace);
}

#[test]
fn a_worker_whose_coordinator_is_killed_saves_and_ends() {
    let workspace = workspace();
    let running = start(&workspace);
    let worker = worker_pid(&workspace);
    running.kill();
    wait_for_end(worker);
    let last = workspace.events().pop().unwrap();
    assert_eq!(last["event"], "interrupted");
    goes_on_to_the_same_end(&workspace);
    assert_eq!(
        attempts(&workspace),
        json!([{"status": "interrupted"}, {"status": "done"}])
    );
}

#[test]
fn a_run_right_after_a_killed_one_loses_nothing() {
    let workspace = workspace();
    // The worker of the killed one is still saving, or at its last step.
    start(&workspace).kill();
    goes_on_to_the_same_end(&workspace);
    let expected = json!([{"status": "interrupted"}, {"status": "done"}]);
    assert_eq!(attempts(&workspace), expected);
}

#[test]
fn a_worker_that_outlives_its_coordinator_is_waited_for() {
    let workspace = workspace();
    let running = start(&workspace);
    let worker = worker_pid(&workspace);
    running.kill();
    wait_for_end(worker);
    // What a worker holds as long as it lives. One that is made to live longer will not do: the
    // kernel hangs up on stopped processes whose parent dies.
    let lock = File::open(workspace.stream_dir().join("worker.lock")).unwrap();
    lock.lock().unwrap();
    let mut next = workspace.start(&["tiny.toml"]);
    next.says(&format!(
        "waiting for worker {worker} of an earlier `sae-run`"
    ));
    assert_eq!(attempts(&workspace), json!([{"status": "running"}]));
    drop(lock);
    next.wait().succeeds();
    ended_the_same(&workspace);
    let expected = json!([{"status": "interrupted"}, {"status": "done"}]);
    assert_eq!(attempts(&workspace), expected);
}

#[test]
fn an_edited_sweep_takes_over_what_a_killed_one_has_done() {
    let workspace = workspace();
    let running = workspace.start(&["tiny.toml", "--set", "vary.k=[4]"]);
    reported(&workspace, "checkpoint", 2);
    running.kill();
    // The jobs with k = 4 are now in another stream, and ahead of those with k = 8.
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["all 4 jobs are done"]);
    ended_the_same(&workspace);
    let streams = "SELECT status FROM attempt ORDER BY attempt_id";
    let expected = json!([{"status": "interrupted"}, {"status": "done"}]);
    assert_eq!(json!(workspace.sql(streams)), expected);
}

#[test]
fn when_all_are_killed_in_the_middle_of_a_line_the_next_run_goes_on() {
    let workspace = workspace();
    let running = start(&workspace);
    let worker = worker_pid(&workspace);
    signal(running.pid(), "STOP");
    signal(worker, "KILL");
    wait_for_end(worker);
    running.kill();
    let events = workspace.stream_dir().join("events.jsonl");
    let mut events = OpenOptions::new().append(true).open(events).unwrap();
    events
        .write_all(b"{\"seq\":123456,\"time_ms\":1,\"att")
        .unwrap();
    goes_on_to_the_same_end(&workspace);
    assert_eq!(
        attempts(&workspace),
        json!([{"status": "crashed"}, {"status": "done"}])
    );
}

#[test]
fn a_run_that_is_disturbed_again_and_again_comes_to_the_same_end() {
    let workspace = workspace();
    for round in 1..=4 {
        let running = workspace.start(&["tiny.toml"]);
        reported(&workspace, "progress", 14 * round);
        match round % 2 {
            0 => signal(running.pid(), "INT"),
            _ => signal(worker_pid(&workspace), "KILL"),
        }
        running.wait();
    }
    goes_on_to_the_same_end(&workspace);
}

#[test]
fn a_lost_database_is_made_again_from_the_events() {
    let workspace = workspace();
    let running = start(&workspace);
    signal(running.pid(), "INT");
    running.wait().exits(130);
    fs::remove_file(workspace.path("runs/runs.db")).unwrap();
    goes_on_to_the_same_end(&workspace);
}

#[test]
fn lost_events_do_not_stop_the_next_run() {
    let workspace = workspace();
    let running = start(&workspace);
    signal(running.pid(), "INT");
    running.wait().exits(130);
    fs::remove_file(workspace.stream_dir().join("events.jsonl")).unwrap();
    goes_on_to_the_same_end(&workspace);
}

#[test]
fn a_worker_that_others_stop_is_no_success() {
    let workspace = workspace();
    let running = start(&workspace);
    signal(worker_pid(&workspace), "TERM");
    running
        .wait()
        .exits(130)
        .remarks(&["stopped; run the same command again"]);
    assert_eq!(job_status(&workspace), "interrupted");
    goes_on_to_the_same_end(&workspace);
}
