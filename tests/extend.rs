//! Longer training: `sae-run extend`, and a larger `max_examples` in a sweep.

use crate::common::{Workspace, finish, fixture, replace_line, small_sweep};
use serde_json::Value;
use std::collections::BTreeMap;

/// The small sweep with a learning rate that does not know the end.
fn constant_sweep() -> String {
    let lines = "ctx_len = 64\noptimizer = 'adam'\nlr_scheduler = 'constant'\nlr_warmup_steps = 2";
    replace_line(&small_sweep(), "ctx_len", lines)
}

fn with_examples(sweep: &str, n: u64) -> String {
    replace_line(sweep, "max_examples", &format!("max_examples = {n}"))
}

/// A workspace in which the sweep was run.
fn trained(sweep: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    workspace
}

/// The weights of the current jobs' SAEs, by job and SAE.
fn weights(workspace: &Workspace, sweep: &str) -> BTreeMap<String, Vec<u8>> {
    let query =
        format!("SELECT sae, checkpoint FROM result WHERE sweep = '{sweep}' AND is_current");
    let files = workspace.files("runs");
    let weights = |row: Value| {
        let [sae, dir] = ["sae", "checkpoint"].map(|key| row[key].as_str().unwrap().to_owned());
        let (_, bytes) = &files[&format!("{dir}/sae.safetensors")];
        (sae, bytes.clone())
    };
    workspace.sql(&query).into_iter().map(weights).collect()
}

fn rows(workspace: &Workspace, columns: &str) -> Vec<Value> {
    workspace.sql(&format!(
        "SELECT {columns} FROM result WHERE is_current ORDER BY job, sae"
    ))
}

#[test]
fn a_sweep_for_more_tokens_ends_as_if_it_had_had_them_from_the_start() {
    let workspace = trained(&with_examples(&constant_sweep(), 64));
    let n_saes = rows(&workspace, "sae").len();
    let outcome = workspace
        .run(&["extend", "tiny", "--tokens", "8192"])
        .succeeds();
    outcome.remarks(&["continues from step 8 of job"]);
    let from_start = trained(&with_examples(&constant_sweep(), 128));
    assert_eq!(weights(&workspace, "tiny"), weights(&from_start, "tiny"));
    let numbers = "job, sae, job_id, n_tokens, step, l0, dead_pct, num_latents";
    assert_eq!(rows(&workspace, numbers), rows(&from_start, numbers));
    let extends = |row: &Value| row["extends"].is_string();
    assert_eq!(
        rows(&workspace, "extends")
            .iter()
            .filter(|row| extends(row))
            .count(),
        n_saes
    );
    let job = rows(&workspace, "job_id, extends").remove(0);
    let shown = workspace
        .run(&["show", job["job_id"].as_str().unwrap()])
        .succeeds();
    let line = format!(
        "extends    {}, from step 8 on",
        job["extends"].as_str().unwrap()
    );
    assert!(shown.stdout.contains(&line), "{shown}");

    // Again, now by the file.
    workspace.write("tiny.toml", with_examples(&constant_sweep(), 160));
    let outcome = workspace.run(&["tiny.toml"]).succeeds();
    outcome.remarks(&["continues from step 16 of job"]);
    let from_start = trained(&with_examples(&constant_sweep(), 160));
    assert_eq!(weights(&workspace, "tiny"), weights(&from_start, "tiny"));
}

#[test]
fn a_job_for_more_tokens_is_a_job_beside_it() {
    let workspace = trained(&with_examples(&constant_sweep(), 64));
    let job = rows(&workspace, "job, job_id").remove(0);
    let id = job["job_id"].as_str().unwrap();
    let outcome = workspace
        .run(&["extend", id, "--tokens", "8192"])
        .succeeds();
    outcome.remarks(&[&format!("continues from step 8 of job {id}")]);
    let name = format!("{},max_examples=128", job["job"].as_str().unwrap());
    let of_name =
        format!("SELECT extends FROM result WHERE sweep = 'tiny-extended' AND job = '{name}'");
    assert_eq!(workspace.sql(&of_name)[0]["extends"], id);
    let other = rows(&workspace, "job_id").len();
    // The extended one can be extended, and is not trained again if it is asked for again.
    workspace
        .run(&["extend", &name, "--tokens", "8192"])
        .refuses(&["8192 tokens already"]);
    workspace
        .run(&["extend", id, "--tokens", "8192"])
        .succeeds()
        .remarks(&["done already"]);
    assert_eq!(rows(&workspace, "job_id").len(), other);
}

