//! Data sets in their formats and from the Hub, on the real binary.

use crate::common::{Outcome, Workspace, finish, fixture, replace_line, small_sweep, text};
use ::hub::testing::{Access, HubServer};
use serde_json::{Value, json};
use std::fs;

const DATASET: &str = "org/texts";

/// `sae-run data` with the tiny model's tokenizer, as JSON.
fn describe(workspace: &Workspace, dataset: &str, args: &[&str]) -> Value {
    data(workspace, dataset, args).succeeds().json()
}

fn data(workspace: &Workspace, dataset: &str, args: &[&str]) -> Outcome {
    let model = fixture("tiny-llama");
    let fixed = ["data", dataset, "--model", text(&model), "--json"];
    let fixed = [&fixed[..], &["--ctx-len", "64"], args].concat();
    workspace.run(&fixed)
}

/// The first 300 documents of the awkward text, in the format that the name ends in.
fn sample(name: &str) -> String {
    text(&fixture("data").join(name)).to_owned()
}

#[test]
fn a_description_for_people() {
    let workspace = Workspace::new();
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    workspace.write("tiny.jsonl", fs::read(dataset).unwrap());
    let args = ["data", "tiny.jsonl", "--model", text(&model)];
    let args = [&args[..], &["--ctx-len", "64", "--eval-fraction", "0.1"]].concat();
    let outcome = workspace.run(&args).succeeds();
    let shown = outcome
        .stdout
        .replace(workspace.path("").to_str().unwrap(), "");
    insta::assert_snapshot!(shown);
}

#[test]
fn the_sequences_are_written_in_training_order() {
    let workspace = Workspace::new();
    let dataset = fixture("tiny.jsonl");
    let described = describe(&workspace, text(&dataset), &["--out", "tokens.bin"]);
    assert_eq!(described["n_sequences"], json!(1025));
    let bytes = fs::read(workspace.path("tokens.bin")).unwrap();
    assert_eq!(bytes.len(), 1025 * 64 * 2);

    // A `.bin` file is a data set; without a shuffle of its own it has the same order.
    let again = describe(&workspace, "tokens.bin", &["--out", "again.bin"]);
    assert_eq!(again["n_sequences"], json!(1025));
    assert_eq!(again["n_dropped_tokens"], json!(0));
    let shuffled = fs::read(workspace.path("again.bin")).unwrap();
    let sorted = |bytes: &[u8]| {
        let mut rows: Vec<_> = bytes.chunks(128).map(<[u8]>::to_vec).collect();
        rows.sort_unstable();
        rows
    };
    assert!(shuffled != bytes, "shuffled like any other data");
    assert!(sorted(&shuffled) == sorted(&bytes));

    // Fewer, and without those held out.
    let args = [
        "--max-examples",
        "100",
        "--eval-fraction",
        "0.5",
        "--out",
        "some.bin",
    ];
    let some = describe(&workspace, text(&dataset), &args);
    assert_eq!(
        (&some["n_held_out"], &some["n_training"]),
        (&json!(513), &json!(100))
    );
    assert_eq!(
        fs::read(workspace.path("some.bin")).unwrap().len(),
        100 * 64 * 2
    );
    assert!(!workspace.path("some.bin.partial").exists());
}

#[test]
fn the_same_documents_in_every_format() {
    let workspace = Workspace::new();
    let parquet = describe(&workspace, &sample("documents.parquet"), &[]);
    assert_eq!(parquet["n_documents"], json!(300));
    let saved = describe(&workspace, &sample("saved"), &[]);
    for key in ["n_documents", "n_tokens", "n_sequences", "first_sequence"] {
        assert_eq!(saved[key], parquet[key], "{key}");
    }
    assert_ne!(saved["digest"], parquet["digest"], "other files");
    // Python's reader of CSV leaves out three rows that are nothing but an empty text.
    let csv = describe(&workspace, &sample("documents.csv"), &[]);
    assert_eq!(csv["n_documents"], json!(297));
    let n_tokens = |described: &Value| described["n_tokens"].as_u64().unwrap();
    assert_eq!(n_tokens(&csv) + 3, n_tokens(&parquet));
}

#[test]
fn a_data_set_of_token_ids_needs_no_tokenizer() {
    let workspace = Workspace::new();
    let model = fixture("tiny-llama");
    for file in ["config.json", "model.safetensors"] {
        let content = fs::read(model.join(file)).unwrap();
        workspace.write(&format!("model/{file}"), content);
    }
    let rows: String = (0..20)
        .map(|row| format!("{{\"input_ids\": [{row}, 1, 2, 3]}}\n"))
        .collect();
    workspace.write("ids.jsonl", rows);
    let args = [
        "data",
        "ids.jsonl",
        "--model",
        "model",
        "--ctx-len",
        "4",
        "--json",
    ];
    let described = workspace.run(&args).succeeds().json();
    assert_eq!(described["n_sequences"], json!(20));
    let args = ["data", "ids.jsonl", "--model", "model", "--ctx-len", "5"];
    workspace
        .run(&args)
        .refuses(&["row 1", "has 4 token ids; ctx_len is 5"])
        .hints("set ctx_len to 4");
}

