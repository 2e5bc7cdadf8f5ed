//! The tokens that the configuration next to tokenizer.json adds to it, as transformers 5 adds them
//! (`TokenizersBackend`).

use crate::TokensError;
use crate::error::bad_tokenizer;
use crate::json::read_json;
use crate::tokenizer_class::Class;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use tokenizers::AddedToken;

/// The names that every tokenizer has for its special tokens, in the order in which they are added.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// What the configuration says about tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpecialTokens {
    /// Of `added_tokens_decoder` or else `added_tokens.json`, by their ids, which count for the order
    /// alone: the vocabulary decides on ids.
    listed: BTreeMap<u32, AddedToken>,
    /// Whether tokens of tokenizer.json with these ids win over the listed ones.
    are_listed_ids_taken: bool,
    /// Those with a name, then the extra ones.
    named: Vec<AddedToken>,
    eos: Option<String>,
    unk: Option<String>,
    has_pad: bool,
    /// Whether special tokens in a text are taken for text.
    are_split: bool,
}

impl SpecialTokens {
    /// Reads what `config`, the content of tokenizer_config.json, says, and the files of older
    /// versions in `folder`, which only count if `config` has no `added_tokens_decoder`. If nothing is
    /// said, the tokens of `class` count.
    ///
    /// # Errors
    /// A file that is not JSON, or an `added_tokens_decoder` that holds something else than tokens.
    pub(crate) fn read(
        folder: &Path,
        config: &Value,
        class: Option<Class>,
    ) -> Result<Self, TokensError> {
        let mut settings = config.as_object().cloned().unwrap_or_default();
        let decoder = settings.remove("added_tokens_decoder");
        if decoder.is_none() {
            // These win, as there.
            let older = read_json(&folder.join("special_tokens_map.json"))?;
            settings.extend(older.as_object().cloned().unwrap_or_default());
        }
        if let Some(class) = class {
            class.fill_in(&mut settings);
        }
        let named = named_tokens(&settings);
        let are_listed_ids_taken = decoder.is_none();
        let listed = match decoder {
            Some(decoder) => listed_tokens(folder, decoder)?,
            None => old_listed_tokens(folder, &named)?,
        };
        let text = |name| settings.get(name).and_then(content).map(str::to_owned);
        Ok(Self {
            listed,
            are_listed_ids_taken,
            eos: text("eos_token").filter(|text| !text.is_empty()),
            unk: text("unk_token"),
            has_pad: settings.contains_key("pad_token"),
            are_split: settings.get("split_special_tokens") == Some(&Value::Bool(true)),
            named,
        })
    }

