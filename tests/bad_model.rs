//! Model folders that cannot be used: this is reported before anything is trained.

use crate::common::{Workspace, fixture, replace_line, small_sweep};
use serde_json::{Value, json};
use std::fs;
use tch::Tensor;

/// A copy of the tiny model in `model`, and the tiny sweep on it.
pub(crate) fn with_model() -> Workspace {
    let workspace = Workspace::new();
    for entry in fs::read_dir(fixture("tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        workspace.write(&format!("model/{name}"), fs::read(&path).unwrap());
    }
    workspace.write(
        "tiny.toml",
        replace_line(&small_sweep(), "model", "model = 'model'"),
    );
    workspace
}

pub(crate) fn edit_config(workspace: &Workspace, key: &str, value: Value) {
    let path = workspace.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

pub(crate) fn edit_weights(workspace: &Workspace, edit: impl Fn(&str, Tensor) -> Option<Tensor>) {
    let path = workspace.path("model/model.safetensors");
    let tensors = Tensor::read_safetensors(&path).unwrap();
    let edited: Vec<_> = tensors
        .into_iter()
        .filter_map(|(name, tensor)| edit(&name, tensor).map(|tensor| (name, tensor)))
        .collect();
    Tensor::write_safetensors(&edited, path).unwrap();
}

fn first_rows(tensor: &Tensor, n_rows: i64) -> Tensor {
    tensor
        .narrow(0, 0, n_rows.min(tensor.size()[0]))
        .contiguous()
}

/// Runs the sweep, which must be refused before anything is written.
#[track_caller]
fn refused_early(workspace: &Workspace, parts: &[&str], hint: &str) {
    let outcome = workspace.run(&["tiny.toml"]).refuses(parts).hints(hint);
    assert_eq!(outcome.stdout, "");
    assert!(!workspace.path("runs").exists(), "{outcome}");
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

#[test]
fn a_missing_tensor_is_told() {
    let workspace = with_model();
    edit_weights(&workspace, |name, tensor| (name != UP).then_some(tensor));
    let error = format!("tensor `{UP}` is missing in `");
    refused_early(
        &workspace,
        &[&error, "model/model.safetensors"],
        "fetch the model's files again",
    );
}

#[test]
fn what_no_job_needs_may_be_missing() {
    let workspace = with_model();
    edit_weights(&workspace, |name, tensor| {
        (!name.contains("layers.3.")).then_some(tensor)
    });
    workspace.run(&["tiny.toml"]).succeeds();
}

#[test]
fn a_wrong_shape_is_told() {
    let workspace = with_model();
    edit_weights(&workspace, |name, tensor| {
        Some(first_rows(&tensor, if name == UP { 5 } else { i64::MAX }))
    });
    let error = format!("tensor `{UP}` of `");
    let shapes = "has shape [5, 32], expected [64, 32]";
    refused_early(&workspace, &[&error, shapes], "config.json and the weights");
}

#[test]
fn damaged_weights_are_told() {
    let workspace = with_model();
    let whole = fs::read(workspace.path("model/model.safetensors")).unwrap();
    let invalid = "model.safetensors` is not a valid safetensors file";
    workspace.write("model/model.safetensors", b"no safetensors");
    refused_early(&workspace, &[invalid], "fetch");
    workspace.write("model/model.safetensors", &whole[..whole.len() - 1]);
    let last = "tensor `model.norm.weight` ends at byte";
    refused_early(&workspace, &[invalid, last], "fetch");
    fs::remove_file(workspace.path("model/model.safetensors")).unwrap();
    refused_early(&workspace, &["no `model.safetensors`"], "safetensors");
}

#[test]
fn a_missing_shard_is_told() {
    let workspace = with_model();
    let path = workspace.path("model/model.safetensors");
    let shard = workspace.path("model/model-00001-of-00002.safetensors");
    let names = Tensor::read_safetensors(&path).unwrap().into_iter();
    let weight_map: serde_json::Map<String, Value> = names
        .map(|(name, _)| {
            if name == UP {
                (name, json!("model-00002-of-00002.safetensors"))
            } else {
                (name, json!("model-00001-of-00002.safetensors"))
            }
        })
        .collect();
    fs::rename(path, shard).unwrap();
    let index = json!({ "weight_map": weight_map }).to_string();
    workspace.write("model/model.safetensors.index.json", index);
    let tensor = format!("the shard of tensor `{UP}`");
    let parts = ["model/model-00002-of-00002.safetensors", &tensor];
    refused_early(&workspace, &parts, "fetch");
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

/// What a clone without Git LFS leaves, in each place from which a foreign file is read.
#[test]
fn a_pointer_of_git_lfs_is_told() {
    for file in [
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "data.jsonl",
        "data.parquet",
        "data.arrow",
        "data.bin",
    ] {
        let workspace = with_model();
        workspace.write(file, POINTER);
        let dataset = format!("train.dataset={file}");
        let more: &[&str] = if file.starts_with("data") {
            &["--set", &dataset]
        } else {
            &[]
        };
        let outcome = workspace.run(&[&["tiny.toml"], more].concat());
        outcome
            .refuses(&[file, "it is a Git LFS pointer"])
            .hints("git lfs pull");
    }
}

/// Weights under the names of a wrapper, of a model that another tool quantised, and of an adapter.
#[test]
fn a_tensor_that_is_missing_is_told_by_its_cause() {
    let workspace = with_model();
    let path = workspace.path("model/model.safetensors");
    let tensors = Tensor::read_safetensors(&path).unwrap().into_iter();
    let wrapped: Vec<_> = tensors
        .map(|(name, tensor)| (format!("_orig_mod.{name}"), tensor))
        .collect();
    Tensor::write_safetensors(&wrapped, path).unwrap();
    let parts = ["model.embed_tokens.weight", "prefix `_orig_mod.`"];
    refused_early(&workspace, &parts, "model._orig_mod.save_pretrained");

    let workspace = with_model();
    edit_config(&workspace, "quantization", json!({"bits": 4}));
    refused_early(&workspace, &["`quantization`", "MLX"], "original");

    let workspace = with_model();
    edit_weights(&workspace, |_, tensor| {
        Some(tensor.to_kind(tch::Kind::Double))
    });
    refused_early(&workspace, &["dtype F64"], "dtype=torch.float32");

    let workspace = with_model();
    let adapter = json!({"base_model_name_or_path": "a/base"}).to_string();
    workspace.write("model/adapter_config.json", adapter);
    refused_early(&workspace, &["PEFT adapter"], "base model `a/base`");
}

/// A loss on the model's output needs the head as an evaluation does, and the plan says so.
#[test]
fn a_head_that_is_not_there_is_told_when_planning() {
    let workspace = with_model();
    edit_config(&workspace, "tie_word_embeddings", json!(false));
    for loss in ["ce", "kl"] {
        let loss = format!("train.loss_fn={loss}");
        let set = ["plan", "tiny.toml", "--set", &loss];
        workspace
            .run(&set)
            .refuses(&["has no head", "lm_head.weight"])
            .hints("set `loss_fn = \"fvu\"`");
    }
    let evaluated = ["plan", "tiny.toml", "--set", "train.eval_fraction=0.1"];
    workspace
        .run(&evaluated)
        .refuses(&["has no head"])
        .hints("`evaluate = false`");
    workspace.run(&["plan", "tiny.toml"]).succeeds();
}

#[test]
fn an_unknown_architecture_is_told() {
    let workspace = with_model();
    edit_config(&workspace, "model_type", json!("mamba"));
    let parts = [
        "model/config.json` is a model of type `mamba`",
        "not supported",
    ];
    refused_early(
        &workspace,
        &parts,
        "supported are: gemma2, gemma3, gemma3_text, gpt2",
    );
}

#[test]
fn a_folder_that_is_no_model_is_told() {
    let workspace = with_model();
    fs::write(workspace.path("model/config.json"), "{}").unwrap();
    refused_early(
        &workspace,
        &["model/config.json` lacks the key `model_type`"],
        "model",
    );
    fs::write(workspace.path("model/config.json"), "nonsense").unwrap();
    refused_early(
        &workspace,
        &["model/config.json` is not a JSON object"],
        "model",
    );
    fs::remove_file(workspace.path("model/config.json")).unwrap();
    refused_early(
        &workspace,
        &["cannot read", "model/config.json"],
        "complete",
    );
}

#[test]
fn a_missing_or_damaged_tokenizer_is_told() {
    let workspace = with_model();
    fs::remove_file(workspace.path("model/tokenizer.json")).unwrap();
    refused_early(&workspace, &["model/tokenizer.json"], "tokenizer.json");
    workspace.write("model/tokenizer.json", "{}");
    let outcome = workspace.run(&["tiny.toml"]);
    outcome
        .fails(&["cannot load the tokenizer", "model/tokenizer.json"])
        .hints("tokenizer.json");
    assert!(workspace.trained().is_empty());
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary_is_told() {
    let workspace = with_model();
    edit_config(&workspace, "vocab_size", json!(200));
    edit_weights(&workspace, |name, tensor| {
        let is_embedding = name == "model.embed_tokens.weight";
        Some(first_rows(
            &tensor,
            if is_embedding { 200 } else { i64::MAX },
        ))
    });
    let parts = ["model/tokenizer.json` gives token 299", "vocab_size is 200"];
    workspace
        .run(&["tiny.toml"])
        .fails(&parts)
        .hints("different models");
    assert!(workspace.trained().is_empty());
}
