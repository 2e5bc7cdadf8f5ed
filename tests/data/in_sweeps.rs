//! Data sets in sweeps: what is held out, what is left out.

use super::{data, describe};
use crate::common::{Workspace, fixture, replace_line, small_sweep, text};
use serde_json::json;
use std::fs;

/// Jobs that differ in what they train on and how: all are evaluated on the same sequences.
#[test]
fn tokens_are_held_out_the_same_way_for_all_jobs() {
    let workspace = Workspace::new();
    let sweep = replace_line(&small_sweep(), "k = ", "k = [4, 8]\nshuffle_seed = [1, 2]");
    let sweep = replace_line(&sweep, "ctx_len", "ctx_len = 64\neval_fraction = 0.25");
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).succeeds();
    let jobs = "SELECT count(DISTINCT job_id) FROM result WHERE fvu_eval > 0";
    assert_eq!(workspace.sql_value(jobs), json!(8));
    // Without an SAE, what the model predicts depends on nothing but the sequences.
    let clean = workspace.sql("SELECT DISTINCT ce_clean FROM result");
    assert!(
        clean.len() == 1 && clean[0]["ce_clean"].is_f64(),
        "{clean:?}"
    );
    let trained = workspace.sql("SELECT DISTINCT fvu FROM result");
    assert!(trained.len() > 4, "they trained on different sequences");
}

#[test]
fn what_is_held_out_is_the_rest_of_what_is_trained_on() {
    let workspace = Workspace::new();
    let dataset = fixture("tiny.jsonl");
    let rows = |name: &str| {
        let bytes = fs::read(workspace.path(name)).unwrap();
        bytes.chunks(128).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    describe(&workspace, text(&dataset), &["--out", "all.bin"]);
    let mut all = rows("all.bin");
    all.sort_unstable();
    let mut held_out = Vec::new();
    for seed in ["1", "2"] {
        let args = ["--eval-fraction", "0.25", "--shuffle-seed", seed];
        let args = [&args[..], &["--out", "out.bin", "--out-eval", "eval.bin"]].concat();
        describe(&workspace, text(&dataset), &args);
        let mut both = [rows("out.bin"), rows("eval.bin")].concat();
        both.sort_unstable();
        assert!(both == all);
        held_out.push(rows("eval.bin"));
    }
    assert!(held_out[0] == held_out[1]);
}

/// The count is reported in every attempt, also in those that find the tokens already made.
#[test]
fn bad_rows_are_left_out_and_recorded_in_every_attempt() {
    let workspace = Workspace::new();
    let good = fs::read_to_string(fixture("tiny.jsonl")).unwrap();
    workspace.write("data.jsonl", format!("{{\"text\": 3}}\nnonsense\n{good}"));
    let sweep = replace_line(&small_sweep(), "dataset", "dataset = 'data.jsonl'");
    workspace.write("tiny.toml", sweep);
    workspace.run(&["tiny.toml"]).refuses(&["data.jsonl:1"]);
    let skip = ["tiny.toml", "--set", "train.on_bad_row=skip"];
    workspace
        .run(&skip)
        .succeeds()
        .remarks(&["skipped 2 bad rows; the first one: ", "data.jsonl:1"]);
    let again = [&skip[..], &["--fresh", "--yes"]].concat();
    workspace
        .run(&again)
        .succeeds()
        .remarks(&["skipped 2 bad rows"]);
    let sql = "SELECT number FROM attempt_note JOIN attempt USING (attempt_id)
        WHERE message LIKE 'skipped 2 bad rows%' ORDER BY number";
    let expected = json!([{"number": 1}, {"number": 2}]);
    assert_eq!(json!(workspace.sql(sql)), expected);
    let described = data(&workspace, "data.jsonl", &["--on-bad-row", "skip"]).succeeds();
    assert_eq!(described.json()["n_skipped"], json!(2));
    described.remarks(&["skipped 2 bad rows"]);
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
    with("train.eval_dataset=short.jsonl").fails(&["short.jsonl", "too few for one sequence"]);
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
