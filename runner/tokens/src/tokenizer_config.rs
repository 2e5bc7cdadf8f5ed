//! What counts of the configuration next to tokenizer.json.

use crate::TokensError;
use crate::json::read_json;
use crate::special_tokens::SpecialTokens;
use crate::tokenizer_class::{Class, Rebuild, class_of};
use fault::Fault;
use files::bound;
use plan::TokenizerClass;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::AddedToken;

/// What counts of `tokenizer_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TokenizerConfig {
    path: PathBuf,
    /// `None`: tokenizer.json as it is.
    rebuild: Option<Rebuild>,
    special: SpecialTokens,
    eos_token: Option<String>,
    /// Of the generation config, if nothing names an EOS token.
    eos_token_id: Option<u32>,
    model_max_length: Option<usize>,
    cut_from_end: Option<bool>,
}

impl TokenizerConfig {
    /// Reads the configuration in `folder`. If it names no EOS token, `generation_config.json` may
    /// have its id.
    ///
    /// # Errors
    /// A file that is not JSON, or, if `class` has transformers pick one, a class that is not built in.
    pub(crate) fn read(folder: &Path, class: TokenizerClass) -> Result<Self, TokensError> {
        let path = folder.join("tokenizer_config.json");
        let config = read_json(&path)?;
        let rebuild = match class {
            TokenizerClass::File => None,
            TokenizerClass::Transformers => {
                let class = picked_class(folder, &config)?;
                class.map(|class| Rebuild::new(class, &config))
            }
        };
        let class = rebuild.as_ref().map(Rebuild::class);
        let special = SpecialTokens::read(folder, &config, class)?;
        let eos_token = special.eos().map(str::to_owned);
        let eos_token_id = match eos_token {
            Some(_) => None,
            None => eos_token_id(&read_json(&folder.join("generation_config.json"))?),
        };
        // Without a limit, Hugging Face writes 1e30.
        let limit = config["model_max_length"]
            .as_f64()
            .filter(|limit| *limit < 1e15);
        Ok(Self {
            path,
            rebuild,
            special,
            eos_token,
            eos_token_id,
            model_max_length: limit.map(|limit| limit as usize),
            cut_from_end: config["truncation_side"]
                .as_str()
                .map(|side| side == "left"),
        })
    }

    /// The tokenizer of a tokenizer.json, with the tokens of the configuration.
    pub(crate) fn tokenizer(&self, content: &[u8]) -> tokenizers::Result<tokenizers::Tokenizer> {
        let Some(rebuild) = &self.rebuild else {
            let mut inner = tokenizers::Tokenizer::from_bytes(files::without_mark(content))?;
            self.special.add_to(&mut inner)?;
            return Ok(inner);
        };
        rebuild.tokenizer(files::from_json(content)?, &self.special)
    }

    /// Looks up the EOS token if only its id is known.
    pub(crate) fn find_eos_in(&mut self, inner: &tokenizers::Tokenizer) {
        if let Some(token_id) = self.eos_token_id {
            self.eos_token = inner.id_to_token(token_id);
        }
    }

    pub(crate) fn rebuild(&self) -> Option<&Rebuild> {
        self.rebuild.as_ref()
    }

    pub(crate) fn separator(&self) -> &str {
        self.eos_token.as_deref().unwrap_or("<|endoftext|>")
    }

    pub(crate) fn special(&self) -> &SpecialTokens {
        &self.special
    }

    pub(crate) fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    pub(crate) fn cut_from_end(&self) -> Option<bool> {
        self.cut_from_end
    }

    pub(crate) fn check_ctx_len(&self, ctx_len: usize) -> Result<(), TokensError> {
        match self.model_max_length {
            Some(model_max_length) if ctx_len > model_max_length => {
                let path = self.path.display();
                let message = format!(
                    "ctx_len = {ctx_len} is longer than the model_max_length = {model_max_length} of `{path}`"
                );
                let hint = format!("set ctx_len to {model_max_length} or less");
                Err(Fault::input(message).with_hint(hint).into())
            }
            _ => Ok(()),
        }
    }

    /// An EOS token that only the generation config names becomes one token too.
    pub(crate) fn add_eos_to(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        if let Some(eos) = &self.eos_token
            && !inner.get_added_vocabulary().get_vocab().contains_key(eos)
        {
            inner.add_special_tokens([AddedToken::from(eos.as_str(), true)])?;
        }
        Ok(())
    }
}

/// The class that transformers picks for the tokenizer in `folder`.
fn picked_class(folder: &Path, config: &Value) -> Result<Option<Class>, TokensError> {
    let model_path = folder.join("config.json");
    let model = read_json(&model_path)?;
    let has_byte_level = || {
        let content = files::read(&folder.join("tokenizer.json"), bound::TOKENIZER);
        let word = b"\"ByteLevel\"";
        // A file that cannot be read is reported by the code that reads it.
        content.is_ok_and(|content| content.windows(word.len()).any(|found| found == word))
    };
    class_of(&model, config, has_byte_level).map_err(|class| {
        let path = if config["tokenizer_class"].is_string() {
            folder.join("tokenizer_config.json")
        } else {
            model_path
        };
        TokensError::ForeignTokenizer { path, class }
    })
}

/// The first EOS token of a generation config.
fn eos_token_id(config: &Value) -> Option<u32> {
    let ids = &config["eos_token_id"];
    let first = ids.as_u64().or_else(|| ids[0].as_u64())?;
    first.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::folder_with;
    use fault::Remedy;

    fn config(content: &str) -> TokenizerConfig {
        let folder = folder_with(&[("tokenizer_config.json", content.as_bytes())]);
        TokenizerConfig::read(folder.path(), TokenizerClass::File).unwrap()
    }

    #[test]
    fn the_eos_token_is_text_or_object_or_missing() {
        assert_eq!(config(r#"{"eos_token": "</s>"}"#).separator(), "</s>");
        assert_eq!(
            config(r#"{"eos_token": {"content": "</s>"}}"#).separator(),
            "</s>"
        );
        assert_eq!(
            config(r#"{"eos_token": null}"#).separator(),
            "<|endoftext|>"
        );
        let older = folder_with(&[("special_tokens_map.json", br#"{"eos_token": "</s>"}"#)]);
        assert_eq!(
            TokenizerConfig::read(older.path(), TokenizerClass::File)
                .unwrap()
                .separator(),
            "</s>"
        );
    }

    #[test]
    fn a_context_past_the_limit_is_an_error() {
        let limited = config(r#"{"model_max_length": 512}"#);
        limited.check_ctx_len(512).unwrap();
        let error = limited.check_ctx_len(513).unwrap_err();
        assert!(
            error.to_string().contains("the model_max_length = 512 of"),
            "{error}"
        );
        assert_eq!(error.hint().unwrap(), "set ctx_len to 512 or less");
        let unlimited = config(r#"{"model_max_length": 1000000000000000019884624838656}"#);
        unlimited.check_ctx_len(1 << 40).unwrap();
    }
}
