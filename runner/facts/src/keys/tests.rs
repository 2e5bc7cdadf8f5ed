//! The lists of keys against `tests/fixtures/config_keys.json`, and against what is read.

use super::*;
use crate::architecture::{keys_of, read_config};
use crate::testing::fixtures;
use crate::{ModelConfig, architectures};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a configuration class of transformers has.
#[derive(Deserialize)]
struct Class {
    keys: Vec<String>,
    other_names: BTreeMap<String, String>,
}

fn classes() -> BTreeMap<String, Class> {
    let text = std::fs::read(fixtures().join("config_keys.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn read(config: &Value) -> Result<ModelConfig, FactsError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    read_config(folder.path())
}

/// A configuration of a family for which it reads all its keys.
fn config_of(model_type: &str) -> Value {
    let yarn = json!({"rope_type": "yarn", "factor": 2.0});
    let folder = match model_type {
        "gemma3" => {
            let text = config_of("gemma3_text");
            return json!({"model_type": "gemma3", "text_config": text});
        }
        "gpt_neox" => "gpt_neox-parallel",
        "llama" => "llama-linear",
        other => other,
    };
    let path = fixtures().join("families").join(folder).join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    config["use_sliding_window"] = match model_type {
        "qwen2" | "qwen3" => json!(true),
        _ => Value::Null,
    };
    match model_type {
        "gpt2" | "gpt_neo" => {}
        "gemma3_text" => config["rope_parameters"] = json!({ "full_attention": yarn }),
        _ => config["rope_parameters"] = yarn,
    }
    config
}

/// No key takes it.
fn nonsense() -> Value {
    json!([[]])
}

#[test]
fn every_key_that_transformers_has_is_in_a_list() {
    let classes = classes();
    for model_type in architectures() {
        let (keys, class) = (keys_of(model_type), &classes[model_type]);
        let generation = &classes["generation"].keys;
        for key in class.keys.iter().chain(generation) {
            let is_other_name = keys.other_names.iter().any(|(name, _)| name == key);
            assert!(keys.knows(key) || is_other_name, "{model_type}: {key}");
        }
        for (name, key) in &class.other_names {
            let stands_for = keys.other_names.iter().find(|(other, _)| other == name);
            let without_effect = [name, key].map(|key| keys.without_effect.contains(&&**key));
            assert!(
                stands_for.is_some_and(|(_, own)| own == key) || without_effect == [true; 2],
                "{model_type}: {name} for {key}"
            );
        }
    }
}

#[test]
fn what_is_said_to_be_read_is_read() {
    for model_type in architectures() {
        let config = config_of(model_type);
        read(&config).unwrap();
        let keys = keys_of(model_type);
        let lists = [FOR_ALL].into_iter().chain(keys.read.iter().copied());
        for key in lists.flatten() {
            let mut config = config.clone();
            config[key] = nonsense();
            let error = read(&config).unwrap_err().to_string();
            assert!(
                error.contains(&format!("key `{key}`")),
                "{model_type}: {error}"
            );
        }
    }
}

#[test]
fn what_is_said_to_have_no_effect_has_none() {
    for model_type in architectures() {
        let config = config_of(model_type);
        let expected = format!("{:?}", read(&config).unwrap());
        for key in [WITHOUT_EFFECT, keys_of(model_type).without_effect].concat() {
            let mut config = config.clone();
            config[key] = nonsense();
            let got = read(&config).unwrap();
            assert_eq!(format!("{got:?}"), expected, "{model_type}: {key}");
        }
    }
}

#[test]
fn what_is_in_no_list_is_told() {
    let unknown = |config: &Value| read(config).unwrap().unknown_keys().to_vec();
    for model_type in architectures() {
        let mut config = config_of(model_type);
        assert_eq!(unknown(&config), Vec::<String>::new(), "{model_type}");
        config["mtp_layers"] = json!(3);
        config["nothing"] = Value::Null;
        assert_eq!(unknown(&config), ["mtp_layers"], "{model_type}");
    }
    let mut config = config_of("llama");
    config["rope_parameters"]["finetuned"] = json!(true);
    config["layer_types"] = json!(["sliding_attention"]);
    assert_eq!(
        unknown(&config),
        ["layer_types", "rope_parameters.finetuned"]
    );
    let mut config = config_of("gemma3");
    config["text_config"]["rope_parameters"]["full_attention"]["finetuned"] = json!(true);
    let path = "text_config.rope_parameters.full_attention.finetuned";
    assert_eq!(unknown(&config), [path]);
}

#[test]
fn a_key_and_its_other_name_are_one() {
    for (model_type, name, key, value) in [
        ("gpt2", "num_attention_heads", "n_head", json!(9)),
        ("gpt2", "hidden_size", "n_embd", json!(4)),
        ("gpt2", "num_hidden_layers", "n_layer", json!(7)),
        ("gpt2", "max_position_embeddings", "n_positions", json!(7)),
        ("gpt_neo", "num_attention_heads", "num_heads", json!(6)),
        ("gpt_neo", "num_hidden_layers", "num_layers", json!(1)),
    ] {
        let own = config_of(model_type);
        let expected = format!("{:?}", read(&own).unwrap());
        let mut both = own.clone();
        both[name] = own[key].clone();
        assert_eq!(format!("{:?}", read(&both).unwrap()), expected, "{name}");
        let mut other = both.clone();
        other[key] = Value::Null;
        assert_eq!(format!("{:?}", read(&other).unwrap()), expected, "{name}");
        both[name] = value;
        let error = read(&both).unwrap_err().to_string();
        let parts = [format!("key `{key}`"), format!("`{name}`")];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        // An error about the value names the key that is in the file.
        other[name] = nonsense();
        let error = read(&other).unwrap_err().to_string();
        assert!(error.contains(&format!("key `{name}`")), "{error}");
    }
}

#[test]
fn what_no_family_can_do_is_refused_by_name() {
    for (key, value, says) in [
        ("is_causal", json!(false), "only causal attention"),
        (
            "per_layer_config",
            json!({"0": {"rms_norm_eps": 1.0}}),
            "blocks with separate settings",
        ),
        (
            "quantization_config",
            json!({"quant_method": "awq"}),
            "quantised by awq",
        ),
        ("quantization", json!({"bits": 4}), "quantised by MLX"),
        ("compression_config", json!({}), "quantised by another tool"),
    ] {
        for model_type in ["llama", "gpt2", "gemma3"] {
            let mut config = config_of(model_type);
            config[key] = value.clone();
            let error = read(&config).unwrap_err().to_string();
            let parts = [format!("key `{key}`"), says.into()];
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
    let mut config = config_of("llama");
    config["is_causal"] = json!(true);
    config["per_layer_config"] = json!({});
    read(&config).unwrap();
}
