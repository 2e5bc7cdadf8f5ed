//! Classes and tokens against transformers 5.24; see `tests/fixtures/README.md` for the files.

use super::{class_of, names};
use crate::fixtures::{fixture, folder_with, sha256};
use crate::{Tokenizer, TokensError};
use fault::Remedy;
use files::testing::any_bytes_of_text;
use plan::TokenizerClass;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn read(name: &str) -> Value {
    let content = std::fs::read(fixture(name)).unwrap();
    serde_json::from_slice(&content).unwrap()
}

/// The tokenizer.json of a folder.
fn file_of(folder: &str) -> Value {
    read(&format!("{folder}/tokenizer.json"))
}

/// Lays `patch` over `json`; what has a type is replaced as a whole.
fn merge(json: &mut Value, patch: &Value) {
    match (json, patch) {
        (Value::Object(json), Value::Object(patch)) if !patch.contains_key("type") => {
            for (key, value) in patch {
                merge(json.entry(key).or_insert(Value::Null), value);
            }
        }
        (json, patch) => *json = patch.clone(),
    }
}

fn folder_of(case: &Value) -> TempDir {
    let mut file = file_of(case["of"].as_str().unwrap());
    merge(&mut file, &case["patch"]);
    let mut files = case["files"].as_object().unwrap().clone();
    files.insert("tokenizer.json".into(), file);
    let files: Vec<_> = files
        .iter()
        .map(|(name, json)| (&name[..], json.to_string()))
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (*name, text.as_bytes()))
        .collect();
    folder_with(&files)
}

#[test]
fn the_class_is_the_one_that_transformers_picks() {
    let choices = read("tokenizer_classes/choices.json");
    for choice in choices.as_array().unwrap() {
        let has_byte_level = || {
            let file = file_of(choice[2].as_str().unwrap());
            file.to_string().contains("\"ByteLevel\"")
        };
        let name = match class_of(&choice[0], &choice[1], has_byte_level) {
            Ok(class) => class
                .map_or("TokenizersBackend", |class| class.name())
                .to_owned(),
            Err(name) => name,
        };
        assert_eq!(name, choice[3], "{choice}");
    }
}

#[test]
fn every_class_gives_the_tokens_of_transformers() {
    let golden = read("tokenizer_classes/tokens.json");
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let folder = folder_of(case);
        let load = |class| Tokenizer::of_class(folder.path(), class).unwrap();
        let tokenizer = load(TokenizerClass::Transformers);
        let eos = case["eos"].as_str().unwrap_or("<|endoftext|>");
        assert_eq!(tokenizer.eos_token(), eos, "{}", case["name"]);
        for (text, expected) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            let ids = tokenizer.tokenize(text).unwrap();
            assert_eq!(ids, expected, "{} of {text:?}", case["name"]);
        }
        let decoded = tokenizer.decode(&tokenizer.tokenize(&texts[5]).unwrap());
        assert_eq!(decoded.unwrap(), case["decoded"], "{}", case["name"]);
        let of_file = load(TokenizerClass::File);
        let is_file = case["class"] == "TokenizersBackend";
        let is_same =
            |text: &String| tokenizer.tokenize(text).unwrap() == of_file.tokenize(text).unwrap();
        assert!(texts.iter().all(is_same) || !is_file, "{}", case["name"]);
    }
}

/// Documents are tokenised one by one if the tokenizer that was made allows it.
#[test]
fn what_is_separable_has_the_tokens_of_the_joined_text() {
    let golden = read("tokenizer_classes/tokens.json");
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let mut n_separable = 0;
    for case in golden["cases"].as_array().unwrap() {
        let folder = folder_of(case);
        let tokenizer = Tokenizer::of_class(folder.path(), TokenizerClass::Transformers).unwrap();
        let texts = texts
            .iter()
            .map(|text| tokenizer.eos_token().to_owned() + text);
        let texts: Vec<String> = texts.collect();
        let joined = tokenizer.tokenize(&texts.concat()).unwrap();
        let digest = sha256(joined.iter().flat_map(|id| id.to_le_bytes()));
        let name = &case["name"];
        assert!(
            case["joined"] == digest || case["joined"] == json!(joined),
            "{name}"
        );
        if tokenizer.is_separable() {
            n_separable += 1;
            let apart = texts
                .iter()
                .flat_map(|text| tokenizer.encode(text).unwrap());
            let inner = tokenizer.encode(&texts.concat()).unwrap();
            assert_eq!(apart.collect::<Vec<_>>(), inner, "{name}");
        }
    }
    assert!(n_separable > 10, "{n_separable}");
}

