//! Whether two models have the same tokenizer, so that a token id means the same text to both.

use crate::error::bad_tokenizer;
use crate::tokenizer_config::TokenizerConfig;
use crate::{Tokenizer, TokensError};
use files::{DigestCache, bound};
use plan::{TokenizerClass, brief, escaped};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Part of what a comparison is remembered under; raised when the same inputs would give another one.
const COMPARISON: &str = "same tokenizers 1";
/// What is remembered.
const SAME: &str = "same";
/// Parts of a tokenizer that decide how a text is cut, and what to call them.
const PARTS: [(&str, &str); 4] = [
    ("model", "the merges or scores of their tokens differ"),
    ("added_tokens", "the options of their added tokens differ"),
    ("normalizer", "their `normalizer` differs"),
    ("pre_tokenizer", "their `pre_tokenizer` differs"),
];

/// Says in what the tokenizers of two model folders, as `class` makes them, differ; `None`: in nothing that
/// changes tokens, or the `first` has none, as a model whose data is tokenised need not. What they put around a
/// text may differ. That two are the same is remembered in `known`: large ones take seconds.
///
/// # Errors
/// A tokenizer that cannot be loaded.
pub fn tokenizer_conflict(
    [first, second]: [&Path; 2],
    class: TokenizerClass,
    known: &DigestCache,
) -> Result<Option<String>, TokensError> {
    if !first.join("tokenizer.json").exists() {
        return Ok(None);
    }
    let [one, other] = [inputs(first, class, known)?, inputs(second, class, known)?];
    let inputs = format!("{COMPARISON} {one} {other}");
    let entry_name = blake3::hash(inputs.as_bytes()).to_hex();
    if one == other || known.recall(&entry_name).is_some_and(|entry| entry == SAME) {
        return Ok(None);
    }
    let conflict = conflict(
        &Tokenizer::of_class(first, class)?,
        &Tokenizer::of_class(second, class)?,
    )?;
    if conflict.is_none() {
        known.remember(&entry_name, SAME);
    }
    Ok(conflict)
}

/// All that the tokenizer in `folder` is made of.
fn inputs(
    folder: &Path,
    class: TokenizerClass,
    known: &DigestCache,
) -> Result<String, TokensError> {
    let path = folder.join("tokenizer.json");
    let hint = "the folders of both models must have a tokenizer.json";
    files::open_within(&path, bound::TOKENIZER)
        .map_err(TokensError::unreadable("find", &path, hint))?;
    let config = TokenizerConfig::read(folder, class)?;
    let (special, rebuild) = (config.special(), config.rebuild());
    Ok(format!("{} {special:?} {rebuild:?}", known.file(&path)?))
}

fn conflict(one: &Tokenizer, other: &Tokenizer) -> Result<Option<String>, TokensError> {
    let vocabularies = [one, other].map(Tokenizer::vocabulary);
    if let Some(token_id) = first_other_token(&vocabularies) {
        let [one, other] = [one, other].map(|own| match own.token(token_id) {
            Some(token) => format!("`{}`", brief(&escaped(&token))),
            None => "missing".to_owned(),
        });
        let difference =
            format!("token {token_id} is {one} in the first and {other} in the second");
        return Ok(Some(difference));
    }
    let [one, other] = [one.parts()?, other.parts()?];
    let differing = PARTS.iter().find(|(part, _)| one[part] != other[part]);
    Ok(differing.map(|(_, difference)| (*difference).to_owned()))
}

/// The lowest id that does not have the same token in both.
fn first_other_token([one, other]: &[HashMap<String, u32>; 2]) -> Option<u32> {
    let only = |own: &HashMap<String, u32>, than: &HashMap<String, u32>| {
        let others = own
            .iter()
            .filter(|(token, id)| than.get(*token) != Some(id));
        others.map(|(_, id)| *id).min()
    };
    let lowest = [only(one, other), only(other, one)];
    lowest.into_iter().flatten().min()
}

impl Tokenizer {
    fn vocabulary(&self) -> HashMap<String, u32> {
        self.inner().get_vocab(true)
    }

    /// Its parts as tokenizer.json has them. Whether an added token counts as special decides on nothing here.
    fn parts(&self) -> Result<Value, TokensError> {
        let mut parts = serde_json::to_value(self.inner()).map_err(bad_tokenizer(self.path()))?;
        for token in parts["added_tokens"].as_array_mut().into_iter().flatten() {
            token["special"] = Value::Null;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{fixture, folder_with};
    use serde_json::json;
    use tempfile::TempDir;

    /// The tiny tokenizer with its file changed by `change`.
    fn tiny_with(change: impl FnOnce(&mut Value)) -> TempDir {
        let read = |name: &str| std::fs::read(fixture("tiny-llama").join(name)).unwrap();
        let mut json: Value = serde_json::from_slice(&read("tokenizer.json")).unwrap();
        change(&mut json);
        folder_with(&[
            ("tokenizer.json", json.to_string().as_bytes()),
            ("tokenizer_config.json", &read("tokenizer_config.json")),
        ])
    }

    fn compare(second: &Path) -> Result<Option<String>, TokensError> {
        let cache = folder_with(&[]);
        let known = DigestCache::new(cache.path());
        let first = fixture("tiny-llama");
        let compare = || tokenizer_conflict([&first, second], TokenizerClass::File, &known);
        let conflict = compare()?;
        assert_eq!(compare().unwrap(), conflict, "remembered");
        Ok(conflict)
    }

    #[test]
    fn what_changes_no_token_is_no_conflict() {
        assert_eq!(compare(&fixture("tiny-llama")).unwrap(), None);
        let other_bytes = tiny_with(|_| {});
        assert_eq!(compare(other_bytes.path()).unwrap(), None);
        let around = tiny_with(|json| {
            json["post_processor"] = json!({
                "type": "BertProcessing", "sep": ["<|endoftext|>", 0], "cls": ["<|endoftext|>", 0]
            });
            json["padding"] = Value::Null;
            json["added_tokens"][0]["special"] = false.into();
        });
        assert_eq!(compare(around.path()).unwrap(), None);
    }

    #[test]
    fn what_changes_tokens_is_named() {
        let conflict = |change: fn(&mut Value)| compare(tiny_with(change).path()).unwrap().unwrap();
        let swapped = conflict(|json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let (a, b) = (vocab["a"].take(), vocab["b"].take());
            vocab["a"] = b;
            vocab["b"] = a;
        });
        assert!(
            swapped.contains("is `a` in the first and `b` in the second"),
            "{swapped}"
        );
        let more = conflict(|json| {
            let tokens = json["added_tokens"].as_array_mut().unwrap();
            let mut token = tokens[0].clone();
            token["content"] = "<|im_start|>".into();
            token["id"] = 300.into();
            tokens.push(token);
        });
        let expected = "token 300 is missing in the first and `<|im_start|>` in the second";
        assert_eq!(more, expected);
        let merges = conflict(|json| {
            json["model"]["merges"].as_array_mut().unwrap().swap(0, 1);
        });
        assert_eq!(merges, "the merges or scores of their tokens differ");
        let normalizer = conflict(|json| json["normalizer"] = json!({"type": "Lowercase"}));
        assert_eq!(normalizer, "their `normalizer` differs");
        let added = conflict(|json| json["added_tokens"][0]["lstrip"] = true.into());
        assert_eq!(added, "the options of their added tokens differ");
    }

    #[test]
    fn a_second_model_without_a_tokenizer_is_an_error() {
        let nothing = folder_with(&[]);
        let error = compare(nothing.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot find `"), "{error}");
    }
}
