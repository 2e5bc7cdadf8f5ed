//! Layers of configuration: each overrides the ones before it.

use crate::common::{Workspace, fixture, replace_line, small_sweep, tiny_sweep_with};
use serde_json::{Value, json};

/// Settings that play no part in the tiny sweep's model and data.
const KEYS: [&str; 6] = [
    "dead_feature_threshold",
    "shuffle_seed",
    "batch_size",
    "grad_acc_steps",
    "save_every",
    "log_every",
];

fn layer(first: usize, value: u64) -> String {
    let lines = KEYS[first..].iter().map(|key| format!("{key} = {value}\n"));
    lines.collect()
}

fn settings(plan: &Value) -> Vec<Value> {
    let config = &plan["jobs"][0]["config"];
    KEYS.map(|key| config[key].clone()).to_vec()
}

#[test]
fn later_layers_win() {
    let workspace = Workspace::new();
    workspace.write(
        "home/.config/sae-run/sae-run.toml",
        format!("[train]\n{}", layer(1, 11)),
    );
    workspace.write("sae-run.toml", format!("[train]\n{}", layer(2, 12)));
    let without = tiny_sweep_with("batch_size", "");
    let without = replace_line(&without, "save_every", "");
    let with = format!("{}[vary]", layer(3, 13));
    workspace.write("tiny.toml", replace_line(&without, "[vary]", &with));
    let variables = [
        ("SAE_RUN_TRAIN__SAVE_EVERY", "14"),
        ("SAE_RUN_TRAIN__LOG_EVERY", "14"),
    ];
    let args = ["plan", "tiny.toml", "--json", "--set", "train.log_every=15"];
    let plan = workspace.run_with(&variables, &args).succeeds().json();
    assert_eq!(
        settings(&plan),
        [10_000_000, 11, 12, 13, 14, 15].map(|n| json!(n))
    );
}

#[test]
fn text_may_look_like_anything() {
    let workspace = Workspace::new();
    workspace.write_model("007");
    workspace.write_model("1.10");
    let text = std::fs::read(fixture("tiny.jsonl")).unwrap();
    workspace.write("2024/train.jsonl", text);
    let sweep = replace_line(&small_sweep(), "name", "name = 2024");
    let sweep = replace_line(&sweep, "model", "model = 1.10 # not 1.1");
    let sweep = replace_line(
        &sweep,
        "dataset",
        "data_args = { data_dir = 2024 }\ndataset = '.'",
    );
    workspace.write("tiny.toml", &sweep);
    let settings = |plan: &Value| {
        let config = &plan["jobs"][0]["config"];
        let of_config = [
            &config["model"],
            &config["data_args"]["data_dir"],
            &config["hookpoints"],
        ];
        of_config.map(Value::clone)
    };
    let plan = |variables: &[_], more: &[&str]| {
        let args = [&["plan", "tiny.toml", "--json"], more].concat();
        settings(&workspace.run_with(variables, &args).succeeds().json())
    };
    let hookpoints = json!(["layers.0"]);
    let expected = |model: &str| [json!(model), json!("2024"), hookpoints.clone()];
    assert_eq!(plan(&[], &[]), expected("1.10"));
    assert_eq!(plan(&[], &["--set", "train.model=007"]), expected("007"));
    assert_eq!(
        plan(&[], &["--set", "train.model=\"1.10\""]),
        expected("1.10")
    );
    assert_eq!(
        plan(&[], &["--set", "vary.model=[\"007\"]"]),
        expected("007")
    );
    let variable = [("SAE_RUN_TRAIN__MODEL", "007"), ("SAE_RUN_NAME", "true")];
    assert_eq!(plan(&variable, &[]), expected("007"));
    assert_eq!(
        plan(&[], &["--set", "name=1e5", "--set", "runs_dir=5"]),
        expected("1.10")
    );
    let options = [
        "--data_args",
        "data_dir=2024",
        "--split",
        "train[:300]",
        "--ctx_len",
        "64",
    ];
    let options = [
        &["train", "007", "."][..],
        &options,
        &["--run_name", "2024"],
    ]
    .concat();
    let options = [&options[..], &["--revision", "1234567", "--dry-run"]].concat();
    workspace
        .run(&options)
        .refuses(&["`007` is the folder", "no revision `1234567`"]);
    workspace
        .run(&["plan", "tiny.toml", "--set", "train.k=many"])
        .refuses(&["`train.k`"]);
}

#[test]
fn the_sweep_may_lie_elsewhere_and_its_paths_go_with_it() {
    let workspace = Workspace::new();
    let text = std::fs::read(fixture("tiny.jsonl")).unwrap();
    workspace.write("study/texts/a.jsonl", text);
    let sweep = replace_line(&small_sweep(), "dataset", "dataset = 'texts'");
    workspace.write("study/tiny.toml", sweep);
    workspace
        .run(&["study/tiny.toml", "--set", "runs_dir=elsewhere"])
        .succeeds();
    assert!(workspace.path("elsewhere/runs.db").is_file());
    assert!(!workspace.path("runs").exists());
    let args = [
        "sql",
        "--json",
        "--runs-dir",
        "elsewhere",
        "SELECT count(*) AS n FROM result",
    ];
    assert_eq!(
        workspace.run(&args).succeeds().listed("rows"),
        [json!({"n": 3})]
    );
}

#[test]
fn values_of_every_type_can_be_set() {
    let workspace = Workspace::with_tiny_sweep();
    let args = [
        "plan",
        "tiny.toml",
        "--json",
        "--set",
        "train.lr=0.25",
        "--set",
        "train.normalize_decoder=false",
        "--set",
        "train.init_seeds=[1, 2]",
        "--set",
        "train.text_column=text",
        "--set",
        "vary.k=[2]",
        "--set",
        "name=renamed",
    ];
    let plan = workspace.run(&args).succeeds().json();
    assert_eq!(plan["sweep"], "renamed");
    let config = &plan["jobs"][0]["config"];
    assert_eq!(config["lr"], 0.25);
    assert_eq!(config["normalize_decoder"], false);
    assert_eq!(config["init_seeds"], json!([1, 2]));
    assert_eq!(plan["jobs"].as_array().unwrap().len(), 4);

    let variables = [
        ("SAE_RUN_TRAIN__LR", "0.5"),
        ("SAE_RUN_VARY__K", "[2, 3, 4]"),
        ("SAE_RUN_NAME", "other"),
    ];
    let plan = workspace
        .run_with(&variables, &["plan", "tiny.toml", "--json"])
        .succeeds()
        .json();
    assert_eq!(plan["sweep"], "other");
    assert_eq!(plan["jobs"].as_array().unwrap().len(), 12);
    assert_eq!(plan["jobs"][0]["saes"][0]["lr"], 0.5);
}