#[test]
fn bad_rows_are_left_out_on_request_and_counted() {
    let workspace = Workspace::new();
    let good = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    workspace.write("data.jsonl", format!("{{\"text\": 3}}\nnonsense\n{good}"));
    data(&workspace, "data.jsonl", &[]).refuses(&["data.jsonl:1", "holds a number"]);
    let outcome = data(&workspace, "data.jsonl", &["--on-bad-row", "skip"]).succeeds();
    assert_eq!(outcome.json()["n_skipped"], json!(2));
    outcome.remarks(&["2 bad rows are left out", "data.jsonl:1"]);
}

#[test]
fn settings_that_are_wrong() {
    let workspace = Workspace::new();
    workspace.write("data.jsonl", "{\"text\": \"a\"}\n");
    let refused = |args: &[&str]| data(&workspace, "data.jsonl", args);
    refused(&["--split", "train[:10%]"]).refuses(&["`split`", "train[:10%]"]);
    refused(&["--split", "test"])
        .refuses(&["test"])
        .hints("train");
    refused(&["--data-args", "streaming=true"]).refuses(&["no argument `streaming`"]);
    refused(&["--eval-fraction", "1.5"]).refuses(&["`eval_fraction`", "1.5"]);
    refused(&["--on-bad-row", "maybe"]).refuses(&["`on_bad_row`", "maybe"]);
    refused(&["--max-examples=-1"]).refuses(&["--max-examples"]);
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing_behind() {
    let workspace = Workspace::new();
    let dataset = fixture("tiny.jsonl");
    data(
        &workspace,
        text(&dataset),
        &["--out", "no/folder/tokens.bin"],
    )
    .refuses(&["cannot write `no/folder/tokens.bin`"]);
    fs::create_dir(workspace.path("taken.bin")).unwrap();
    data(&workspace, text(&dataset), &["--out", "taken.bin"]).refuses(&["taken.bin"]);
    assert!(!workspace.path("taken.bin.partial").exists());
}

/// With less room for files than the tokens need, as on a full disk.
#[test]
#[cfg(unix)]
fn a_full_disk_while_tokenising_leaves_no_tokens_that_are_trusted() {
    let workspace = Workspace::new();
    let (model, dataset) = (fixture("tiny-llama"), fixture("tiny.jsonl"));
    let args = ["data", text(&dataset), "--model", text(&model), "--json"];
    let args = [&args[..], &["--ctx-len", "64"]].concat();
    let whole = workspace.command(&args);
    let mut limited = std::process::Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "bash"]);
    limited.arg(whole.get_program()).args(whole.get_args());
    limited.envs(
        whole
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    limited.current_dir(workspace.path(""));
    finish(limited)
        .refuses(&["cannot write", ".partial"])
        .hints("is there space?");
    let is_trusted = |path: &String| path.ends_with(".tokens");
    assert!(!workspace.files("cache").keys().any(is_trusted));

    let described = workspace.run(&args).succeeds().json();
    assert_eq!(described["n_sequences"], json!(1025));
}

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
fn tokens_are_held_out_the_same_way_for_all_jobs() {
    let workspace = Workspace::new();
    let sweep = replace_line(
        &small_sweep(),
        "ctx_len",
        "ctx_len = 64\neval_fraction = 0.25",
    );
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    let with = workspace.trained();
    let plain = Workspace::with_small_sweep();
    plain.run(&["tiny.toml"]).succeeds();
    let ids = |workspace: &Workspace| workspace.sql("SELECT job_id FROM job ORDER BY job_id");
    assert_ne!(
        ids(&workspace),
        ids(&plain),
        "what is trained on is part of the id"
    );
    assert!(with != plain.trained());
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
fn data_to_evaluate_on_is_prepared_before_training() {
    let workspace = Workspace::with_small_sweep();
    let whole = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    let some: Vec<_> = whole.lines().take(200).collect();
    workspace.write("other.jsonl", some.join("\n"));
    let with = |set: &str| workspace.run(&["tiny.toml", "--set", set]);
    with("train.eval_split=test")
        .refuses(&["test"])
        .hints("train");
    with("train.eval_dataset=none.jsonl").refuses(&["`none.jsonl`"]);
    workspace.write("short.jsonl", "{\"text\": \"short\"}\n");
    with("train.eval_dataset=short.jsonl").refuses(&["short.jsonl", "no sequence"]);
    assert!(workspace.trained().is_empty());

    with("train.eval_dataset=other.jsonl").succeeds();
    let n_tokens_files = || {
        let files = workspace.files("cache").into_keys();
        files.filter(|path| path.ends_with(".tokens")).count()
    };
    assert_eq!(n_tokens_files(), 2);
    with("train.eval_dataset=other.jsonl")
        .succeeds()
        .remarks(&["all 2 jobs are done already"]);
}
