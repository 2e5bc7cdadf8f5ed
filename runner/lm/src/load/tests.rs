//! Loading: what is read, and what is refused.

use super::*;
use crate::testing::{RawTensor, RawTensors, TinyModel, assert_close, tiny_llama, write_tensors};
use crate::{LanguageModel, Taps};
use facts::FactsError;
use facts::{check_head, check_model, weight_files};
use fault::Remedy;
use safetensors::Dtype;
use serde_json::json;

const UP_PROJ: &str = "model.layers.2.mlp.up_proj.weight";

fn check(dir: &Path, n_layers: usize) -> Result<Vec<String>, LmError> {
    Ok(check_model(dir, n_layers)?)
}

/// Planning and loading must find the same fault.
fn failure(dir: &Path) -> LmError {
    let planned = check(dir, 4).unwrap_err();
    let loaded = LanguageModel::load(dir, &LoadOptions::default()).unwrap_err();
    assert_eq!(planned.to_string(), loaded.to_string());
    planned
}

fn options(n_layers: usize) -> LoadOptions {
    LoadOptions {
        n_layers: Some(n_layers),
        ..LoadOptions::default()
    }
}

/// The output of `hookpoint` for a few tokens.
fn output(dir: &Path, hookpoint: &str) -> Tensor {
    let taps = Taps::new(&facts::read_facts(dir).unwrap(), &[hookpoint]).unwrap();
    let model = LanguageModel::load(dir, &options(taps.n_layers_needed())).unwrap();
    let input_ids = Tensor::from_slice(&[3_i64, 1, 4, 1, 5]).view([1, 5]);
    model
        .forward(&input_ids, &taps)
        .unwrap()
        .into_tensors()
        .remove(0)
}

#[test]
fn the_tiny_model_is_whole() {
    assert_eq!(check(&tiny_llama(), 4).unwrap(), Vec::<String>::new());
}

#[test]
fn tensors_that_no_llama_has_are_listed() {
    let model = TinyModel::with_tensors(|tensors| {
        let norm = tensors["model.norm.weight"].clone();
        for name in [
            "model.layers.1.self_attn.gate.weight",
            "lm_head.bias",
            "lm_head.weight",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
        ] {
            tensors.insert(name.into(), norm.clone());
        }
    });
    let unexpected = check(model.dir(), 1).unwrap();
    assert_eq!(
        unexpected,
        ["lm_head.bias", "model.layers.1.self_attn.gate.weight"]
    );
}

