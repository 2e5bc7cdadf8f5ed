//! Which class of transformers makes a folder's tokenizer, and what it makes of tokenizer.json, as
//! `AutoTokenizer.from_pretrained(folder)` of transformers 5.24 does it if mistral-common is not
//! installed.

mod names;
mod rebuild;

pub(crate) use rebuild::Rebuild;

use names::{DECLARED_WRONGLY, NOT_BUILT_IN, USUAL};
use serde_json::{Map, Value, json};

/// Extra tokens of T5, at most: far above any use.
const MOST_EXTRA_IDS: u64 = 1 << 16;

/// A class that takes the vocabulary and the merges of tokenizer.json, and rebuilds the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Gemma,
    Gpt2,
    GptNeox,
    Llama,
    Qwen2,
    Qwen3_5,
    T5,
}

const CLASSES: [(&str, Class); 7] = [
    ("GemmaTokenizer", Class::Gemma),
    ("GPT2Tokenizer", Class::Gpt2),
    ("GPTNeoXTokenizer", Class::GptNeox),
    ("LlamaTokenizer", Class::Llama),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("Qwen3_5Tokenizer", Class::Qwen3_5),
    ("T5Tokenizer", Class::T5),
];

/// The class that `AutoTokenizer` picks. `model` is the content of config.json, `config` that of
/// tokenizer_config.json, `has_byte_level` says whether tokenizer.json has a part of the type `ByteLevel`.
/// `None`: `TokenizersBackend`, which takes tokenizer.json as it is.
///
/// # Errors
/// The name of a class that is not built in here.
pub(crate) fn class_of(
    model: &Value,
    config: &Value,
    has_byte_level: impl FnOnce() -> bool,
) -> Result<Option<Class>, String> {
    let declared = declared(config).or(declared(model));
    let model_type = model["model_type"].as_str().unwrap_or_default();
    let usual = USUAL.iter().find(|(name, _)| *name == model_type);
    let usual = usual.map(|(_, class)| *class);
    let is_wrong = DECLARED_WRONGLY.contains(&model_type);
    let Some(declared) = declared else {
        return Ok(usual.flatten());
    };
    // If the folder has its own code, the class that it declares counts, though the code is not run.
    if has_code(config) {
        return by_name(declared);
    }
    match usual {
        _ if declared == "LlamaTokenizer" && !is_wrong && has_byte_level() => Ok(None),
        Some(None) => Ok(None),
        Some(usual) if is_wrong => Ok(usual),
        _ => by_name(declared),
    }
}

fn by_name(name: &str) -> Result<Option<Class>, String> {
    if NOT_BUILT_IN.contains(&name) {
        return Err(name.to_owned());
    }
    let known = CLASSES.iter().find(|(known, _)| *known == name);
    Ok(known.map(|(_, class)| *class))
}

/// The class that a configuration names, without the `Fast` of older versions.
fn declared(config: &Value) -> Option<&str> {
    let name = config["tokenizer_class"].as_str()?;
    let name = name.strip_suffix("Fast").unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

/// Whether the folder brings its own tokenizer class.
fn has_code(config: &Value) -> bool {
    let map = &config["auto_map"];
    map.is_array() || !map["AutoTokenizer"].is_null()
}

impl Class {
    /// Its name in transformers.
    pub(crate) fn name(self) -> &'static str {
        let known = CLASSES.iter().find(|(_, class)| *class == self);
        known.expect("every class has a name").0
    }

    /// Adds the class's own tokens that the configuration does not set; null counts as set.
    pub(crate) fn fill_in(self, settings: &mut Map<String, Value>) {
        for (key, token) in self.usual_tokens() {
            settings.entry(*key).or_insert_with(|| json!(token));
        }
        let mut extra = ["extra_special_tokens", "additional_special_tokens"].iter();
        if self == Self::T5 && !extra.any(|key| settings.contains_key(*key)) {
            let n_extra = settings.get("extra_ids").and_then(Value::as_u64);
            let n_extra = n_extra.unwrap_or(100).min(MOST_EXTRA_IDS);
            let extra: Vec<_> = (0..n_extra).map(|i| format!("<extra_id_{i}>")).collect();
            settings.insert("extra_special_tokens".to_owned(), json!(extra));
        }
    }

    fn usual_tokens(self) -> &'static [(&'static str, Option<&'static str>)] {
        const END: Option<&str> = Some("<|endoftext|>");
        match self {
            Self::Gemma => &[
                ("unk_token", Some("<unk>")),
                ("bos_token", Some("<bos>")),
                ("eos_token", Some("<eos>")),
                ("pad_token", Some("<pad>")),
                ("mask_token", Some("<mask>")),
            ],
            Self::Gpt2 => &[
                ("unk_token", END),
                ("bos_token", END),
                ("eos_token", END),
                ("pad_token", None),
            ],
            Self::GptNeox => &[
                ("unk_token", END),
                ("bos_token", END),
                ("eos_token", END),
                ("pad_token", Some("<|padding|>")),
            ],
            Self::Llama => &[
                ("unk_token", Some("<unk>")),
                ("bos_token", Some("<s>")),
                ("eos_token", Some("</s>")),
            ],
            Self::Qwen2 | Self::Qwen3_5 => &[
                ("unk_token", END),
                ("bos_token", None),
                ("eos_token", END),
                ("pad_token", END),
            ],
            Self::T5 => &[
                ("eos_token", Some("</s>")),
                ("unk_token", Some("<unk>")),
                ("pad_token", Some("<pad>")),
            ],
        }
    }
}

#[cfg(test)]
mod golden;
