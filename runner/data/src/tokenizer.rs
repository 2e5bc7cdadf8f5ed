//! A Hugging Face tokenizer, as far as cutting text into sequences needs it.

use crate::DataError;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, Encoding, Token, TruncationDirection};

/// A tokenizer of a model folder, with what its configuration says about sequences.
///
/// `tokenizer.json` is taken as it is. Of `tokenizer_config.json` the keys `eos_token`,
/// `model_max_length` and `truncation_side` count.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    config: TokenizerConfig,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    cut_from_end: bool,
}

impl Tokenizer {
    /// Loads `tokenizer.json` and, where it exists, `tokenizer_config.json` of `folder`.
    ///
    /// # Errors
    /// A file is missing or broken, or the post-processor puts tokens into the middle of a text.
    pub fn from_dir(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("tokenizer.json");
        let content = std::fs::read(&path).map_err(DataError::io("read", &path))?;
        let bad = |source| DataError::BadTokenizer {
            path: path.clone(),
            source,
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(content).map_err(bad)?;
        let config = TokenizerConfig::read(folder)?;
        let cut_from_end = config.cut_from_end.unwrap_or_else(|| {
            let direction = inner
                .get_truncation()
                .map(|truncation| truncation.direction);
            matches!(direction, Some(TruncationDirection::Left))
        });
        // The library stops early where it may truncate; sequences are cut here instead.
        inner.with_truncation(None).map_err(bad)?.with_padding(None);
        config.add_eos_to(&mut inner).map_err(bad)?;
        let (prefix, suffix) = added_tokens(&inner, &path)?;
        Ok(Self {
            path,
            inner,
            config,
            prefix,
            suffix,
            cut_from_end,
        })
    }

    /// The separator of documents: `eos_token`, or `<|endoftext|>` where there is none.
    pub fn eos_token(&self) -> &str {
        self.config.separator()
    }

    /// The path of `tokenizer.json`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of a token, where there is such a token.
    pub fn token(&self, token_id: u32) -> Option<String> {
        self.inner.id_to_token(token_id)
    }

    /// The token ids of `text` with the post-processor's additions, as `tokenizer(text)` gives them in
    /// transformers.
    ///
    /// # Errors
    /// Text that the tokenizer cannot take.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let inner = self.inner.encode(text, false);
        let inner = inner.map_err(|source| DataError::BadTokenizer {
            path: self.path.clone(),
            source,
        })?;
        Ok([&self.prefix, inner.get_ids(), &self.suffix].concat())
    }

    /// Checks that sequences of `ctx_len` tokens can be made.
    pub(crate) fn check_ctx_len(&self, ctx_len: usize) -> Result<(), DataError> {
        self.config.check_ctx_len(ctx_len)?;
        let n_added = self.prefix.len() + self.suffix.len();
        if ctx_len <= n_added {
            let path = self.path.clone();
            return Err(DataError::ContextTooShort {
                ctx_len,
                n_added,
                path,
            });
        }
        Ok(())
    }

    /// The token ids of `texts`, without the post-processor's additions. Texts are tokenised side
    /// by side, a text by one thread.
    pub(crate) fn encode(&self, texts: Vec<String>) -> tokenizers::Result<Vec<Vec<u32>>> {
        let encodings = self.inner.encode_batch_fast(texts, false)?;
        Ok(encodings
            .iter()
            .map(|encoding| encoding.get_ids().to_vec())
            .collect())
    }

    /// Cuts `token_ids` into sequences of exactly `ctx_len`, the post-processor's additions to
    /// each included. The last piece is dropped, even when it is complete.
    ///
    /// `ctx_len` must have passed [`Tokenizer::check_ctx_len`].
    pub(crate) fn cut(&self, token_ids: &[u32], ctx_len: usize) -> Vec<Vec<u32>> {
        let n_inner = ctx_len - self.prefix.len() - self.suffix.len();
        let n_sequences = token_ids.len().div_ceil(n_inner).saturating_sub(1);
        let whole = |piece: &[u32]| [&self.prefix, piece, &self.suffix].concat();
        if self.cut_from_end {
            token_ids
                .rchunks(n_inner)
                .take(n_sequences)
                .map(whole)
                .collect()
        } else {
            token_ids
                .chunks(n_inner)
                .take(n_sequences)
                .map(whole)
                .collect()
        }
    }
}

