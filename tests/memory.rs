//! Jobs that do not fit side by side, and a job that does not fit at all.

use crate::bad_model::with_model;
use crate::common::{Workspace, finish, fixture};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn plan(workspace: &Workspace, set: &[&str]) -> Value {
    let args = [&["plan", "tiny.toml", "--json"][..], set].concat();
    workspace.run(&args).succeeds().json()
}

fn total_bytes(stream: &Value) -> u64 {
    let keys = ["model_bytes", "sae_bytes", "workspace_bytes"];
    let bytes = keys.map(|key| stream["memory"][key].as_u64().unwrap());
    bytes.iter().sum()
}

#[test]
fn jobs_that_do_not_fit_side_by_side_are_trained_in_turns() {
    let workspace = Workspace::with_tiny_sweep();
    let whole = plan(&workspace, &[]);
    assert_eq!(whole["streams"].as_array().unwrap().len(), 1);
    let most_bytes = total_bytes(&whole["streams"][0]) * 3 / 4;
    let limit = format!("launch.memory_bytes={most_bytes}");
    let parts = plan(&workspace, &["--set", &limit]);
    let parts = parts["streams"].as_array().unwrap();
    assert!(parts.len() > 1, "{parts:?}");
    assert!(parts.iter().all(|part| total_bytes(part) <= most_bytes));
    assert_eq!(whole["jobs"].as_array().unwrap().len(), 8);
    let sae = &whole["jobs"][0]["sae_memory"][0];
    assert!(sae["weights_bytes"].as_u64().unwrap() > 0, "{sae}");

    workspace.run(&["tiny.toml", "--set", &limit]).succeeds();
    let in_turns = workspace.trained();
    let together = Workspace::with_tiny_sweep();
    together.run(&["tiny.toml"]).succeeds();
    assert!(in_turns == together.trained(), "the same bits");
}

#[test]
fn a_job_that_does_not_fit_is_told_of_and_tried() {
    let workspace = Workspace::with_small_sweep();
    let limit = ["tiny.toml", "--set", "launch.memory_bytes=1000"];
    workspace.run(&limit).succeeds().remarks(&[
        "2 jobs are predicted to take",
        "memory may run out",
        "`micro_acc_steps`",
    ]);
}

#[test]
fn a_tokenizer_that_makes_text_without_end_ends_at_what_memory_there_is_and_is_not_tried_again() {
    let workspace = with_model();
    let path = workspace.path("model/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let rule = json!({"type": "Replace", "pattern": {"String": "e"}, "content": "eeeeeeeeee"});
    tokenizer["normalizer"] = json!({"type": "Sequence", "normalizers": vec![rule; 15]});
    fs::write(path, tokenizer.to_string()).unwrap();
    assert_memory_ends(&workspace, &fixture("tiny.jsonl"), &["launch.retries=3"]);
    assert_eq!(workspace.sql_value("SELECT count(*) FROM attempt"), 1);
}

/// A sweep and `data` end with the name of the data set's file, on a machine with little memory left.
#[track_caller]
fn assert_memory_ends(workspace: &Workspace, dataset: &Path, settings: &[&str]) {
    let (file, name) = (dataset.to_str(), dataset.file_name().unwrap().to_str());
    let (file, name) = (file.unwrap(), name.unwrap());
    let mut sweep = vec!["tiny.toml"];
    settings
        .iter()
        .for_each(|setting| sweep.extend(["--set", setting]));
    let make = ["data", file, "--model", "model", "--out", "tokens.bin"];
    // So that this test takes little, too.
    let limited = [
        "-c",
        "ulimit -d 2500000 && exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_sae-run"),
    ];
    let parts = ["not enough memory to tokenise", name, "model"];
    let run = |args: &[&str]| {
        let args = [&limited, args].concat();
        finish(workspace.command_of(Path::new("/bin/sh"), &args))
    };
    let outcome = run(&sweep);
    // A document that is too large is found before anything begins.
    let outcome = if workspace.path("runs").exists() {
        outcome.fails(&parts)
    } else {
        outcome.refuses(&parts)
    };
    outcome.hints("rules of the tokenizer");
    run(&make).refuses(&parts).hints("rules of the tokenizer");
}

/// An Arrow file with a buffer that is said to have 1 TiB once unpacked.
#[test]
fn a_file_that_claims_more_than_there_is_ends_with_its_name() {
    let workspace = with_model();
    let path = workspace.path("claims.arrow");
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["a document"; 100]));
    let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME));
    let mut writer =
        FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options.unwrap()).unwrap();
    writer.write(&batch).unwrap();
    let mut content = writer.into_inner().unwrap();
    let is_packed = |at: &usize| content[*at..].starts_with(&[0x04, 0x22, 0x4d, 0x18]);
    let packed: Vec<_> = (0..content.len()).filter(is_packed).collect();
    for start in &packed {
        content[start - 8..*start].copy_from_slice(&(1_i64 << 40).to_le_bytes());
    }
    assert!(!packed.is_empty());
    fs::write(&path, content).unwrap();
    let dataset = format!("train.dataset={}", path.display());
    assert_memory_ends(&workspace, &path, &[&dataset]);
    assert!(!workspace.path("runs/runs.db").exists(), "it was planned");
}
