//! Data sets of the Hub, served by a Hub on this machine.

use super::{describe, sample};
use crate::common::{Outcome, Workspace, fixture, replace_line, small_sweep, text};
use hub_server::{Access, HubServer};
use serde_json::json;
use std::fs;

const DATASET: &str = "org/texts";

/// A Hub with a data set of two splits.
fn with_hub() -> (HubServer, Workspace) {
    let server = HubServer::start();
    let workspace = Workspace::new();
    let whole = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    let lines: Vec<_> = whole.lines().collect();
    workspace.write("source/README.md", "---\nlicense: mit\n---\nTexts.\n");
    workspace.write(
        "source/data/train-00000-of-00002.jsonl",
        lines[..300].join("\n"),
    );
    workspace.write(
        "source/data/train-00001-of-00002.jsonl",
        lines[300..].join("\n"),
    );
    workspace.write(
        "source/data/test-00000-of-00001.jsonl",
        lines[..100].join("\n"),
    );
    server.add_dataset(DATASET, &workspace.path("source"));
    (server, workspace)
}

fn with_endpoint(server: &HubServer, workspace: &Workspace, args: &[&str]) -> Outcome {
    workspace.run_with(&[("HF_ENDPOINT", &server.url())], args)
}

fn sweep_on(dataset: &str) -> String {
    replace_line(&small_sweep(), "dataset", &format!("dataset = '{dataset}'"))
}

#[test]
fn a_sweep_on_a_data_set_of_the_hub() {
    let (server, workspace) = with_hub();
    workspace.write("tiny.toml", sweep_on(DATASET));
    with_endpoint(&server, &workspace, &["plan", "tiny.toml"]).succeeds();
    let requests = server.requests();
    let is_data = |target: &str| target.contains("/resolve/") && target.contains(".jsonl");
    assert!(
        !requests.iter().any(|request| is_data(&request.target)),
        "{requests:?}"
    );

    with_endpoint(&server, &workspace, &["tiny.toml"]).succeeds();
    assert_eq!(workspace.sql_value("SELECT count(*) FROM result"), json!(3));
    let requests = server.requests();
    let is_other_split = |target: &str| is_data(target) && target.contains("test-");
    assert!(
        !requests
            .iter()
            .any(|request| is_other_split(&request.target)),
        "{requests:?}"
    );

    // The same sequences as from the same text on this machine, so the same weights.
    let local = Workspace::with_small_sweep();
    local.run(&["tiny.toml"]).succeeds();
    let saes = |workspace: &Workspace| {
        let files = workspace.trained().into_iter();
        let mut saes: Vec<_> = files
            .filter(|(path, _)| path.ends_with("sae.safetensors"))
            .map(|(_, bytes)| bytes)
            .collect();
        saes.sort_unstable();
        saes
    };
    assert!(saes(&workspace) == saes(&local));

    drop(server);
    let offline = workspace.run_with(&[("HF_HUB_OFFLINE", "1")], &["tiny.toml"]);
    offline.succeeds().remarks(&["all 2 jobs are done already"]);
}

#[test]
fn splits_and_refusals_of_the_hub() {
    let (server, workspace) = with_hub();
    let model = fixture("tiny-llama");
    let ask = |dataset: &str, args: &[&str]| {
        let fixed = [
            "data",
            dataset,
            "--model",
            text(&model),
            "--ctx-len",
            "64",
            "--json",
        ];
        with_endpoint(&server, &workspace, &[&fixed[..], args].concat())
    };
    let test = ask(DATASET, &["--split", "test"]).succeeds().json();
    assert_eq!(test["n_documents"], json!(100));
    ask(DATASET, &["--split", "validation"])
        .refuses(&["validation"])
        .hints("test");
    ask("org/none", &[]).refuses(&["data set `org/none`"]);
    server.restrict(DATASET, Access::Gated);
    ask(DATASET, &["--split", "train"]).refuses(&["`org/texts`"]);
}