/// What the post-processor puts in front of and behind every sequence.
fn added_tokens(
    inner: &tokenizers::Tokenizer,
    path: &Path,
) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    let probe = Encoding::from_tokens(vec![Token::new(0, "x".into(), (0, 1))], 0);
    let processed =
        inner
            .post_process(probe, None, true)
            .map_err(|source| DataError::BadTokenizer {
                path: path.to_path_buf(),
                source,
            })?;
    let is_text: Vec<bool> = processed
        .get_special_tokens_mask()
        .iter()
        .map(|m| *m == 0)
        .collect();
    match is_text.iter().position(|text| *text) {
        Some(at) if is_text.iter().filter(|text| **text).count() == 1 => {
            let ids = processed.get_ids();
            Ok((ids[..at].to_vec(), ids[at + 1..].to_vec()))
        }
        _ => Err(DataError::OddPostProcessor {
            path: path.to_path_buf(),
        }),
    }
}

/// What counts of `tokenizer_config.json`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TokenizerConfig {
    path: PathBuf,
    eos_token: Option<String>,
    model_max_length: Option<usize>,
    cut_from_end: Option<bool>,
}

impl TokenizerConfig {
    /// Reads the configuration in `folder`; `special_tokens_map.json`, its older place, has the
    /// EOS token where `tokenizer_config.json` has none.
    pub(crate) fn read(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("tokenizer_config.json");
        let config = read_json(&path)?;
        let older = read_json(&folder.join("special_tokens_map.json"))?;
        let eos_token = token_content(&config["eos_token"])
            .or_else(|| token_content(&older["eos_token"]))
            .filter(|token| !token.is_empty());
        // Without a limit, Hugging Face writes 1e30.
        let limit = config["model_max_length"]
            .as_f64()
            .filter(|limit| *limit < 1e15);
        Ok(Self {
            path,
            eos_token,
            model_max_length: limit.map(|limit| limit as usize),
            cut_from_end: config["truncation_side"]
                .as_str()
                .map(|side| side == "left"),
        })
    }

    pub(crate) fn separator(&self) -> &str {
        self.eos_token.as_deref().unwrap_or("<|endoftext|>")
    }

    pub(crate) fn cut_from_end(&self) -> Option<bool> {
        self.cut_from_end
    }

