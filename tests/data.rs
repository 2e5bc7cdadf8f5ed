//! Data sets in their formats, on the real binary; from the Hub, in sweeps, and disturbed.

mod disturbed;
mod forms;
mod in_sweeps;
mod on_hub;

use crate::common::{Outcome, Workspace, fixture, text};
use serde_json::{Value, json};
use std::fs;

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

    // A `.bin` file is a data set, shuffled like any other: the same sequences in another order.
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

/// The sequences of the only token file in the cache, in the order of the documents.
fn cached_rows(workspace: &Workspace, n_row_bytes: usize) -> Vec<Vec<u8>> {
    let cache = workspace.files("cache/tokens");
    let mut tokens = cache.iter().filter(|(name, _)| name.ends_with(".tokens"));
    let (_, (_, bytes)) = tokens.next().unwrap();
    assert!(tokens.next().is_none());
    // After the header.
    let rows = bytes[128..].chunks(n_row_bytes);
    rows.map(<[u8]>::to_vec).collect()
}

/// The order is that of `Dataset.shuffle`, as Python has recorded it.
#[test]
fn the_training_order_is_sparsifys() {
    let workspace = Workspace::new();
    let golden = fs::read_to_string(fixture("golden/tokens.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let golden = &golden["tiny_shuffled"];
    let seed = golden["seed"].to_string();
    let args = ["--shuffle-seed", &seed, "--out", "tokens.bin"];
    describe(&workspace, text(&fixture("tiny.jsonl")), &args);
    let rows = cached_rows(&workspace, 64 * 2);
    let order = golden["rows"].as_array().unwrap().iter();
    let order = order.map(|row| row.as_u64().unwrap() as usize);
    let expected: Vec<_> = order.flat_map(|row| rows[row].clone()).collect();
    assert!(fs::read(workspace.path("tokens.bin")).unwrap() == expected);
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
    data(&workspace, "data.jsonl", &[]).refuses(&["data.jsonl:1", "has a number"]);
    let outcome = data(&workspace, "data.jsonl", &["--on-bad-row", "skip"]).succeeds();
    assert_eq!(outcome.json()["n_skipped"], json!(2));
    outcome.remarks(&["skipped 2 bad rows", "data.jsonl:1"]);
}

#[test]
fn settings_that_are_wrong() {
    let workspace = Workspace::new();
    workspace.write("data.jsonl", "{\"text\": \"a\"}\n");
    let refused = |args: &[&str]| data(&workspace, "data.jsonl", args);
    refused(&["--split", "train[:10%"]).refuses(&["`split`", "train[:10%`"]);
    refused(&["--split", "train[:10%]"])
        .refuses(&["no documents"])
        .hints("more rows with `split`");
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
