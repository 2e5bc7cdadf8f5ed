//! Data sets that give nothing to train on, and caches that are damaged.

use crate::common::{Workspace, fixture};
use std::fs;

#[test]
fn data_that_gives_no_tokens_is_told() {
    let cases = [
        ("", "no documents", "add text"),
        (
            "{\"text\": \"short\"}\n",
            "too few for one sequence of ctx_len = 64",
            "lower ctx_len",
        ),
        (
            "{\"txt\": \"a\"}\n",
            "data.jsonl:1: no column `text`",
            "`text_column` to one of `txt`",
        ),
        (
            "{\"text\": 3}\n",
            "data.jsonl:1: column `text` has",
            "`on_bad_row = \"skip\"`",
        ),
        (
            "{\"text\": \"a\"}\nnonsense\n",
            "data.jsonl:2: not a JSON object",
            "one JSON object a line",
        ),
    ];
    for (data, problem, hint) in cases {
        let workspace = Workspace::with_small_sweep();
        workspace.write("data.jsonl", data);
        let outcome = workspace.run(&["tiny.toml", "--set", "train.dataset=data.jsonl"]);
        let parts = ["data.jsonl", problem];
        // What the first document shows is found before anything begins.
        let outcome = if workspace.path("runs").exists() {
            outcome.fails(&parts)
        } else {
            outcome.refuses(&parts)
        };
        outcome.hints(hint);
        assert!(workspace.trained().is_empty());
    }
}

#[test]
fn data_that_is_no_data_set_is_told() {
    let workspace = Workspace::with_small_sweep();
    workspace.write("cut.parquet", "PAR1");
    workspace.write("cut.jsonl.gz", b"\x1f\x8b\x08");
    workspace.write("data.docx", "PK");
    fs::create_dir(workspace.path("empty")).unwrap();
    for (dataset, problem, hint) in [
        (
            "cut.parquet",
            "not a readable Parquet file",
            "copy or download",
        ),
        (
            "cut.jsonl.gz",
            "not a readable gzip file",
            "copy or download",
        ),
        ("data.docx", "no known format", ".jsonl"),
        ("empty", "no file of a known format", ".jsonl"),
    ] {
        let set = format!("train.dataset={dataset}");
        let outcome = workspace.run(&["tiny.toml", "--set", &set]);
        outcome.refuses(&[dataset, problem]).hints(hint);
        assert!(workspace.trained().is_empty());
    }
}

#[test]
fn too_few_sequences_for_an_update_are_told() {
    let workspace = Workspace::with_small_sweep();
    let with = |set| workspace.run(&["tiny.toml", "--set", set]);
    with("train.max_examples=7")
        .refuses(&["`batch_size` is 8, but `max_examples` leaves 7 sequences"]);
    with("train.grad_acc_steps=9")
        .fails(&["one step takes", "9", "8"])
        .hints("`grad_acc_steps`");
    assert!(workspace.trained().is_empty());
    with("train.max_examples=30")
        .succeeds()
        .remarks(&["the last 6 of 30 sequences are not used: a step takes 8"]);
    // By now the tokens are there, and planning knows how many.
    let sets = [
        "--set",
        "train.max_examples=2000",
        "--set",
        "train.batch_size=1100",
    ];
    workspace
        .run(&[&["plan", "tiny.toml"][..], &sets].concat())
        .refuses(&[
            "--set train.batch_size",
            "1025 of 1025 sequences are selected, too few for one batch of 1100",
        ])
        .hints("lower batch_size to 1025 or less, or add text");
    // 512 sequences of 64 tokens are an update.
    let update = ["--set", "train.tokens_per_update=32768", "--set"];
    let plan = |set| workspace.run(&[&["plan", "tiny.toml"], &update[..], &[set]].concat());
    plan("train.max_examples=500")
        .refuses(&["500 of 1025 sequences are selected, too few for one batch of 512"])
        .hints("lower tokens_per_update, or raise max_examples to 512 or more");
    plan("train.max_examples=512").succeeds();
}

#[test]
fn too_few_sequences_are_told_before_there_are_tokens() {
    let workspace = Workspace::with_small_sweep();
    let update = ["--set", "train.tokens_per_update=32768"];
    let sets = [&update[..], &["--set", "train.max_examples=500"]].concat();
    workspace
        .run(&[&["plan", "tiny.toml"][..], &sets].concat())
        .refuses(&[
            "`batch_size` is 8, 64 of them make an update, but `max_examples` leaves 500 sequences",
        ]);
}

#[test]
fn text_that_was_mended_is_read_again() {
    let workspace = Workspace::with_small_sweep();
    workspace.write("data.jsonl", "{\"text\": \"short\"}\n");
    let args = ["tiny.toml", "--set", "train.dataset=data.jsonl"];
    workspace.run(&args).fails(&["too few for one sequence"]);
    workspace.write("data.jsonl", fs::read(fixture("tiny.jsonl")).unwrap());
    workspace.run(&args).succeeds();
    assert_eq!(workspace.sql_value("SELECT count(*) FROM result"), 3);
}

#[test]
fn a_damaged_token_cache_is_made_again() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let weights = workspace.trained();
    let cache = workspace.files("cache");
    let name = cache.keys().find(|path| path.ends_with(".tokens")).unwrap();
    let (path, whole) = (workspace.path("cache").join(name), &cache[name].1);
    let garbled: Vec<u8> = whole.iter().map(|byte| !byte).collect();
    for damaged in [&whole[..whole.len() / 2], &garbled, b""] {
        fs::write(&path, damaged).unwrap();
        workspace.run(&["tiny.toml", "--fresh", "--yes"]).succeeds();
        assert!(fs::read(&path).unwrap() == *whole, "not made again");
        assert!(workspace.trained() == weights, "other weights");
    }
}

#[test]
fn damaged_digests_are_made_again() {
    let workspace = Workspace::with_small_sweep();
    workspace.run(&["tiny.toml"]).succeeds();
    let cache = workspace.files("cache");
    let mut digests = cache
        .keys()
        .filter(|path| path.starts_with("digests/"))
        .peekable();
    assert!(digests.peek().is_some());
    for digest in digests {
        workspace.write(&format!("cache/{digest}"), "nonsense");
    }
    workspace
        .run(&["tiny.toml"])
        .succeeds()
        .remarks(&["all 2 jobs are done already"]);
}

#[test]
fn a_token_cache_that_cannot_be_written_is_told() {
    let workspace = Workspace::with_small_sweep();
    workspace.write("cache/tokens", "a file in place of the folder");
    workspace
        .run(&["tiny.toml"])
        .fails(&["cache/tokens"])
        .hints("`SAE_RUN_CACHE`");
    assert!(workspace.trained().is_empty());
}
