//! Training on the same sequences several times.

use crate::common::{Workspace, replace_line, small_sweep};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The small sweep on 64 sequences, with a learning rate that does not know the end.
fn sweep(epochs: &str) -> String {
    let lines = format!(
        "ctx_len = 64\noptimizer = 'adam'\nlr_scheduler = 'constant'\nlr_warmup_steps = 2\n{epochs}"
    );
    replace_line(&small_sweep(), "ctx_len", &lines)
}

fn trained(epochs: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep(epochs));
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

/// The weights of the current jobs' SAEs.
fn weights(workspace: &Workspace) -> BTreeMap<String, Vec<u8>> {
    let files = workspace.files("runs");
    let weights = |row: Value| {
        let [sae, dir] = ["sae", "checkpoint"].map(|key| row[key].as_str().unwrap().to_owned());
        let (_, bytes) = &files[&format!("{dir}/sae.safetensors")];
        (sae, bytes.clone())
    };
    let rows = workspace.sql("SELECT sae, checkpoint FROM result WHERE is_current");
    rows.into_iter().map(weights).collect()
}

fn counts(workspace: &Workspace) -> Value {
    let query = "SELECT DISTINCT step, n_tokens FROM result WHERE is_current";
    json!(workspace.sql(query))
}

fn planned(workspace: &Workspace, set: &[&str]) -> Value {
    let set = set.iter().flat_map(|set| ["--set", set]);
    let args: Vec<_> = ["plan", "tiny.toml", "--json"]
        .into_iter()
        .chain(set)
        .collect();
    workspace.run(&args).succeeds().json()
}

#[test]
fn more_epochs_in_the_file_continue_and_count_every_token() {
    let workspace = trained("");
    assert_eq!(counts(&workspace)[0]["n_tokens"], 64 * 64);
    workspace.write("tiny.toml", sweep("epochs = 2"));
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    outcome.remarks(&["continues from step 8 of job"]);
    let from_start = trained("epochs = 2");
    assert_eq!(weights(&workspace), weights(&from_start));
    assert_ne!(weights(&trained("")), weights(&from_start));
    let expected = json!([{"step": 16, "n_tokens": 2 * 64 * 64}]);
    assert_eq!(counts(&workspace), expected);
    assert_eq!(counts(&from_start), expected);
    let steps = "SELECT DISTINCT n_steps FROM stream ORDER BY n_steps";
    assert_eq!(
        json!(workspace.sql(steps)),
        json!([{"n_steps": 8}, {"n_steps": 16}])
    );

    // And by the command, for a job alone.
    let extended = workspace
        .run(&["extend", "tiny", "--epochs", "3"])
        .succeeds();
    extended.remarks(&["continues from step 16 of job"]);
    assert_eq!(weights(&workspace), weights(&trained("epochs = 3")));
    let job = workspace
        .sql("SELECT job, job_id FROM result WHERE is_current")
        .remove(0);
    let id = job["job_id"].as_str().unwrap();
    workspace.run(&["extend", id, "--epochs", "4"]).succeeds();
    let name = format!("{},epochs=4", job["job"].as_str().unwrap());
    let of_name = format!("SELECT extends, n_tokens FROM result WHERE job = '{name}'");
    let extended = workspace.sql(&of_name);
    assert_eq!(extended[0]["extends"], id);
    assert_eq!(extended[0]["n_tokens"], 4 * 64 * 64);
}

#[test]
fn a_job_that_is_killed_in_its_second_epoch_ends_in_the_same_bits() {
    let workspace = trained("epochs = 2");
    let job = workspace.sql("SELECT job FROM result").remove(0);
    let job = job["job"].as_str().unwrap();
    let args = [
        "verify-resume",
        job,
        "--steps",
        "16",
        "--kills",
        "4",
        "--seed",
        "3",
        "--json",
    ];
    let verified = workspace.run(&args).succeeds().json();
    assert_eq!(
        (&verified["n_steps"], &verified["is_exact"]),
        (&json!(16), &json!(true))
    );
}

#[test]
fn a_plan_counts_all_epochs() {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep(""));
    let once = planned(&workspace, &[]);
    let ids = |plan: &Value| {
        let jobs = plan["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&once), ids(&planned(&workspace, &["train.epochs=1"])));
    let three = planned(&workspace, &["train.epochs=3", "train.eval_fraction=0.1"]);
    assert_ne!(ids(&once), ids(&three));
    let stream = &three["forecast"]["streams"][0];
    let expected = json!({"n_steps": 24, "n_tokens": 3 * 4096, "n_eval_sequences": 6});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&stream[key], value, "{key}");
    }
    let seconds = |plan: &Value| plan["forecast"]["training_s"].as_f64().unwrap();
    let ratio = seconds(&three) / seconds(&once);
    assert!((2.9..3.1).contains(&ratio), "{ratio}");
    workspace
        .run(&["plan", "tiny.toml", "--set", "train.epochs=0"])
        .refuses(&["`epochs` must be at least 1"]);
    // Jobs that differ in it take turns.
    workspace.write(
        "tiny.toml",
        sweep("").replace("k = [4]", "k = [4]\nepochs = [1, 2]"),
    );
    let both = planned(&workspace, &[]);
    assert_eq!(both["streams"].as_array().unwrap().len(), 2);
}

#[test]
fn what_tokens_cannot_say_names_epochs() {
    let workspace = trained("");
    let refused = |args: &[&str], message: &str, hint: &str| {
        let all: Vec<_> = ["extend", "tiny"].iter().chain(args).copied().collect();
        workspace.run(&all).refuses(&[message]).hints(hint);
    };
    refused(
        &["--tokens", "70000"],
        "has 65600 tokens to train on, fewer than 70000",
        "`--epochs 2` trains on the same tokens again",
    );
    refused(
        &["--epochs", "1"],
        "`tiny` is trained for 1 epoch already",
        "such as 2",
    );
    workspace.run(&["extend", "tiny"]).exits(2);
    workspace
        .run(&["extend", "tiny", "--epochs", "2"])
        .succeeds();
    refused(
        &["--tokens", "12800"],
        "`--tokens` does not say which tokens are to come again",
        "`--epochs 3` trains for one more",
    );
}