    /// The EOS token's text.
    pub(crate) fn eos(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    /// The text of the token for what is unknown.
    pub(crate) fn unk(&self) -> Option<&str> {
        self.unk.as_deref()
    }

    /// The same with `added_tokens` of tokenizer.json. If the configuration lists none, they count for a class
    /// that makes a tokenizer without them.
    pub(crate) fn with_listed(mut self, added_tokens: &Value) -> Self {
        if self.are_listed_ids_taken {
            let tokens = added_tokens.as_array().into_iter().flatten();
            let listed = |value: &Value| {
                let id = value["id"].as_u64()?.try_into().ok()?;
                Some((id, token(value, false)?))
            };
            self.listed.extend(tokens.filter_map(listed));
        }
        self
    }

    /// Takes from the special tokens the properties that they were given.
    pub(crate) fn make_plain(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let plain = |token: &AddedToken| AddedToken::from(token.content.as_str(), true);
        let plain: Vec<_> = self.named.iter().map(plain).collect();
        inner.add_tokens(plain)?;
        Ok(())
    }

    /// Makes tokens of what tokenizer.json does not list as one, or lists with other properties.
    pub(crate) fn add_to(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let there = inner.get_added_tokens_decoder();
        let mut known: HashSet<String> = there.values().map(|t| t.content.clone()).collect();
        let are_new = |(id, token): &(&u32, &AddedToken)| {
            let is_taken = self.are_listed_ids_taken && there.contains_key(*id);
            !is_taken && !there.values().any(|t| t == *token)
        };
        let listed = self.listed.iter().filter(are_new);
        let mut tokens: Vec<AddedToken> = listed.map(|(_, token)| token.clone()).collect();
        known.extend(tokens.iter().map(|token| token.content.clone()));
        let padding = inner.get_padding().map(|padding| padding.pad_token.clone());
        let pad = padding.filter(|_| !self.has_pad);
        let pad = pad.map(|text| AddedToken::from(text, true));
        for token in self.named.iter().cloned().chain(pad) {
            if known.insert(token.content.clone()) {
                tokens.push(token);
            }
        }
        inner.add_tokens(tokens)?;
        inner.set_encode_special_tokens(self.are_split);
        Ok(())
    }

    /// What tells this from other configurations, except the EOS token's text.
    pub(crate) fn parts(&self) -> Vec<String> {
        let eos = self.eos.as_deref().map(|text| AddedToken::from(text, true));
        let listed = self.listed.values().map(|token| format!("{token:?}"));
        let named = self
            .named
            .iter()
            .filter(|token| Some(*token) != eos.as_ref());
        let named = named.map(|token| format!("{token:?}"));
        let split = self.are_split.then(|| "split".to_owned());
        listed.chain(named).chain(split).collect()
    }
}

/// `added_tokens_decoder`: tokens with all their properties.
fn listed_tokens(folder: &Path, decoder: Value) -> Result<BTreeMap<u32, AddedToken>, TokensError> {
    let path = folder.join("tokenizer_config.json");
    let tokens: BTreeMap<u32, Value> =
        serde_json::from_value(decoder).map_err(bad_tokenizer(&path))?;
    let to_token = |(id, value)| Some((id, token(&value, false)?));
    Ok(tokens.into_iter().filter_map(to_token).collect())
}

/// `added_tokens.json`: ids by text.
fn old_listed_tokens(
    folder: &Path,
    named: &[AddedToken],
) -> Result<BTreeMap<u32, AddedToken>, TokensError> {
    let path = folder.join("added_tokens.json");
    let ids: Option<BTreeMap<String, u32>> =
        serde_json::from_value(read_json(&path)?).map_err(bad_tokenizer(&path))?;
    let is_special = |text: &str| named.iter().any(|token| token.content == text);
    let to_token = |(text, id): (String, u32)| {
        let special = is_special(&text);
        (id, AddedToken::from(text, special))
    };
    Ok(ids.unwrap_or_default().into_iter().map(to_token).collect())
}

/// The tokens that have a name, with the names that only this tokenizer has after the others, and the
/// extra ones without a name.
fn named_tokens(settings: &Map<String, Value>) -> Vec<AddedToken> {
    let is_given = |value: &&Value| !value.is_null() && **value != Value::Array(Vec::new());
    let extra = ["extra_special_tokens", "additional_special_tokens"]
        .iter()
        .find_map(|key| settings.get(*key).filter(is_given));
    let usual = NAMES.iter().filter_map(|name| settings.get(*name));
    let is_own = |name: &str| name.ends_with("_token") && !NAMES.contains(&name);
    let own = settings.iter().filter(|(name, _)| is_own(name));
    let values = usual.chain(own.map(|(_, value)| value));
    let named_extra = extra.and_then(Value::as_object).into_iter();
    let values = values.chain(named_extra.flat_map(Map::values));
    let extra = extra.and_then(Value::as_array).into_iter().flatten();
    let values = values.chain(extra);
    values.filter_map(|value| token(value, true)).collect()
}

/// A token written as its text, or as an object with its properties.
fn token(value: &Value, is_always_special: bool) -> Option<AddedToken> {
    let is_set = |property: &str| value[property].as_bool();
    let is_special = is_always_special || is_set("special").unwrap_or_default();
    let token = AddedToken::from(content(value)?, is_special)
        .single_word(is_set("single_word").unwrap_or_default())
        .lstrip(is_set("lstrip").unwrap_or_default())
        .rstrip(is_set("rstrip").unwrap_or_default())
        .normalized(is_set("normalized").unwrap_or(!is_special));
    Some(token)
}

fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokenizer;
    use crate::fixtures::{fixture, folder_with};
    use files::testing::any_bytes_of_text;
    use proptest::prelude::*;

    /// The tiny tokenizer next to the given files.
    fn tokenizer(files: &[(&str, &str)]) -> Tokenizer {
        let tokenizer = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let files = files.iter().map(|(name, text)| (*name, text.as_bytes()));
        let files: Vec<_> = files.chain([("tokenizer.json", &tokenizer[..])]).collect();
        Tokenizer::from_dir(folder_with(&files).path()).unwrap()
    }

    fn with_config(config: &str) -> Tokenizer {
        tokenizer(&[("tokenizer_config.json", config)])
    }

