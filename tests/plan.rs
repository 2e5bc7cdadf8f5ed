//! `sae-run plan`: what a sweep would do.

use crate::common::{Workspace, filters, fixture, tiny_sweep_with};
use serde_json::{Value, json};

fn plan(workspace: &Workspace, more: &[&str]) -> Value {
    let args = [&["plan", "tiny.toml", "--json"], more].concat();
    workspace.run(&args).succeeds().json()
}

#[test]
fn all_jobs_share_one_forward_pass() {
    let workspace = Workspace::with_tiny_sweep();
    let plan = plan(&workspace, &[]);
    let jobs = plan["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 8);
    let streams = plan["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 1, "{streams:?}");
    let ids: Vec<_> = jobs.iter().map(|job| &job["job_id"]).collect();
    assert_eq!(streams[0]["job_ids"], json!(ids));
    assert_eq!(
        streams[0]["n_layers_run"], 3,
        "of four: it stops after layers.2"
    );
    assert!(!workspace.path("runs").exists());
}

#[test]
fn every_resolved_value_is_shown() {
    let plan = plan(&Workspace::with_tiny_sweep(), &[]);
    let job = &plan["jobs"][7];
    let config = job["config"].as_object().unwrap();
    // One from the file, one from the recipe, one by default.
    assert_eq!(config["ctx_len"], 64);
    assert_eq!(config["k"], 8);
    assert_eq!(config["dead_feature_threshold"], 10_000_000);
    let expected = json!({
        "k": 8, "expansion_factor": 4, "hookpoints": ["layers.1.mlp", "layers.2"],
    });
    assert_eq!(job["overrides"], expected);
    let sae = &job["saes"][1];
    assert_eq!(sae["name"], "layers.2");
    assert_eq!(
        (&sae["d_in"], &sae["num_latents"]),
        (&json!(32), &json!(128))
    );
    // signum's law: 5e-3 / sqrt(num_latents / 2^14).
    let lr = sae["lr"].as_f64().unwrap();
    assert!(
        (lr - 5e-3 / (128.0_f64 / 16384.0).sqrt()).abs() < 1e-12,
        "{lr}"
    );
}

/// The settings of each job of the tiny sweep with these lines in place of its `[vary]`.
fn configs(lines: &str) -> Vec<Value> {
    let workspace = Workspace::new();
    let sweep = tiny_sweep_with("[vary]", lines);
    let kept = |line: &&str| {
        !["k =", "expansion_factor =", "hookpoints ="]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let sweep: Vec<&str> = sweep.lines().filter(kept).collect();
    workspace.write("tiny.toml", sweep.join("\n"));
    let plan = plan(&workspace, &[]);
    assert_eq!(plan["streams"].as_array().unwrap().len(), 1, "{plan}");
    let jobs = plan["jobs"].as_array().unwrap();
    jobs.iter().map(|job| job["config"].clone()).collect()
}

#[test]
fn presets_vary_and_the_users_settings_are_above_them() {
    let names = "['saelens-batchtopk', 'dictionary_learning-topk', 'gemma-scope-2']";
    let jobs = configs(&format!(
        "lr = 1e-4\nnum_latents = 128\nk=32\n[vary]\npreset = {names}"
    ));
    let of_jobs = |key: &str| -> Vec<_> { jobs.iter().map(|config| config[key].clone()).collect() };
    assert_eq!(of_jobs("activation"), ["batchtopk", "topk", "jumprelu"]);
    assert_eq!(of_jobs("loss_fn"), ["mse"; 3]);
    assert_eq!(of_jobs("lr"), [1e-4; 3]);
    assert_eq!(of_jobs("k"), [32; 3], "given, though it is the default");
    assert_eq!(
        of_jobs("target_l0"),
        [Value::Null, Value::Null, json!(50.0)]
    );
}

#[test]
fn a_preset_of_the_sweep_is_of_all_jobs() {
    let jobs = configs(
        "preset = 'saelens-topk'\nnum_latents = 128\n[vary]\nactivation = ['topk', 'batchtopk']",
    );
    assert_eq!(jobs.len(), 2);
    for config in jobs {
        assert_eq!(config["k"], 100);
        assert_eq!(config["rescale_acts_by_decoder_norm"], true);
    }
}

#[test]
fn what_changes_the_pass_makes_another_stream() {
    let workspace = Workspace::with_tiny_sweep();
    let sweep = tiny_sweep_with("[vary]", "[vary]\nbatch_size = [4, 8]");
    workspace.write("tiny.toml", sweep);
    let plan = plan(&workspace, &[]);
    let sizes = plan["streams"].as_array().unwrap().iter();
    let sizes: Vec<_> = sizes
        .map(|stream| {
            (
                &stream["key"]["batch_size"],
                stream["job_ids"].as_array().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(sizes, [(&json!(4), 8), (&json!(8), 8)]);
}

#[test]
fn the_same_sweep_gives_the_same_ids_wherever_it_lies() {
    let ids = |workspace: &Workspace, more: &[&str]| {
        let plan = plan(workspace, more);
        let jobs = plan["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].clone()).collect::<Vec<_>>()
    };
    let workspace = Workspace::with_tiny_sweep();
    let here = ids(&workspace, &[]);
    assert_eq!(
        here,
        ids(
            &Workspace::with_tiny_sweep(),
            &["--set", "train.save_every=7"]
        )
    );
    let model = workspace.path("a copy");
    let status = std::process::Command::new("cp")
        .arg("-r")
        .args([fixture("tiny-llama"), model])
        .status();
    assert!(status.unwrap().success());
    assert_eq!(here, ids(&workspace, &["--set", "train.model=a copy"]));
    assert_ne!(here, ids(&workspace, &["--set", "train.shuffle_seed=7"]));
}

#[test]
fn the_plan_as_people_read_it() {
    let workspace = Workspace::with_tiny_sweep();
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!(workspace.run(&["plan", "tiny.toml"]));
    });
}