#[test]
fn missing_tensor_counts_only_where_it_is_needed() {
    let model = TinyModel::with_tensors(|tensors| {
        tensors.remove(UP_PROJ).unwrap();
    });
    let error = failure(model.dir());
    let LmError::Facts(FactsError::MissingTensor { path, tensor }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!((path, tensor.as_str()), (&model.weights(), UP_PROJ));
    check(model.dir(), 2).unwrap();
    LanguageModel::load(model.dir(), &options(2)).unwrap();
}

#[test]
fn wrong_shape_names_both_shapes() {
    let model = TinyModel::with_tensors(|tensors| {
        tensors.get_mut(UP_PROJ).unwrap().shape = vec![32, 64];
    });
    let error = failure(model.dir());
    let message = error.to_string();
    assert!(
        message.starts_with(&format!("tensor `{UP_PROJ}` of")),
        "{message}"
    );
    let shapes = "has shape [32, 64], expected [64, 32]";
    assert!(message.ends_with(shapes), "{message}");
}

#[test]
fn a_dtype_that_is_not_read() {
    let model = TinyModel::with_tensors(|tensors| {
        tensors.get_mut(UP_PROJ).unwrap().dtype = Dtype::I32;
    });
    let error = failure(model.dir());
    let message = error.to_string();
    assert!(message.contains("has dtype I32"), "{message}");
}

#[test]
fn a_folder_without_weights() {
    let model = TinyModel::copy();
    std::fs::remove_file(model.weights()).unwrap();
    let error = failure(model.dir());
    let message = error.to_string();
    let ends = format!("in `{}`", model.dir().display());
    let begins = "no `model.safetensors` and no `model.safetensors.index.json`";
    assert!(
        message.starts_with(begins) && message.ends_with(&ends),
        "{message}"
    );
    assert!(error.hint().unwrap().contains("as safetensors"));
}

/// Writes the tensors as two shards, the second with the layers 2 and 3.
fn shard(model: &TinyModel) {
    let is_late = |name: &str| name.contains("layers.2") || name.contains("layers.3");
    let (late, early): (RawTensors, RawTensors) = model
        .tensors()
        .into_iter()
        .partition(|(name, _)| is_late(name));
    let mut weight_map = serde_json::Map::new();
    for (file, tensors) in [("a.safetensors", early), ("b.safetensors", late)] {
        write_tensors(&model.dir().join(file), &tensors);
        weight_map.extend(tensors.into_keys().map(|name| (name, json!(file))));
    }
    std::fs::remove_file(model.weights()).unwrap();
    write_index(model, &json!({ "weight_map": weight_map }));
}

fn write_index(model: &TinyModel, index: &serde_json::Value) {
    std::fs::write(
        model.dir().join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
}

#[test]
fn shards_hold_the_same_model() {
    let model = TinyModel::copy();
    shard(&model);
    check(model.dir(), 4).unwrap();
    assert_eq!(output(model.dir(), "norm"), output(&tiny_llama(), "norm"));
    let files = weight_files(model.dir()).unwrap();
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap()).collect();
    let index = "model.safetensors.index.json";
    assert_eq!(
        names,
        ["config.json", index, "a.safetensors", "b.safetensors"]
    );
}

#[test]
fn missing_shard_counts_only_where_it_is_needed() {
    let model = TinyModel::copy();
    shard(&model);
    let missing = model.dir().join("b.safetensors");
    std::fs::remove_file(&missing).unwrap();
    assert_eq!(
        output(model.dir(), "layers.1"),
        output(&tiny_llama(), "layers.1")
    );
    let planned = check(model.dir(), 4).unwrap_err();
    let loaded = LanguageModel::load(model.dir(), &options(4)).unwrap_err();
    for error in [planned, loaded] {
        let message = error.to_string();
        let expected = format!(
            "cannot read `{}`, the shard of tensor `model.layers.2.",
            missing.display()
        );
        assert!(message.starts_with(&expected), "{message}");
        assert!(error.hint().unwrap().contains("fetch the model's files"));
    }
    let error = weight_files(model.dir()).unwrap_err();
    let first = "model.layers.2.input_layernorm.weight";
    let ends = format!("the shard of tensor `{first}`");
    assert!(error.to_string().ends_with(&ends), "{error}");
}

#[test]
fn a_truncated_shard_names_file_and_tensor() {
    let model = TinyModel::copy();
    shard(&model);
    let cut = model.dir().join("b.safetensors");
    let whole = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    // Only the data is cut: that of the last tensor in the file.
    let error = failure(model.dir());
    let message = error.to_string();
    let begins = format!(
        "`{}` is not a valid safetensors file: tensor `",
        cut.display()
    );
    assert!(message.starts_with(&begins), "{message}");
    assert!(message.contains("` ends at byte"), "{message}");
}

#[test]
fn broken_indices() {
    let model = TinyModel::copy();
    std::fs::remove_file(model.weights()).unwrap();
    for shard in ["../other.safetensors", "/etc/passwd", "", ".."] {
        write_index(&model, &json!({"weight_map": {"model.norm.weight": shard}}));
        let error = failure(model.dir());
        let message = error.to_string();
        assert!(message.contains("is not a plain file name"), "{message}");
    }
    write_index(&model, &json!({"metadata": {}}));
    let message = failure(model.dir()).to_string();
    assert!(message.contains("of the expected form"), "{message}");
    write_index(&model, &json!({"weight_map": {}}));
    let error = failure(model.dir());
    assert!(
        matches!(error, LmError::Facts(FactsError::MissingTensor { path, .. }) if path.ends_with(
            "model.safetensors.index.json"
        ))
    );
}

#[test]
fn a_base_model_saved_alone_has_no_prefix() {
    let model = TinyModel::with_tensors(|tensors| {
        let strip = |(name, tensor): (String, RawTensor)| {
            (name.strip_prefix("model.").unwrap().to_owned(), tensor)
        };
        *tensors = std::mem::take(tensors).into_iter().map(strip).collect();
    });
    check(model.dir(), 4).unwrap();
    assert_eq!(output(model.dir(), "norm"), output(&tiny_llama(), "norm"));
}

#[test]
fn half_precision_files_are_converted() {
    // 1.5 in every element, in each of the three dtypes.
    for (dtype, pattern) in [
        (Dtype::F32, [0, 0, 0xc0, 0x3f].as_slice()),
        (Dtype::BF16, &[0xc0, 0x3f]),
        (Dtype::F16, &[0x00, 0x3e]),
    ] {
        let model = TinyModel::with_tensors(|tensors| {
            let embedding = tensors.get_mut("model.embed_tokens.weight").unwrap();
            embedding.dtype = dtype;
            embedding.bytes = pattern.repeat(300 * 32);
        });
        let got = output(model.dir(), "embed_tokens");
        assert_close(
            "embedding",
            &got,
            &Tensor::full([1, 5, 32], 1.5, (Kind::Float, Device::Cpu)),
        );
        assert_eq!(got.kind(), Kind::Float);
    }
}

#[test]
fn an_untied_head_is_read_only_when_asked_for() {
    let model = TinyModel::with_config(json!({"tie_word_embeddings": false}));
    LanguageModel::load(model.dir(), &LoadOptions::default()).unwrap();
    let with_head = LoadOptions {
        with_head: true,
        ..LoadOptions::default()
    };
    let check = |dir: &Path| Ok(check_head(dir)?);
    let load = |dir: &Path| LanguageModel::load(dir, &with_head).map(|_| ());
    for error in [load(model.dir()), check(model.dir())] {
        let error = error.unwrap_err();
        let message = error.to_string();
        let expected = "the model has no head: tensor `lm_head.weight` is missing";
        assert!(message.starts_with(expected), "{message}");
    }
    check(&tiny_llama()).unwrap();

    let mut tensors = model.tensors();
    let mut head = tensors["model.embed_tokens.weight"].clone();
    // The head of token 0 twice as large as its embedding.
    for number in head.bytes[..32 * 4].chunks_exact_mut(4) {
        let value = f32::from_le_bytes(number.try_into().unwrap());
        number.copy_from_slice(&(2.0 * value).to_le_bytes());
    }
    tensors.insert("lm_head.weight".into(), head);
    write_tensors(&model.weights(), &tensors);
    check(model.dir()).unwrap();
    let input_ids = Tensor::from_slice(&[7_i64, 8]).view([1, 2]);
    let logits = |dir: &Path| {
        let model = LanguageModel::load(dir, &with_head).unwrap();
        model.logits(&input_ids).unwrap()
    };
    let (untied, tied) = (logits(model.dir()), logits(&tiny_llama()));
    assert_close(
        "doubled",
        &untied.narrow(2, 0, 1),
        &(tied.narrow(2, 0, 1) * 2),
    );
    assert_close(
        "the others",
        &untied.narrow(2, 1, 299),
        &tied.narrow(2, 1, 299),
    );
}

#[test]
fn a_weight_that_is_not_finite_is_named_as_far_as_it_is_loaded() {
    let named = |tensor: &str, number: f32, options: &LoadOptions| {
        let model = TinyModel::with_tensors(|tensors| {
            let bytes = &mut tensors.get_mut(tensor).unwrap().bytes;
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&number.to_le_bytes());
        });
        let model = LanguageModel::load(model.dir(), options).unwrap();
        let found = model.first_weight_not_finite();
        // Read once: the folder may go.
        assert_eq!(
            found.as_ref().ok(),
            model.first_weight_not_finite().as_ref().ok()
        );
        found.unwrap()
    };
    let in_float16 = LoadOptions {
        dtype: plan::Dtype::Float16,
        ..options(3)
    };
    for (number, options, is_named) in [
        (f32::NAN, options(3), true),
        (f32::NEG_INFINITY, options(3), true),
        (f32::NAN, options(2), false),
        (1e6, options(3), false),
        (1e6, in_float16, true),
    ] {
        let expected = is_named.then(|| UP_PROJ.to_owned());
        assert_eq!(named(UP_PROJ, number, &options), expected, "{number}");
    }
}