    #[test]
    fn special_tokens_become_tokens_in_the_order_of_their_names() {
        let config = r#"{"pad_token": "[P]", "image_token": "[I]", "bos_token": "[B]",
            "eos_token": "[B]", "additional_special_tokens": ["[X]", "[P]"]}"#;
        let tokenizer = with_config(config);
        let names = (300..304).map(|id| tokenizer.token(id).unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["[B]", "[P]", "[I]", "[X]"]);
        assert_eq!(tokenizer.token(304), None);
        assert_eq!(tokenizer.encode("[X]a").unwrap()[0], 303);
    }

    #[test]
    fn listed_tokens_bring_their_properties() {
        let config = r#"{"added_tokens_decoder": {
            "900": {"content": "later", "normalized": false, "special": false},
            "800": {"content": "sooner", "lstrip": true, "special": true},
            "0": {"content": "<|endoftext|>", "lstrip": true, "special": true}}}"#;
        let tokenizer = with_config(config);
        // Ids come from the vocabulary, the order from the ids of the file.
        assert_eq!(tokenizer.token(300).unwrap(), "sooner");
        assert_eq!(tokenizer.token(301).unwrap(), "later");
        let ids = tokenizer.encode("  sooner  <|endoftext|>").unwrap();
        assert_eq!(ids, [300, 0], "spaces in front are part of both");
    }

    #[test]
    fn older_files_count_where_no_tokens_are_listed() {
        let map = (
            "special_tokens_map.json",
            r#"{"eos_token": "[O]", "pad_token": {"content": "[Q]"}}"#,
        );
        let added = ("added_tokens.json", r#"{"word": 300, "[Q]": 301}"#);
        let config = ("tokenizer_config.json", r#"{"eos_token": "[E]"}"#);
        let older = tokenizer(&[map, added, config]);
        assert_eq!(older.eos_token(), "[O]");
        let names = (300..303).map(|id| older.token(id).unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["word", "[Q]", "[O]"]);
        let config = r#"{"eos_token": "[E]", "added_tokens_decoder": {}}"#;
        let newer = tokenizer(&[map, added, ("tokenizer_config.json", config)]);
        assert_eq!(newer.eos_token(), "[E]");
        assert_eq!(newer.token(301), None);
    }

    #[test]
    fn special_tokens_may_be_taken_for_text() {
        let split = with_config(r#"{"eos_token": "<|endoftext|>", "split_special_tokens": true}"#);
        assert!(split.encode("<|endoftext|>").unwrap().len() > 1);
        assert!(!split.is_separable());
    }

    #[test]
    fn what_changes_tokens_is_told_apart() {
        let parts = |config: &str| {
            let config = serde_json::from_str(config).unwrap();
            let special = SpecialTokens::read(Path::new("none"), &config, None).unwrap();
            special.parts()
        };
        let plain = parts(r#"{"eos_token": "a", "bos_token": "a"}"#);
        assert_eq!(
            plain, [""; 0],
            "the EOS token's text is told apart elsewhere"
        );
        for other in [
            r#"{"eos_token": {"content": "a", "lstrip": true}}"#,
            r#"{"eos_token": "a", "bos_token": "b"}"#,
            r#"{"eos_token": "a", "added_tokens_decoder": {"0": {"content": "a"}}}"#,
            r#"{"eos_token": "a", "split_special_tokens": true}"#,
        ] {
            assert!(!parts(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn values_that_are_not_tokens_are_an_error() {
        for (name, text) in [
            (
                "tokenizer_config.json",
                r#"{"added_tokens_decoder": {"x": "a"}}"#,
            ),
            ("added_tokens.json", r#"{"a": "b"}"#),
        ] {
            let folder = folder_with(&[(name, text.as_bytes())]);
            let config = read_json(&folder.path().join("tokenizer_config.json")).unwrap();
            let error = SpecialTokens::read(folder.path(), &config, None).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_next_to_a_tokenizer_are_its_special_tokens_or_an_error(
            config in any_bytes_of_text(&[
                r#"{"eos_token": {"content": "[E]", "lstrip": true}, "added_tokens_decoder":
                    {"800": {"content": "x", "special": true}, "7": {"content": "<b>"}}}"#,
                r#"{"bos_token": "[B]", "extra_special_tokens": ["y"], "split_special_tokens": true}"#,
            ]),
            map in any_bytes_of_text(&[r#"{"eos_token": "[E]", "image_token": {"content": "z"}}"#]),
            added in any_bytes_of_text(&[r#"{"word": 300, "[E]": 4294967295}"#]),
        ) {
            let tokenizer = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
            let folder = folder_with(&[
                ("tokenizer.json", &tokenizer),
                ("tokenizer_config.json", config.as_bytes()),
                ("special_tokens_map.json", map.as_bytes()),
                ("added_tokens.json", added.as_bytes()),
            ]);
            match Tokenizer::from_dir(folder.path()) {
                Ok(tokenizer) => {
                    prop_assert!(!tokenizer.encode("a [E] <b>word").unwrap().is_empty());
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
