//! Planning with what is available: a model's config.json or its name, and nothing else.

use crate::common::{Outcome, Workspace, filters, fixture};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// A sweep of one model and data set, of which nothing needs to be there.
fn sweep(model: &str, settings: &str) -> String {
    format!(
        "name = 'ahead'\n[train]\nmodel = '{model}'\ndataset = 'org/texts'\nctx_len = 64\n\
         batch_size = 4\nhookpoints = ['*.1']\n{settings}\n[vary]\nk = [4, 8]\nexpansion_factor = [8]\n\
         [launch]\ndevice = 'cpu'\n"
    )
}

fn with_sweep(model: &str, settings: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("ahead.toml", sweep(model, settings));
    workspace
}

fn plan(workspace: &Workspace) -> (Outcome, Value) {
    let outcome = workspace.run(&["plan", "ahead.toml", "--json"]).succeeds();
    let plan = outcome.json();
    (outcome, plan)
}

#[test]
fn a_name_of_the_list_is_enough_and_takes_no_time() {
    let workspace = with_sweep("openai-community/gpt2", "max_examples = 100");
    let begun = Instant::now();
    let (outcome, plan) = plan(&workspace);
    assert!(begun.elapsed() < Duration::from_secs(10), "no retries");
    outcome.remarks(&[
        "no file of `openai-community/gpt2` is available (the Hub does not answer)",
        "planned with its published shapes",
        "no data set `org/texts` (the Hub does not answer)",
        "its tokens are not counted",
        "job ids are not final",
    ]);
    assert_eq!(plan["jobs"][0]["saes"][0]["name"], "h.1");
    assert_eq!(plan["jobs"][0]["saes"][0]["num_latents"], 8 * 768);
    assert_eq!(plan["streams"][0]["n_layers_run"], 2);
    assert_eq!(plan["ids_are_final"], false);
    assert_eq!(plan["missing"].as_array().unwrap().len(), 2, "{plan}");
    // Ids do not change from one plan to the next, so that plans can be compared.
    let again = workspace.run(&["plan", "ahead.toml", "--json"]).json();
    assert_eq!(again["jobs"], plan["jobs"]);
    // 100 sequences in updates of 4: the limit is used instead of the data.
    let stream = &plan["forecast"]["streams"][0];
    assert_eq!(
        (&stream["n_steps"], &stream["n_tokens"]),
        (&json!(25), &json!(6400))
    );
    assert!(!workspace.path("runs").exists());
}

#[test]
fn config_json_alone_is_enough() {
    for (name, settings) in [("bare", "max_examples = 100"), ("bare", "")] {
        let workspace = with_sweep(name, settings);
        let config = fs::read(fixture("tiny-llama/config.json")).unwrap();
        workspace.write("bare/config.json", config);
        let (outcome, plan) = plan(&workspace);
        outcome.remarks(&[
            "no weights of `bare` (no `model.safetensors`",
            "config.json alone",
        ]);
        assert_eq!(plan["jobs"][0]["saes"][0]["d_in"], 32);
        let total = &plan["forecast"]["total_s"];
        assert_eq!(total.is_null(), settings.is_empty(), "{plan}");
        assert!(plan["forecast"]["s_per_million_tokens"].as_f64().unwrap() > 0.0);
        // What trains needs all of it.
        workspace
            .run(&["ahead.toml"])
            .refuses(&["model.safetensors"]);
    }
}

#[test]
fn without_a_tokenizer_the_size_of_the_text_counts() {
    let workspace = with_sweep("bare", "");
    let config = fs::read(fixture("tiny-llama/config.json")).unwrap();
    workspace.write("bare/config.json", config);
    workspace.write(
        "org/texts/a.jsonl",
        fs::read(fixture("tiny.jsonl")).unwrap(),
    );
    let (outcome, plan) = plan(&workspace);
    outcome.remarks(&["no tokenizer of `bare`"]);
    let stream = &plan["forecast"]["streams"][0];
    assert!(stream["n_tokens"].as_u64().unwrap() > 1000, "{stream}");
    assert_eq!(stream["is_exact"], false);
}

#[test]
fn a_model_that_is_neither_here_nor_in_the_list_is_refused() {
    let workspace = with_sweep("org/unknown", "");
    let outcome = workspace.run(&["plan", "ahead.toml"]);
    outcome.refuses(&["`org/unknown`"]).hints("config.json");
}

