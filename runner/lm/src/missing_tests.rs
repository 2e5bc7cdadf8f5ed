//! Why a tensor is missing, said when planning and when loading.

use crate::testing::{RawTensor, RawTensors, TinyModel, write_tensors};
use crate::{LanguageModel, LoadOptions};
use facts::{check_head, check_model};
use fault::Remedy;
use safetensors::Dtype;
use serde_json::json;
use std::path::Path;

/// What planning and loading say, which must be the same: the error and its hint.
fn failure(dir: &Path) -> (String, String) {
    let planned = check_model(dir, 4);
    let (planned, loaded) = (
        planned.unwrap_err(),
        LanguageModel::load(dir, &LoadOptions::default()).unwrap_err(),
    );
    assert_eq!(planned.to_string(), loaded.to_string());
    (planned.to_string(), planned.hint().unwrap())
}

fn renamed(rename: impl Fn(&str) -> String) -> TinyModel {
    TinyModel::with_tensors(|tensors| {
        let old = std::mem::take(tensors).into_iter();
        *tensors = old.map(|(name, tensor)| (rename(&name), tensor)).collect();
    })
}

#[test]
fn a_prefix_is_named_with_what_takes_it_away() {
    for (prefix, hint) in [
        ("module.", "`model.module.save_pretrained(FOLDER)`"),
        ("_orig_mod.", "`model._orig_mod.save_pretrained(FOLDER)`"),
        (
            "_orig_mod.module.",
            "`model._orig_mod.module.save_pretrained(FOLDER)`",
        ),
        (
            "base_model.model.",
            "`model.merge_and_unload().save_pretrained(FOLDER)`",
        ),
    ] {
        let whole = renamed(|name| format!("{prefix}{name}"));
        let base = renamed(|name| name.replace("model.", prefix));
        for model in [whole, base] {
            let (error, got) = failure(model.dir());
            let first = prefix.split_inclusive('.').next().unwrap();
            let expected = format!("has the prefix `{first}");
            assert!(error.contains(&expected), "{error}");
            assert!(got.contains(hint), "{got}");
        }
    }
}

/// The weight of one module replaced by what a quantiser leaves.
fn quantised(module: &str, left: &[(&str, Dtype)]) -> TinyModel {
    TinyModel::with_tensors(|tensors| {
        let weight = tensors.remove(&format!("{module}.weight")).unwrap();
        for (name, dtype) in left {
            let tensor = RawTensor {
                dtype: *dtype,
                shape: vec![weight.bytes.len() * 8 / dtype.bitsize()],
                bytes: weight.bytes.clone(),
            };
            tensors.insert(format!("{module}.{name}"), tensor);
        }
    })
}

#[test]
fn quantised_weights_are_called_that() {
    let (embedding, linear) = ("model.embed_tokens", "model.layers.1.mlp.up_proj");
    let (u32, f32, u8) = (Dtype::U32, Dtype::F32, Dtype::U8);
    let i32 = Dtype::I32;
    for (module, left, scheme) in [
        (
            embedding,
            &[("weight", u32), ("scales", f32), ("biases", f32)][..],
            "MLX",
        ),
        (
            linear,
            &[("qweight", i32), ("qzeros", i32), ("g_idx", i32)],
            "GPTQ",
        ),
        (linear, &[("qweight", i32), ("qzeros", i32)], "AWQ"),
        (linear, &[("weight_packed", i32)], "compressed-tensors"),
        (
            linear,
            &[("weight", Dtype::I8), ("SCB", f32)],
            "bitsandbytes in 8 bit",
        ),
        (
            linear,
            &[("weight", u8), ("weight.absmax", f32)],
            "bitsandbytes in 4 bit",
        ),
        (
            linear,
            &[("weight", Dtype::F8_E4M3), ("weight_scale_inv", f32)],
            "FP8",
        ),
    ] {
        let (error, hint) = failure(quantised(module, left).dir());
        let expected = format!("is quantised by {scheme}, which is not read");
        assert!(error.contains(&expected), "{error}");
        assert!(hint.contains("take the original checkpoint"), "{hint}");
    }
}

#[test]
fn wide_floats_come_with_how_to_convert_them() {
    let model = quantised("model.norm", &[("weight", Dtype::F64)]);
    let (error, hint) = failure(model.dir());
    assert!(
        error.ends_with("has dtype F64, expected F32, BF16 or F16"),
        "{error}"
    );
    let folder = model.dir().display().to_string();
    for part in [&folder, "dtype=torch.float32", "save_pretrained"] {
        assert!(hint.contains(part), "{hint}");
    }
}

#[test]
fn an_adapter_names_its_base_model() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let adapter = json!({"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}).to_string();
    write("adapter_config.json", &adapter);
    let (error, hint) = failure(folder.path());
    assert!(error.contains("is a PEFT adapter"), "{error}");
    assert!(
        hint.contains("base model `meta-llama/Llama-3.2-1B`"),
        "{hint}"
    );
    assert!(!hint.contains("or remove"), "{hint}");
    let merged = TinyModel::copy();
    std::fs::write(merged.dir().join("adapter_config.json"), "not JSON").unwrap();
    let (_, hint) = failure(merged.dir());
    assert!(hint.contains("remove `adapter_config.json` if"), "{hint}");
}

#[test]
fn weights_in_other_files_are_named() {
    for (file, hint) in [
        ("pytorch_model.bin", "save the model again"),
        (
            "model-00001-of-00002.safetensors",
            "index of the shards is missing",
        ),
        ("model.Q4_K_M.gguf", "take the original"),
    ] {
        let model = TinyModel::copy();
        std::fs::rename(model.weights(), model.dir().join(file)).unwrap();
        let (error, got) = failure(model.dir());
        assert!(error.ends_with(&format!(", but `{file}`")), "{error}");
        assert!(got.contains(hint), "{got}");
    }
}

#[test]
fn a_pointer_of_git_lfs_is_called_that() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n";
    for file in ["config.json", "model.safetensors"] {
        let model = TinyModel::copy();
        std::fs::write(model.dir().join(file), pointer).unwrap();
        let (_, hint) = failure(model.dir());
        assert_eq!(hint, files::LFS_HINT);
    }
}

#[test]
fn a_head_that_is_not_there_is_told_from_other_tensors() {
    let model = TinyModel::with_config(json!({"tie_word_embeddings": false}));
    let error = |tensors: &RawTensors| {
        write_tensors(&model.weights(), tensors);
        check_head(model.dir()).unwrap_err()
    };
    let mut tensors = model.tensors();
    let missing = error(&tensors);
    assert!(
        missing.to_string().starts_with("the model has no head"),
        "{missing}"
    );
    assert!(missing.hint().unwrap().contains("AutoModelForCausalLM"));
    let norm = tensors["model.norm.weight"].clone();
    tensors.insert("lm_head.weight".into(), norm);
    let message = error(&tensors).to_string();
    assert!(message.contains("has shape"), "{message}");
}