#[test]
fn a_class_that_is_not_built_in_is_an_error_for_transformers_alone() {
    let file = file_of("data/byte-bpe").to_string();
    let [of_config, of_model] = ["tokenizer_config.json", "config.json"].map(|name| {
        let config = r#"{"model_type": "llama", "tokenizer_class": "CodeLlamaTokenizerFast"}"#;
        let files = [
            ("tokenizer.json", file.as_bytes()),
            (name, config.as_bytes()),
        ];
        (name, folder_with(&files))
    });
    for (name, folder) in [of_config, of_model] {
        Tokenizer::of_class(folder.path(), TokenizerClass::File).unwrap();
        let error = Tokenizer::of_class(folder.path(), TokenizerClass::Transformers).unwrap_err();
        assert!(
            matches!(error, TokensError::ForeignTokenizer { .. }),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains("`CodeLlamaTokenizer`"),
            "{message}"
        );
        assert!(error.hint().unwrap().contains("tokenizer_class = \"file\""));
    }
    assert!(
        names::NOT_BUILT_IN.is_sorted(),
        "names are found by eye too"
    );
}

/// A vocabulary that the class cannot use, and sizes beyond reason.
#[test]
fn what_a_class_cannot_make_is_an_error() {
    let make = |of: &str, model_type: &str, config: Value| {
        let case = json!({"of": of, "patch": {}, "files": {
            "config.json": {"model_type": model_type},
            "tokenizer_config.json": config,
        }});
        Tokenizer::of_class(folder_of(&case).path(), TokenizerClass::Transformers)
    };
    for (of, config) in [
        ("data/byte-bpe", json!({})),
        (
            "data/metaspace",
            json!({"eos_token": null, "unk_token": null}),
        ),
    ] {
        let error = make(of, "t5", config).unwrap_err();
        assert!(
            error.to_string().contains("cannot load the tokenizer"),
            "{error:?}"
        );
    }
    let many = make("data/metaspace", "t5", json!({"extra_ids": u64::MAX})).unwrap();
    assert_eq!(many.token(400 + (1 << 16)), None);
}

proptest! {
    #[test]
    fn any_bytes_next_to_a_tokenizer_make_one_or_an_error(
        model in any_bytes_of_text(&[
            r#"{"model_type": "t5"}"#,
            r#"{"model_type": "qwen2"}"#,
            r#"{"model_type": "gemma2", "tokenizer_class": "GPT2TokenizerFast"}"#,
        ]),
        config in any_bytes_of_text(&[
            r#"{"tokenizer_class": "LlamaTokenizerFast", "legacy": true, "add_prefix_space": false}"#,
            r#"{"tokenizer_class": "T5Tokenizer", "extra_ids": 3, "unk_token": {"content": "a"}}"#,
            r#"{"auto_map": ["a"], "eos_token": null}"#,
        ]),
        file in any_bytes_of_text(&[
            r#"{"version": "1.0", "added_tokens": [{"id": 2, "content": "<e>", "lstrip": true}],
                "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled",
                    "precompiled_charsmap": "AAAA"}]},
                "truncation": null, "padding": null, "post_processor": null,
                "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#,
            r#"{"model": {"vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.5]]}}"#,
        ]),
    ) {
        let folder = folder_with(&[
            ("tokenizer.json", file.as_bytes()),
            ("tokenizer_config.json", config.as_bytes()),
            ("config.json", model.as_bytes()),
        ]);
        match Tokenizer::of_class(folder.path(), TokenizerClass::Transformers) {
            Ok(tokenizer) => {
                let _ = tokenizer.tokenize("a ab<e> <extra_id_0>");
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