#[test]
fn what_is_there_is_counted_and_ids_are_those_of_the_run() {
    let workspace = Workspace::with_small_sweep();
    let plan = |more: &[&str]| {
        let args = [&["plan", "tiny.toml", "--json"], more].concat();
        workspace.run(&args).succeeds().json()
    };
    let before = plan(&[]);
    assert_eq!(
        (&before["missing"], &before["ids_are_final"]),
        (&json!([]), &json!(true))
    );
    let estimated = &before["forecast"];
    assert_eq!(estimated["speed_is_measured"], false);
    assert!(estimated["tokenising_s"].as_f64().unwrap() > 0.0);
    workspace.run(&["tiny.toml"]).succeeds();
    let after = plan(&[]);
    let ids = |plan: &Value| -> Vec<Value> {
        let jobs = plan["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].clone()).collect()
    };
    assert_eq!(ids(&before), ids(&after));
    let measured = &after["forecast"];
    assert_eq!(measured["speed_is_measured"], true, "{measured}");
    assert_eq!(measured["tokenising_s"], 0.0, "they are made");
    assert_eq!(measured["streams"][0]["is_exact"], true);
    let n_steps = workspace.sql_value("SELECT n_steps FROM stream");
    assert_eq!(measured["streams"][0]["n_steps"], n_steps);
    // Of the same work, so the time of the run was met.
    let sql = "SELECT sum(elapsed_ms) / 1000.0 AS s FROM progress";
    let ratio =
        measured["training_s"].as_f64().unwrap() / workspace.sql_value(sql).as_f64().unwrap();
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
}

#[test]
fn the_space_of_saes_is_that_of_their_files() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let plan = workspace
        .run(&["plan", "tiny.toml", "--json"])
        .succeeds()
        .json();
    let predicted = plan["forecast"]["saes_bytes"].as_u64().unwrap();
    let files = workspace.files("runs/tiny");
    let weights = files
        .iter()
        .filter(|(path, _)| path.ends_with("sae.safetensors"));
    let n_bytes: usize = weights.map(|(_, (_, bytes))| bytes.len()).sum();
    let ratio = n_bytes as f64 / predicted as f64;
    assert!((1.0..1.1).contains(&ratio), "{n_bytes} of {predicted}");
}

#[test]
fn a_plan_fits_80_and_120_columns() {
    for columns in ["80", "120"] {
        let workspace = with_sweep(
            "meta-llama/Llama-3.2-1B",
            "max_examples = 20_000\neval_fraction = 0.05",
        );
        let outcome = workspace.run_with(&[("COLUMNS", columns)], &["plan", "ahead.toml"]);
        let widest = outcome
            .stdout
            .lines()
            .map(|line| line.chars().count())
            .max()
            .unwrap();
        assert!(widest <= columns.parse().unwrap(), "{outcome}");
        insta::with_settings!({filters => filters()}, {
            insta::assert_snapshot!(format!("plan_at_{columns}"), outcome);
        });
    }
}

#[test]
fn hookpoints_of_a_name_of_the_list() {
    let workspace = Workspace::unprepared();
    let outcome = workspace.run(&["hookpoints", "google/gemma-2-2b", "layers.25", "--json"]);
    let hookpoints = outcome.succeeds().listed("hookpoints");
    assert_eq!(hookpoints[0]["d_out"], 2304);
}

#[test]
fn a_dry_run_plans_without_the_model_too() {
    let workspace = with_sweep("gpt2", "");
    let outcome = workspace.run(&["ahead.toml", "--dry-run"]).succeeds();
    assert!(outcome.stdout.contains("2 jobs in 1 stream"), "{outcome}");
}

#[test]
fn memory_is_given_in_any_unit() {
    let workspace = with_sweep("gpt2", "");
    let n_streams = |set: &str| {
        let plan = workspace.run(&["plan", "ahead.toml", "--json", "--set", set]);
        plan.succeeds().json()["streams"].as_array().unwrap().len()
    };
    assert_eq!(n_streams("launch.memory_bytes=100 GB"), 1);
    assert_eq!(n_streams("launch.memory_bytes=100_000_000"), 2);
    assert_eq!(n_streams("launch.memory_bytes=100 MB"), 2);
    let wrong = ["plan", "ahead.toml", "--set", "launch.memory_bytes=46 G"];
    workspace
        .run(&wrong)
        .refuses(&["`46 G` is not a number of bytes"]);
}

#[test]
fn a_missing_or_unfit_sae_to_begin_with_is_found_by_the_plan() {
    let workspace = Workspace::with_small_sweep();
    workspace.write("earlier/layers.9/cfg.json", "{}");
    let plan = ["plan", "tiny.toml", "--set", "train.finetune=earlier"];
    workspace
        .run(&plan)
        .refuses(&["`finetune` has no SAE for `"]);
}

#[test]
fn data_that_is_too_short_for_an_update_is_pointed_out() {
    let workspace = Workspace::with_small_sweep();
    let args = [
        "plan",
        "tiny.toml",
        "--set",
        "train.batch_size=2000",
        "--set",
        "train.max_examples=5000",
    ];
    let outcome = workspace.run(&args).succeeds();
    outcome.remarks(&["one step takes more", "`batch_size`"]);
}
