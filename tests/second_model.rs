//! Crosscoders over two models that share a tokenizer.

use crate::common::{Outcome, Workspace, fixture, text, tiny_sweep};
use hub_server::HubServer;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tch::Tensor;

/// Makes a model in `dir` with the tiny one's tokenizer, and all weights times `scale`.
pub(crate) fn make_model(dir: &Path, scale: f64) {
    fs::create_dir_all(dir).unwrap();
    for entry in fs::read_dir(fixture("tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.join("model.safetensors");
    let weights = Tensor::read_safetensors(&path).unwrap().into_iter();
    let scaled: Vec<_> = weights.map(|(name, own)| (name, own * scale)).collect();
    Tensor::write_safetensors(&scaled, path).unwrap();
}

/// A folder with `tiny.toml`, a crosscoder over the tiny model and the model `second`, which is in the folder `second`.
fn workspace(settings: &str) -> Workspace {
    let workspace = Workspace::new();
    make_model(&workspace.path("second"), 0.8);
    write_sweep(&workspace, settings);
    workspace
}

fn write_sweep(workspace: &Workspace, settings: &str) {
    write_sweep_that_varies(workspace, settings, "k = [4]");
}

fn write_sweep_that_varies(workspace: &Workspace, settings: &str, vary: &str) {
    let sweep = tiny_sweep();
    let (train, rest) = sweep.split_once("[vary]").unwrap();
    let (_, launch) = rest.split_once("[launch]").unwrap();
    let settings = format!("crosscoder = true\nexpansion_factor = 2\n{settings}");
    let sweep = format!("{train}{settings}\n[vary]\n{vary}\n[launch]{launch}");
    workspace.write("tiny.toml", sweep);
}

const ON_TWO: &str = "crosscoder_model = 'second'\nlayers = [0, 2]";

fn plan(workspace: &Workspace) -> Value {
    workspace
        .run(&["plan", "tiny.toml", "--json"])
        .succeeds()
        .json()
}

fn job_id(workspace: &Workspace) -> Value {
    plan(workspace)["jobs"][0]["job_id"].clone()
}

#[test]
fn both_models_are_planned_and_trained_on() {
    let workspace = workspace(ON_TWO);
    let plan = plan(&workspace);
    let sae = &plan["jobs"][0]["saes"][0];
    let hookpoints = json!(["layers.0", "layers.2", "2:layers.0", "2:layers.2"]);
    assert_eq!(sae["hookpoints"], hookpoints);
    assert_eq!(
        (&sae["name"], &sae["d_in"]),
        (&json!("crosscoder"), &json!(128))
    );
    let stream = &plan["streams"][0];
    assert_eq!(stream["n_layers_run"], 3);
    assert_eq!(stream["second_n_layers_run"], 3);
    let both = stream["memory"]["model_bytes"].as_u64().unwrap();
    let shown = workspace.run(&["plan", "tiny.toml"]).succeeds();
    assert!(shown.stdout.contains("3 + 3"), "{shown}");

    workspace.run(&["tiny.toml"]).succeeds();
    let files = workspace.trained();
    let (_, cfg) = files
        .iter()
        .find(|(path, _)| path.ends_with("crosscoder/cfg.json"))
        .unwrap();
    let cfg: Value = serde_json::from_slice(cfg).unwrap();
    assert_eq!(cfg["hookpoints"], hookpoints);
    let order = fs::read(workspace.stream_dir().join("order.json")).unwrap();
    let order: Value = serde_json::from_slice(&order).unwrap();
    let dir = workspace.path("second").canonicalize().unwrap();
    assert_eq!(
        order["second_model"],
        json!({"dir": text(&dir), "commit": null})
    );
    let job = job_id(&workspace);
    let args = [
        "verify-resume",
        job.as_str().unwrap(),
        "--steps",
        "6",
        "--kills",
        "3",
    ];
    workspace
        .run(&args)
        .succeeds()
        .remarks(&["resume is exact"]);

    write_sweep(&workspace, "layers = [0, 2]");
    let one = self::plan(&workspace);
    let of_one = one["streams"][0]["memory"]["model_bytes"].as_u64().unwrap();
    assert_eq!(both, 2 * of_one);
}

#[test]
fn the_id_is_of_the_second_model_s_content() {
    let workspace = workspace(ON_TWO);
    let id = job_id(&workspace);
    fs::rename(workspace.path("second"), workspace.path("elsewhere")).unwrap();
    write_sweep(
        &workspace,
        "crosscoder_model = 'elsewhere'\nlayers = [0, 2]",
    );
    assert_eq!(job_id(&workspace), id, "names do not count");
    make_model(&workspace.path("elsewhere"), 0.7);
    assert_ne!(job_id(&workspace), id);
}

#[test]
fn jobs_with_one_second_model_share_a_stream() {
    let workspace = workspace("");
    make_model(&workspace.path("third"), 0.7);
    let vary = "crosscoder_model = ['second', 'third']\nk = [4, 8]";
    write_sweep_that_varies(&workspace, "layers = [0, 2]", vary);
    let plan = plan(&workspace);
    let n_jobs = plan["streams"].as_array().unwrap().iter();
    let n_jobs: Vec<_> = n_jobs
        .map(|stream| stream["job_ids"].as_array().unwrap().len())
        .collect();
    assert_eq!(n_jobs, [2, 2]);
    workspace.run(&["tiny.toml"]).succeeds();
    let counted = workspace.sql_value("SELECT count(*) FROM result WHERE fvu < 1");
    assert_eq!(counted, 4);
}

fn edit_json(workspace: &Workspace, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = workspace.path(file);
    let mut content: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut content);
    fs::write(path, content.to_string()).unwrap();
}

#[test]
fn another_tokenizer_is_refused() {
    let workspace = workspace(ON_TWO);
    // Other bytes alone are no other tokenizer.
    edit_json(&workspace, "second/tokenizer.json", |_| {});
    plan(&workspace);
    edit_json(&workspace, "second/tokenizer.json", |tokenizer| {
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocab["a"].take(), vocab["b"].take());
        vocab["a"] = b;
        vocab["b"] = a;
    });
    let outcome = workspace.run(&["plan", "tiny.toml"]);
    let parts = [
        "`model`",
        "`crosscoder_model`",
        "is `a` in the first and `b` in the second",
    ];
    outcome.refuses(&parts).hints("finetuned");
    fs::remove_file(workspace.path("second/tokenizer.json")).unwrap();
    let planned = workspace.run(&["plan", "tiny.toml"]).succeeds();
    planned.remarks(&["no tokenizer of `second`"]);
    let outcome = workspace.run(&["tiny.toml"]);
    outcome
        .refuses(&["cannot find `", "second/tokenizer.json"])
        .hints("both models");
}

