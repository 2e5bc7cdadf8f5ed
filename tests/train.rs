//! `sae-run train`: one job from options.

use crate::common::{Workspace, fixture, text, tiny_sweep};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;

/// One job of the tiny sweep, as options.
const OPTIONS: [&str; 18] = [
    "--ctx_len=64",
    "--batch-size",
    "8",
    "--max_examples",
    "64",
    "--save_every",
    "5",
    "-k",
    "4",
    "--expansion_factor",
    "2",
    "--hookpoints",
    "layers.1.mlp",
    "layers.2",
    "--device",
    "cpu",
    "--threads",
    "1",
];

fn train(workspace: &Workspace, options: &[&str]) -> crate::common::Outcome {
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let named = ["train", text(&model), text(&dataset)];
    workspace.run(&[&named[..], &OPTIONS, options].concat())
}

/// The files of the SAEs below a folder, by the end of their path.
fn saes(workspace: &Workspace, below: &str) -> BTreeMap<String, Vec<u8>> {
    let files = workspace.files(below).into_iter();
    let is_of_sae = |path: &str| path.ends_with("/cfg.json") || path.ends_with("/sae.safetensors");
    let of_saes = files.filter(|(path, _)| is_of_sae(path));
    of_saes
        .map(|(path, (_, bytes))| {
            let parts: Vec<_> = path.rsplitn(3, '/').collect();
            (format!("{}/{}", parts[1], parts[0]), bytes)
        })
        .collect()
}

#[test]
fn options_train_the_job_that_a_sweep_would() {
    let workspace = Workspace::new();
    let options = ["--run_name", "mine", "--save_dir", "trained"];
    let outcome = train(&workspace, &options).succeeds();
    let outcome = outcome.remarks(&[
        "the job is done",
        "its SAEs are in `trained/mine/expansion_factor=2,k=4,hookpoints=",
    ]);
    assert!(outcome.stdout.contains("layers.1.mlp"), "{outcome}");
    let ours = saes(&workspace, "trained/mine");
    assert_eq!(ours.len(), 4, "{:?}", ours.keys());

    let sweep = tiny_sweep()
        .replace("k = [4, 8]", "k = [4]")
        .replace("expansion_factor = [2, 4]", "expansion_factor = [2]")
        .replace("[['layers.0'], ", "[");
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    assert!(ours == saes(&workspace, "runs/tiny"), "to the bit");
    let jobs = "SELECT job_id FROM job";
    let of_sweep = workspace.sql(jobs);
    let of_options = workspace.run(&["sql", "--json", jobs, "--runs-dir", "trained"]);
    assert_eq!(of_options.succeeds().listed("rows"), of_sweep);

    // Under another name it is still the same job, in its first folder.
    for name in ["mine", "second"] {
        let again = ["--run_name", name, "--save_dir", "trained"];
        let remark = "its SAEs are in `trained/mine/";
        train(&workspace, &again)
            .succeeds()
            .remarks(&["the job is done already", remark]);
    }
}

#[test]
fn a_folder_without_saes_is_not_named() {
    let workspace = Workspace::new();
    let wild = ["--optimizer", "adam", "--lr", "1e40"];
    let wild = [&wild[..], &["--nonormalize_decoder", "--save_every", "50"]].concat();
    let outcome = train(&workspace, &wild).exits(1);
    assert!(!outcome.stderr.contains("SAEs are in"), "{outcome}");
    let one_saved = [&wild[..], &["--save_every", "1"]].concat();
    let outcome = train(&workspace, &one_saved).exits(1);
    let outcome = outcome.remarks(&["failed in an earlier run", "`--retry-failed`"]);
    assert!(!outcome.stderr.contains("SAEs"), "{outcome}");
    let again = [&one_saved[..], &["--retry-failed"]].concat();
    let outcome = train(&workspace, &again).exits(1);
    outcome.remarks(&["its SAEs up to the last checkpoint are in `runs/unnamed/"]);
}

#[test]
fn nothing_is_trained_in_a_dry_run_and_the_defaults_are_sparsifys() {
    let workspace = Workspace::new();
    let outcome = train(&workspace, &["--dry_run"]).succeeds();
    assert!(outcome.stdout.contains("layers.2"), "{outcome}");
    assert!(!workspace.path("runs").exists());
    train(&workspace, &[])
        .succeeds()
        .remarks(&["its SAEs are in `runs/unnamed/"]);
}