    pub(crate) fn check_ctx_len(&self, ctx_len: usize) -> Result<(), DataError> {
        match self.model_max_length {
            Some(model_max_length) if ctx_len > model_max_length => {
                Err(DataError::ContextTooLong {
                    ctx_len,
                    model_max_length,
                    path: self.path.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    /// An EOS token that tokenizer.json does not list as one token becomes one, as transformers
    /// does it.
    fn add_eos_to(&self, inner: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        if let Some(eos) = &self.eos_token
            && !inner.get_added_vocabulary().get_vocab().contains_key(eos)
        {
            inner.add_special_tokens([AddedToken::from(eos.as_str(), true)])?;
        }
        Ok(())
    }
}

/// The file's JSON; null where there is no file.
fn read_json(path: &Path) -> Result<Value, DataError> {
    match std::fs::read(path) {
        Ok(content) => serde_json::from_slice(&content).map_err(|source| DataError::BadTokenizer {
            path: path.to_path_buf(),
            source: source.into(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(DataError::io("read", path)(error)),
    }
}

/// A token written as its text or as an object with the text in `content`.
fn token_content(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str());
    text.map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{fixture, folder_with};

    fn config(content: &str) -> TokenizerConfig {
        let folder = folder_with(&[("tokenizer_config.json", content.as_bytes())]);
        TokenizerConfig::read(folder.path()).unwrap()
    }

    /// The tiny tokenizer, with its configuration replaced and its file changed by `change`.
    fn tiny_with(config: &str, change: impl FnOnce(&mut Value)) -> Result<Tokenizer, DataError> {
        let content = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&content).unwrap();
        change(&mut json);
        let folder = folder_with(&[
            ("tokenizer.json", json.to_string().as_bytes()),
            ("tokenizer_config.json", config.as_bytes()),
        ]);
        Tokenizer::from_dir(folder.path())
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
            TokenizerConfig::read(older.path()).unwrap().separator(),
            "</s>"
        );
    }

    #[test]
    fn a_context_past_the_limit_is_an_error() {
        let limited = config(r#"{"model_max_length": 512}"#);
        limited.check_ctx_len(512).unwrap();
        let error = limited.check_ctx_len(513).unwrap_err();
        assert!(matches!(
            error,
            DataError::ContextTooLong {
                model_max_length: 512,
                ..
            }
        ));
        assert_eq!(error.hint().unwrap(), "set ctx_len to 512 or less");
        let unlimited = config(r#"{"model_max_length": 1000000000000000019884624838656}"#);
        unlimited.check_ctx_len(1 << 40).unwrap();
    }

    #[test]
    fn the_last_piece_is_dropped_even_when_complete() {
        let tokenizer = tiny_with("{}", |_| {}).unwrap();
        assert_eq!(tokenizer.cut(&[1, 2, 3, 4, 5], 2), [[1, 2], [3, 4]]);
        assert_eq!(tokenizer.cut(&[1, 2, 3, 4], 2), [[1, 2]]);
        assert!(tokenizer.cut(&[1, 2], 2).is_empty());
        assert!(tokenizer.cut(&[], 2).is_empty());
    }

    #[test]
    fn the_left_side_can_be_cut() {
        let by_config = tiny_with(r#"{"truncation_side": "left"}"#, |_| {}).unwrap();
        assert_eq!(by_config.cut(&[1, 2, 3, 4, 5], 2), [[4, 5], [2, 3]]);
        let by_file = tiny_with("{}", |json| {
            json["truncation"] = serde_json::json!({
                "max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Left"
            });
        });
        assert_eq!(by_file.unwrap().cut(&[1, 2, 3, 4, 5], 2), [[4, 5], [2, 3]]);
    }

    #[test]
    fn added_tokens_surround_every_piece() {
        let tokenizer = tiny_with("{}", |json| {
            json["post_processor"] = serde_json::json!({
                "type": "BertProcessing", "sep": ["<|endoftext|>", 7], "cls": ["<|endoftext|>", 0]
            });
        })
        .unwrap();
        assert_eq!(
            tokenizer.cut(&[1, 2, 3, 4, 5], 4),
            [[0, 1, 2, 7], [0, 3, 4, 7]]
        );
        let error = tokenizer.check_ctx_len(2).unwrap_err();
        assert!(
            matches!(error, DataError::ContextTooShort { n_added: 2, .. }),
            "{error:?}"
        );
        tokenizer.check_ctx_len(3).unwrap();
    }

    #[test]
    fn an_eos_token_unknown_to_the_file_is_one_token() {
        let tokenizer = tiny_with(r#"{"eos_token": "<stop>"}"#, |_| {}).unwrap();
        let ids = tokenizer.encode(vec!["<stop>a<stop>".into()]).unwrap();
        assert_eq!((ids[0].len(), ids[0][0], ids[0][2]), (3, 300, 300));
        assert_eq!(tokenizer.token(300).unwrap(), "<stop>");
    }

    #[test]
    fn missing_and_broken_files_are_named() {
        let folder = folder_with(&[]);
        let error = Tokenizer::from_dir(folder.path()).unwrap_err();
        assert!(
            matches!(error, DataError::Io { action: "read", .. }),
            "{error:?}"
        );
        let error = tiny_with("{", |_| {}).unwrap_err();
        assert!(
            error.to_string().contains("tokenizer_config.json"),
            "{error}"
        );
        let error = tiny_with("{}", |json| json["model"] = Value::Null).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        assert!(error.hint().is_some());
    }
}