#[test]
fn another_width_or_a_shorter_context_is_refused() {
    let workspace = workspace(ON_TWO);
    edit_json(&workspace, "second/config.json", |config| {
        config["hidden_size"] = 64.into();
    });
    let outcome = workspace.run(&["plan", "tiny.toml"]);
    let widths = "`layers.0` has 32, `2:layers.0` has 64";
    outcome.refuses(&["`model`", "`crosscoder_model`", widths]);
    edit_json(&workspace, "second/config.json", |config| {
        config["hidden_size"] = 32.into();
        config["max_position_embeddings"] = 32.into();
    });
    let outcome = workspace.run(&["plan", "tiny.toml"]);
    outcome
        .refuses(&["the 32 positions of `second`"])
        .hints("ctx_len");
}

fn refused(settings: &str) -> Outcome {
    workspace(settings).run(&["plan", "tiny.toml"])
}

#[test]
fn a_second_model_that_cannot_be_had_is_named() {
    refused("crosscoder_model = 'no/such/model'").refuses(&["tiny.toml:", "`no/such/model`"]);
    let of_folder = refused("crosscoder_model = 'second'\ncrosscoder_revision = 'main'");
    of_folder
        .refuses(&["revision `main`"])
        .hints("leave `crosscoder_revision` out");
    refused("crosscoder_model = 'second'\ncrosscoder = false").exits(2);
    let twice = refused("crosscoder_model = 'second'\nhookpoints = ['layers.9']");
    twice.refuses(&["hookpoint pattern `layers.9`"]);
}