#[test]
fn without_a_state_it_is_said_that_training_begins_at_the_start() {
    let sweep = with_examples(&constant_sweep(), 64);
    let workspace = trained(&replace_line(
        &sweep,
        "lr_warmup_steps",
        "lr_warmup_steps = 2\nkeep_state = false",
    ));
    let outcome = workspace
        .run(&["extend", "tiny", "--tokens", "8192"])
        .succeeds();
    outcome.remarks(&["kept no state", "`keep_state = true` keeps one"]);
    let from_start = trained(&with_examples(&constant_sweep(), 128));
    assert_eq!(weights(&workspace, "tiny"), weights(&from_start, "tiny"));
    assert!(
        rows(&workspace, "extends")
            .iter()
            .all(|row| row["extends"].is_null())
    );
}

#[test]
fn paths_are_looked_for_where_they_were() {
    let workspace = Workspace::new();
    workspace.write_model("project/sweeps/models/tiny");
    let data = std::fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    workspace.write("project/data.jsonl", &data);
    // Of the same name, and not meant.
    workspace.write("elsewhere/data.jsonl", data.repeat(2));
    let sweep = with_examples(&constant_sweep(), 64);
    // One next to the sweep, one in the current folder.
    let sweep = replace_line(&sweep, "model", "model = 'models/tiny'");
    let sweep = replace_line(&sweep, "dataset", "dataset = 'data.jsonl'");
    workspace.write("project/sweeps/tiny.toml", sweep);
    let in_folder = |folder: &str, args: &[&str]| {
        let mut command = workspace.command(args);
        command.current_dir(workspace.path(folder));
        finish(command).succeeds()
    };
    in_folder("project", &["sweeps/tiny.toml"]);
    let train = [
        "train",
        "sweeps/models/tiny",
        "data.jsonl",
        "--ctx-len",
        "64",
        "--batch-size",
        "8",
    ];
    let train = [
        &train[..],
        &["--max-examples", "64", "--optimizer", "adam", "--k", "4"],
    ]
    .concat();
    let train = [
        &train[..],
        &[
            "--lr-scheduler",
            "constant",
            "--layers",
            "1",
            "--run-name",
            "mine",
        ],
    ]
    .concat();
    let train = [&train[..], &["--expansion-factor", "2", "--device", "cpu"]].concat();
    in_folder("project", &train);
    let [of_sweep, of_options] = ["tiny", "mine"].map(|sweep| first_job_of(&workspace, sweep));
    for target in [of_sweep.as_str(), of_options.as_str(), "tiny"] {
        let args = [
            "extend",
            target,
            "--tokens",
            "8192",
            "--runs-dir",
            "../project/runs",
        ];
        in_folder("elsewhere", &args).remarks(&["continues from step 8 of job"]);
    }
    // The longer ones are found from anywhere, too.
    let args = [
        "extend",
        "tiny",
        "--tokens",
        "12288",
        "--runs-dir",
        "project/runs",
    ];
    in_folder(".", &args).remarks(&["continues from step 16 of job"]);
}

/// The id of a sweep's first job.
fn first_job_of(workspace: &Workspace, sweep: &str) -> String {
    let query = format!("SELECT job_id FROM result WHERE sweep = '{sweep}' LIMIT 1");
    let args = ["sql", &query, "--runs-dir", "project/runs", "--json"];
    let rows = workspace.run(&args).succeeds().listed("rows");
    rows[0]["job_id"].as_str().unwrap().to_owned()
}

#[test]
fn what_cannot_be_extended_is_told() {
    let workspace = trained(&with_examples(&constant_sweep(), 64));
    workspace
        .run(&["extend", "tiny", "--tokens", "4096"])
        .refuses(&["`tiny` is trained on 4096 tokens already"])
        .hints("such as 8192");
    workspace
        .run(&["extend", "tinny", "--tokens", "8192"])
        .refuses(&["tinny"]);
}