#[test]
fn commands_of_one_run_add_up_and_other_commands_find_them() {
    let workspace = Workspace::new();
    let run = |k: &str| train(&workspace, &["-k", k, "--run_name", "mine"]).succeeds();
    run("4").remarks(&["next: `sae-run ls mine`"]);
    run("8");
    run("4").remarks(&["the job is done already"]);
    let ks = |rows: &[serde_json::Value]| {
        let ks = rows.iter().map(|row| row["k"].as_u64().unwrap());
        let mut ks: Vec<_> = ks.collect();
        ks.dedup();
        ks
    };
    let listed = workspace.run(&["ls", "mine", "--json"]).succeeds();
    assert_eq!(ks(&listed.listed("saes")), [4, 8]);
    let sweeps = workspace.run(&["ls", "--json"]).succeeds();
    let sweeps = sweeps.listed("sweeps");
    assert_eq!(
        (sweeps[0]["n_jobs"].as_u64(), sweeps[0]["n_done"].as_u64()),
        (Some(2), Some(2))
    );
    let shown = workspace.run(&["show", "mine"]).succeeds().stdout;
    for part in [
        "2 done",
        "k=4",
        "k=8",
        "all jobs: expansion_factor=2",
        "--runs-dir",
    ] {
        let is_there = shown.contains(part);
        assert_eq!(is_there, part != "--runs-dir", "{part}\n{shown}");
    }
    workspace.run(&["show", "k=8"]).succeeds();
    workspace
        .run(&["show", "mine/k=8,hookpoints=layers.1.mlp+layers.2"])
        .succeeds();
    let report = workspace
        .run(&["report", "mine", "-o", "-"])
        .succeeds()
        .stdout;
    assert!(report.contains("k=4") && report.contains("k=8"));
    let dataset = fixture("tiny.jsonl");
    let encode = [
        "encode",
        "k=8",
        "--dataset",
        text(&dataset),
        "--max-examples",
        "4",
    ];
    let encode = [
        &encode[..],
        &["--ctx-len", "64", "--out", "latents.parquet"],
    ]
    .concat();
    workspace.run(&encode).succeeds();
    // In another folder, the next commands name it.
    train(&workspace, &["--runs-dir", "elsewhere"])
        .succeeds()
        .remarks(&["`sae-run show unnamed --runs-dir elsewhere`"]);
}

#[test]
fn flags_are_turned_off_and_the_last_of_several_counts() {
    let workspace = Workspace::new();
    let config = |options: &[&str]| {
        let outcome = train(
            &workspace,
            &[&["--save_dir", "x", "--fresh", "--yes"], options].concat(),
        );
        outcome.succeeds();
        let sql = [
            "sql",
            "--json",
            "--runs-dir",
            "x",
            "SELECT config FROM job ORDER BY created_ms",
        ];
        let rows = workspace.run(&sql).succeeds().listed("rows");
        let last = rows.last().unwrap()["config"].clone();
        serde_json::from_str::<serde_json::Value>(last.as_str().unwrap()).unwrap()
    };
    assert_eq!(config(&[])["normalize_decoder"], true);
    for off in [
        &["--nonormalize_decoder"][..],
        &["--no-normalize-decoder"],
        &["--normalize_decoder=false"],
        &["--normalize_decoder", "--nonormalize_decoder"],
    ] {
        assert_eq!(config(off)["normalize_decoder"], false, "{off:?}");
    }
    let config = config(&[
        "--lr",
        "1e-3",
        "--lr=2e-3",
        "--init_seeds",
        "3",
        "-1",
        "--init-seeds",
        "7,8",
        "-k",
        "5",
    ]);
    assert_eq!(config["lr"], 2e-3);
    assert_eq!(config["init_seeds"], json!([3, -1, 7, 8]));
    assert_eq!(config["k"], 5);
}

#[test]
fn what_cannot_be_is_told_by_its_option() {
    let workspace = Workspace::new();
    let refused = |options: &[&str]| train(&workspace, options);
    refused(&["--optimizer", "sgd"])
        .refuses(&["--optimizer sgd", "sgd"])
        .hints("--optimizer signum");
    refused(&["--batch_size", "many"]).refuses(&["--batch-size many"]);
    refused(&["--layer_stride", "0"]).refuses(&["--layer-stride 0", "at least 1"]);
    refused(&["--layers", "1"]).refuses(&["layers", "`hookpoints`"]);
    refused(&["--loss_fn", "ce", "--auxk_alpha", "0.03"])
        .refuses(&["--auxk-alpha 0.03", "loss_fn"]);
    refused(&["--run_name", "a/b"]).refuses(&["--run-name"]);
    refused(&["--noresume"])
        .refuses(&["continues from its last checkpoint"])
        .hints("--fresh");
    refused(&["--optimiser", "adam"])
        .exits(2)
        .remarks(&["--optimiser", "--optimizer"]);
    assert!(!workspace.path("runs").exists());
}

#[test]
fn a_token_is_kept_nowhere() {
    let workspace = Workspace::new();
    let secret = "hf_neverToBeSeen";
    let outcome = train(&workspace, &["--hf_token", secret]).succeeds();
    assert!(!outcome.to_string().contains(secret), "{outcome}");
    for (path, (_, bytes)) in workspace.files("") {
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "it is in {path}");
    }
    let blank = train(&workspace, &["--hf_token", " "]).exits(2);
    assert!(!blank.stderr.contains(secret), "{blank}");
    fs::remove_dir_all(workspace.path("runs")).unwrap();
}