#[test]
fn a_missing_tensor_of_the_second_model_is_found_at_planning() {
    let workspace = workspace(ON_TWO);
    let path = workspace.path("second/model.safetensors");
    let tensors = Tensor::read_safetensors(&path).unwrap().into_iter();
    let up = "model.layers.1.mlp.up_proj.weight";
    let others: Vec<_> = tensors.filter(|(name, _)| name != up).collect();
    Tensor::write_safetensors(&others, path).unwrap();
    let outcome = workspace.run(&["plan", "tiny.toml"]);
    outcome.refuses(&["tensor `model.layers.1.mlp.up_proj.weight` is missing"]);
}

#[test]
fn the_second_model_may_be_one_of_the_hub() {
    let server = HubServer::start();
    server.add_model("org/tiny", &fixture("tiny-llama"));
    let workspace = workspace("");
    let commit = server.add_revision("org/tiny", "chat", &workspace.path("second"));
    let settings = "crosscoder_model = 'org/tiny'\ncrosscoder_revision = 'chat'\nlayers = [0, 2]";
    write_sweep(&workspace, settings);
    let run = |args: &[&str]| workspace.run_with(&[("HF_ENDPOINT", &server.url())], args);
    let plan = run(&["plan", "tiny.toml", "--json"]).succeeds().json();
    assert_eq!(plan["jobs"][0]["second_model_digest"], json!(commit));
    run(&["tiny.toml"])
        .succeeds()
        .remarks(&["downloading `org/tiny`"]);
    let order = fs::read(workspace.stream_dir().join("order.json")).unwrap();
    let order: Value = serde_json::from_slice(&order).unwrap();
    assert_eq!(order["second_model"]["commit"], json!(commit));
    let unknown = settings.replace("chat", "step9");
    write_sweep(&workspace, &unknown);
    run(&["plan", "tiny.toml"]).refuses(&["`step9`", "`org/tiny`"]);
}

#[test]
fn both_models_are_evaluated_and_encoded_with() {
    let workspace = workspace(ON_TWO);
    let settings = format!("{ON_TWO}\neval_fraction = 0.02\nactivation = 'batchtopk'");
    write_sweep(&workspace, &settings);
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["calibrating the thresholds of 1 SAE", "evaluating 1 SAE"]);
    let row = workspace
        .sql("SELECT n_tokens, n_predicted, kl_sum FROM evaluation")
        .remove(0);
    let number = |column: &str| row[column].as_u64().unwrap();
    assert_eq!(number("n_predicted"), 2 * number("n_tokens") / 64 * 63);
    let before = row["kl_sum"].as_f64().unwrap();
    workspace
        .run(&["eval", "k=4", "--device", "cpu"])
        .succeeds();
    let again = workspace
        .sql_value("SELECT kl_sum FROM evaluation")
        .as_f64()
        .unwrap();
    assert!(
        (again / before - 1.0).abs() < 1e-5,
        "{again}, before {before}"
    );

    let dataset = fixture("tiny.jsonl");
    let named = [
        "--dataset",
        text(&dataset),
        "--max-examples",
        "5",
        "--ctx-len",
        "64",
    ];
    workspace
        .run(&[&["eval", "k=4"], &named[..]].concat())
        .succeeds();
    let folder = crate::common::job_dir(&workspace, "k=4");
    let model = fixture("tiny-llama");
    let args = [
        &["eval", text(&folder), "--model", text(&model)],
        &named[..],
    ]
    .concat();
    workspace
        .run(&args)
        .refuses(&["`layers.0` of a second model"])
        .hints("--crosscoder-model");
    workspace
        .run(&[&args[..], &["--crosscoder-model", "second"]].concat())
        .succeeds();
    for sae in ["k=4", text(&folder)] {
        let args = [
            "encode",
            sae,
            "--text",
            "Call me Ishmael.",
            "--out",
            "out.parquet",
            "--json",
        ];
        let encoded = workspace.run(&args).succeeds().json();
        assert!(encoded["saes"][0]["n_rows"].as_u64() > Some(3), "{encoded}");
    }
}
