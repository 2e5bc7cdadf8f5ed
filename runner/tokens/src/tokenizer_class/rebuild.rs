//! The tokenizers that the classes make, written as tokenizer.json has them.

use super::Class;
use crate::special_tokens::SpecialTokens;
use serde_json::{Map, Value, json};
use tokenizers::PostProcessorWrapper;

/// How Qwen cuts text before it looks for tokens; in the newer one marks are part of a word.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A class, and what of tokenizer_config.json changes what it makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rebuild {
    class: Class,
    is_legacy: bool,
    add_prefix_space: Option<bool>,
}

impl Rebuild {
    pub(crate) fn new(class: Class, config: &Value) -> Self {
        Self {
            class,
            is_legacy: config["legacy"].as_bool().unwrap_or_default(),
            add_prefix_space: config["add_prefix_space"].as_bool(),
        }
    }

    pub(crate) fn class(&self) -> Class {
        self.class
    }

    /// The tokenizer of `file`, the content of tokenizer.json, with the tokens of `special`.
    ///
    /// # Errors
    /// A file without what the class needs.
    pub(crate) fn tokenizer(
        &self,
        mut file: Value,
        special: &SpecialTokens,
    ) -> tokenizers::Result<tokenizers::Tokenizer> {
        let special = special.clone().with_listed(&file["added_tokens"]);
        let rebuilt = json!({
            "version": "1.0",
            "truncation": take(&mut file, "truncation"),
            "padding": take(&mut file, "padding"),
            "added_tokens": [],
            "normalizer": self.normalizer(&file),
            "pre_tokenizer": self.pre_tokenizer(),
            "post_processor": self.post_processor(&mut file),
            "decoder": self.decoder(),
            "model": self.model(take(&mut file, "model"), special.unk()),
        });
        let mut inner: tokenizers::Tokenizer = serde_json::from_value(rebuilt)?;
        special.add_to(&mut inner)?;
        match self.class {
            Class::Qwen2 => special.make_plain(&mut inner)?,
            Class::T5 => add_t5_end(&mut inner, &special)?,
            _ => {}
        }
        Ok(inner)
    }

    fn model(&self, mut model: Value, unk: Option<&str>) -> Value {
        let vocab = take(&mut model, "vocab");
        if self.class == Class::T5 {
            return json!({"type": "Unigram", "vocab": vocab, "unk_id": 2, "byte_fallback": false});
        }
        let has_bytes = matches!(self.class, Class::Gemma | Class::Llama);
        // Python's `str(None)`, which is not a token of any vocabulary.
        let unk = (self.class == Class::Gemma).then(|| unk.unwrap_or("None"));
        let merges = model.get_mut("merges").map(Value::take);
        json!({
            "type": "BPE",
            "vocab": by_token(vocab),
            "merges": merges.unwrap_or_else(|| json!([])),
            "unk_token": unk,
            "fuse_unk": has_bytes,
            "byte_fallback": has_bytes,
        })
    }

    fn normalizer(&self, file: &Value) -> Value {
        match self.class {
            Class::Gemma => {
                json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
            }
            Class::GptNeox | Class::Qwen2 | Class::Qwen3_5 => json!({"type": "NFC"}),
            Class::T5 => precompiled(&file["normalizer"]).clone(),
            Class::Gpt2 | Class::Llama => Value::Null,
        }
    }

    fn pre_tokenizer(&self) -> Value {
        let split = |pattern: Value, behavior: &str| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": false});
        let qwen = |pattern: &str| {
            let parts = [
                split(json!({ "Regex": pattern }), "Isolated"),
                self.byte_level(false),
            ];
            json!({"type": "Sequence", "pretokenizers": parts})
        };
        match self.class {
            Class::Gemma => split(json!({"String": " "}), "MergedWithPrevious"),
            Class::Gpt2 | Class::GptNeox => self.byte_level(true),
            Class::Llama => metaspace(self.prepend_scheme(), false),
            Class::Qwen2 => qwen(QWEN2),
            Class::Qwen3_5 => qwen(QWEN3_5),
            Class::T5 => json!({
                "type": "Sequence",
                "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("always", true)],
            }),
        }
    }

    fn byte_level(&self, use_regex: bool) -> Value {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": self.add_prefix_space.unwrap_or_default(),
            "trim_offsets": true,
            "use_regex": use_regex,
        })
    }

    fn prepend_scheme(&self) -> &'static str {
        match self.add_prefix_space {
            Some(false) => "never",
            _ if self.is_legacy => "always",
            _ => "first",
        }
    }

    /// GPT-NeoX drops the file's, and T5 makes its own once it knows its tokens.
    fn post_processor(&self, file: &mut Value) -> Value {
        match self.class {
            Class::GptNeox | Class::T5 => Value::Null,
            _ => take(file, "post_processor"),
        }
    }

    fn decoder(&self) -> Value {
        let spaces = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
        let mut decoders = vec![
            spaces,
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        match self.class {
            Class::Gemma | Class::Llama => {
                if self.class == Class::Llama && self.add_prefix_space != Some(false) {
                    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
                }
                json!({"type": "Sequence", "decoders": decoders})
            }
            Class::T5 => metaspace("always", true),
            _ => self.byte_level(true),
        }
    }
}

fn metaspace(prepend_scheme: &str, is_split: bool) -> Value {
    json!({
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": prepend_scheme,
        "split": is_split,
    })
}

/// The value of `key`, or null.
fn take(json: &mut Value, key: &str) -> Value {
    json.get_mut(key).map(Value::take).unwrap_or_default()
}

/// Ids by token; a list has them in the order of the ids, each alone or with its score.
fn by_token(vocab: Value) -> Value {
    let Value::Array(tokens) = vocab else {
        return vocab;
    };
    let texts = tokens.iter().map(|token| match token {
        Value::Array(pair) => pair.first().and_then(Value::as_str),
        token => token.as_str(),
    });
    let ids = texts
        .enumerate()
        .filter_map(|(id, text)| Some((text?.to_owned(), json!(id))));
    Value::Object(ids.collect::<Map<_, _>>())
}

/// The part of a normalizer that SentencePiece compiled, or null.
fn precompiled(normalizer: &Value) -> &Value {
    let parts = match normalizer["normalizers"].as_array() {
        Some(parts) if normalizer["type"] == "Sequence" => &parts[..],
        _ => std::slice::from_ref(normalizer),
    };
    let is_precompiled =
        |part: &&Value| part["type"] == "Precompiled" && !part["precompiled_charsmap"].is_null();
    parts.iter().find(is_precompiled).unwrap_or(&Value::Null)
}

/// `</s>` after every text, with the id of the EOS token.
fn add_t5_end(
    inner: &mut tokenizers::Tokenizer,
    special: &SpecialTokens,
) -> tokenizers::Result<()> {
    let id = |token: Option<&str>| inner.token_to_id(token?);
    let id = id(special.eos()).or_else(|| id(special.unk()));
    let id = id.ok_or("T5Tokenizer has no EOS token")?;
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [text("A"), end],
        "pair": [text("A"), end, text("B"), end],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [id], "tokens": ["</s>"]}},
    });
    let template: PostProcessorWrapper = serde_json::from_value(template)?;
    inner.with_post_processor(Some(template));
    Ok(())
}