#[test]
fn the_hub_is_not_needed_for_what_is_in_the_cache() {
    let (server, workspace) = with_hub();
    let model = fixture("tiny-llama");
    let args = ["data", DATASET, "--model", text(&model), "--json"];
    let args = [&args[..], &["--ctx-len", "64"]].concat();
    let offline = |set: &str| workspace.run_with(&[("HF_HUB_OFFLINE", set)], &args);
    offline("1")
        .refuses(&["`org/texts`", "is not in the cache"])
        .hints("HF_HUB_OFFLINE");
    let first = with_endpoint(&server, &workspace, &args).succeeds().json();
    assert_eq!(offline("1").succeeds().json(), first);
    let url = server.url();
    drop(server);
    let without_network = workspace.run_with(&[("HF_ENDPOINT", &url)], &args);
    assert_eq!(without_network.succeeds().json(), first);
}

#[test]
fn without_a_network_and_with_an_empty_cache_the_data_set_is_named() {
    let (server, workspace) = with_hub();
    let url = server.url();
    drop(server);
    let model = fixture("tiny-llama");
    let args = ["data", DATASET, "--model", text(&model)];
    workspace
        .run_with(&[("HF_ENDPOINT", &url)], &args)
        .refuses(&["`org/texts`", &url])
        .hints("network");
    workspace.write("tiny.toml", sweep_on(DATASET));
    workspace
        .run_with(&[("HF_ENDPOINT", &url)], &["tiny.toml"])
        .refuses(&["`org/texts`", &url]);
    assert!(workspace.files("cache/tokens").is_empty());
}

/// A Hub with a data set that is nothing but a script, and the Hub's own copy in Parquet: all of
/// configuration `x`, and the beginning of `y`.
fn with_script() -> (HubServer, Workspace) {
    let server = HubServer::start();
    let workspace = Workspace::new();
    let card = "---\ndataset_info:\n- config_name: x\n- config_name: y\n---\n";
    workspace.write("source/README.md", card);
    workspace.write("source/scripted.py", "raise SystemExit\n");
    server.add_dataset("org/scripted", &workspace.path("source"));
    let whole = fs::read(sample("documents.parquet")).unwrap();
    for name in ["x/train", "x/train_sft", "x/test", "y/partial-train"] {
        workspace.write(&format!("copy/{name}/0000.parquet"), &whole);
    }
    let branch = "refs/convert/parquet";
    server.add_dataset_revision("org/scripted", branch, &workspace.path("copy"));
    server.add_dataset("org/uncopied", &workspace.path("source"));
    (server, workspace)
}

#[test]
fn a_script_is_replaced_by_the_hubs_copy_in_parquet() {
    let (server, workspace) = with_script();
    let model = fixture("tiny-llama");
    let ask = |dataset: &str, args: &[&str]| {
        let fixed = ["data", dataset, "--model", text(&model), "--json"];
        let fixed = [&fixed[..], &["--ctx-len", "64"], args].concat();
        with_endpoint(&server, &workspace, &fixed)
    };
    let of_config = |config: &str, split: &str| {
        let data_args = format!("name={config}");
        let args = ["--data-args", &data_args, "--split", split];
        ask("org/scripted", &args)
    };
    let expected = describe(&workspace, &sample("documents.parquet"), &[]);
    let copied = of_config("x", "train").succeeds();
    for key in ["n_documents", "n_tokens", "n_sequences"] {
        assert_eq!(copied.json()[key], expected[key], "{key}");
    }
    let files = copied.json()["files"].to_string();
    assert!(
        files.contains("x/train/0000.parquet") && !files.contains("sft"),
        "{files}"
    );
    let copied = copied.remarks(&["taking the Hub's copy of it in Parquet"]);
    assert!(!copied.stderr.contains("beginning"), "{copied}");

    let partial = of_config("y", "train").succeeds();
    partial.remarks(&["which has only the beginning of split `train`"]);
    of_config("x", "train_gen")
        .refuses(&["has no split `train_gen`"])
        .hints("choose one of `test`, `train`, `train_sft`");
    of_config("z", "train")
        .refuses(&["has no configuration `z`"])
        .hints("choose one of `x`, `y`");
    ask("org/scripted", &[])
        .refuses(&["has several configurations"])
        .hints("choose one of `x`, `y`");
    ask("org/scripted", &["--data-args", "data_files=a.jsonl"]).refuses(&["`a.jsonl`"]);
    ask("org/uncopied", &["--data-args", "name=x"]).refuses(&["no file of a known format"]);
}
