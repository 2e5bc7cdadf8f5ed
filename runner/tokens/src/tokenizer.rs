//! A Hugging Face tokenizer, as far as cutting text into sequences needs it.

use crate::TokensError;
use crate::error::bad_tokenizer;
use crate::tokenizer_config::TokenizerConfig;
use fault::{Fault, without_panic};
use files::{READ_HINT, bound};
use plan::TokenizerClass;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, Encoding, Token, TruncationDirection};

/// A tokenizer of a model folder, with what its configuration says about sequences.
///
/// `tokenizer.json` is taken as it is, with the tokens of the configuration added as
/// `PreTrainedTokenizerFast` of transformers 5 adds them: `added_tokens_decoder`, the special tokens, and
/// in older folders `special_tokens_map.json` and `added_tokens.json`. Besides them, `model_max_length`,
/// `truncation_side` and `split_special_tokens` count, and `eos_token_id` of `generation_config.json`.
/// `add_bos_token` and `add_eos_token` do not, there as here: the post-processor of `tokenizer.json`
/// decides.
///
/// With [`TokenizerClass::Transformers`] it is what the class that transformers 5 picks turns it into.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    config: TokenizerConfig,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    cut_from_end: bool,
    is_separable: bool,
}

impl Tokenizer {
    /// Loads `tokenizer.json` and, if it exists, `tokenizer_config.json` of `folder`.
    ///
    /// # Errors
    /// A file is missing or broken, or the post-processor puts tokens into the middle of a text.
    pub fn from_dir(folder: &Path) -> Result<Self, TokensError> {
        Self::of_class(folder, TokenizerClass::File)
    }

    /// The same, made by `class`.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`], or transformers picks a class that is not built in.
    pub fn of_class(folder: &Path, class: TokenizerClass) -> Result<Self, TokensError> {
        let path = folder.join("tokenizer.json");
        let content = files::read(&path, bound::TOKENIZER)
            .map_err(TokensError::unreadable("read", &path, READ_HINT))?;
        let load = || Self::load(&content, &path, TokenizerConfig::read(folder, class)?);
        let loaded = without_panic(load);
        loaded.map_err(bad_tokenizer(&path))?
    }

    fn load(content: &[u8], path: &Path, mut config: TokenizerConfig) -> Result<Self, TokensError> {
        let bad = bad_tokenizer(path);
        let mut inner = config.tokenizer(content).map_err(&bad)?;
        config.find_eos_in(&inner);
        let cut_from_end = config.cut_from_end().unwrap_or_else(|| {
            let direction = inner
                .get_truncation()
                .map(|truncation| truncation.direction);
            matches!(direction, Some(TruncationDirection::Left))
        });
        // The library stops early if it may truncate; sequences are cut here instead.
        inner
            .with_truncation(None)
            .map_err(&bad)?
            .with_padding(None);
        config.add_eos_to(&mut inner).map_err(bad)?;
        let (prefix, suffix) = added_tokens(&inner, path)?;
        let is_separable = is_separable(&inner, config.separator());
        Ok(Self {
            path: path.to_owned(),
            inner,
            config,
            prefix,
            suffix,
            cut_from_end,
            is_separable,
        })
    }

    /// The separator of documents: the EOS token of the tokenizer's or else the generation's
    /// configuration, or without both the text `<|endoftext|>`. sparsify does not look into the
    /// generation config.
    pub fn eos_token(&self) -> &str {
        self.config.separator()
    }

    /// The library's.
    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The path of `tokenizer.json`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of a token, if there is such a token.
    pub fn token(&self, token_id: u32) -> Option<String> {
        self.inner.id_to_token(token_id)
    }

    /// The token ids of `text` with the post-processor's additions, as `tokenizer(text)` gives them in
    /// transformers.
    ///
    /// # Errors
    /// Text that the tokenizer cannot take.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let inner = without_panic(|| self.inner.encode(text, false)).flatten();
        let inner = inner.map_err(bad_tokenizer(&self.path))?;
        Ok([&self.prefix, inner.get_ids(), &self.suffix].concat())
    }

    /// The text of `token_ids`, special tokens included.
    ///
    /// # Errors
    /// Tokens that the tokenizer's decoder cannot take.
    pub fn decode(&self, token_ids: &[u32]) -> Result<String, TokensError> {
        let text = without_panic(|| self.inner.decode(token_ids, false)).flatten();
        text.map_err(bad_tokenizer(&self.path))
    }

    /// Checks that sequences of `ctx_len` tokens can be made.
    pub(crate) fn check_ctx_len(&self, ctx_len: usize) -> Result<(), TokensError> {
        self.config.check_ctx_len(ctx_len)?;
        let n_added = self.prefix.len() + self.suffix.len();
        if ctx_len <= n_added {
            let path = self.path.display();
            let message = format!(
                "ctx_len = {ctx_len} leaves no room for text: `{path}` adds {n_added} tokens"
            );
            let hint = format!("set ctx_len to {} or more", n_added + 1);
            return Err(Fault::input(message).with_hint(hint).into());
        }
        Ok(())
    }

    /// The token ids of `text`, without the post-processor's additions.
    pub(crate) fn encode(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let encoding = without_panic(|| self.inner.encode_fast(text, false))??;
        Ok(encoding.get_ids().to_vec())
    }

    /// Whether the tokens of several documents, each with the separator in front, are those of their
    /// joined text.
    pub(crate) fn is_separable(&self) -> bool {
        self.is_separable
    }

    /// A cutter into sequences of exactly `ctx_len` tokens, the post-processor's additions to each
    /// included. `ctx_len` must have passed [`Tokenizer::check_ctx_len`].
    pub(crate) fn cutter(&self, ctx_len: usize) -> Cutter<'_> {
        Cutter {
            prefix: &self.prefix,
            suffix: &self.suffix,
            n_inner: ctx_len - self.prefix.len() - self.suffix.len(),
            from_end: self.cut_from_end,
            pending: Vec::new(),
        }
    }
}

/// Whether the separator splits a text before anything else looks at it, so that the text on either
/// side of it has no influence on the other: normalizers and pre-tokenizers see the pieces between
/// such tokens one by one.
fn is_separable(inner: &tokenizers::Tokenizer, separator: &str) -> bool {
    let added = inner.get_added_tokens_decoder();
    let is_plain = |token: &AddedToken| !token.normalized && !token.lstrip;
    let mut separators = added.values().filter(|token| token.content == separator);
    let is_cut_first = separators.next().is_some_and(is_plain);
    let stays_apart =
        |token: &AddedToken| token.content == separator || !reaches_into(&token.content, separator);
    is_cut_first
        && !inner.get_added_vocabulary().get_encode_special_tokens()
        && !separator.starts_with(char::is_whitespace)
        && added
            .values()
            .all(|token| !token.single_word && stays_apart(token))
}

/// Whether `token` can begin in a document and end in the separator after it, or past it.
fn reaches_into(token: &str, separator: &str) -> bool {
    let starts = token.char_indices().skip(1);
    let mut ends = starts.map(|(start, _)| &token[start..]);
    ends.any(|end| end.starts_with(separator) || separator.starts_with(end))
}

/// Cuts the tokens of one joined text, which arrive piece by piece, into sequences.
///
/// The last sequence of a text is dropped, even when it is complete. Tokenizers that truncate on the
/// left cut from the end, so that nothing comes before the end is known.
#[derive(Debug)]
pub(crate) struct Cutter<'a> {
    prefix: &'a [u32],
    suffix: &'a [u32],
    n_inner: usize,
    from_end: bool,
    /// Tokens that may still be part of the last sequence.
    pending: Vec<u32>,
}

impl Cutter<'_> {
    /// Takes the next tokens; appends the sequences that are certain to `out`.
    pub(crate) fn push(&mut self, token_ids: &[u32], out: &mut Vec<u32>) {
        self.pending.extend_from_slice(token_ids);
        if self.from_end {
            return;
        }
        let n_sequences = self.n_certain();
        let n_used = n_sequences * self.n_inner;
        for piece in self.pending[..n_used].chunks_exact(self.n_inner) {
            append_whole(self.prefix, piece, self.suffix, out);
        }
        self.pending.drain(..n_used);
    }

    /// Ends the text; appends what is left of its sequences to `out`. Gives the number of tokens
    /// that are dropped.
    pub(crate) fn finish(&mut self, out: &mut Vec<u32>) -> usize {
        let n_sequences = if self.from_end { self.n_certain() } else { 0 };
        for piece in self.pending.rchunks(self.n_inner).take(n_sequences) {
            append_whole(self.prefix, piece, self.suffix, out);
        }
        let n_dropped = self.pending.len() - n_sequences * self.n_inner;
        self.pending.clear();
        n_dropped
    }

    fn n_certain(&self) -> usize {
        let n_pieces = self.pending.len().div_ceil(self.n_inner);
        n_pieces.saturating_sub(1)
    }
}

fn append_whole(prefix: &[u32], piece: &[u32], suffix: &[u32], out: &mut Vec<u32>) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(piece);
    out.extend_from_slice(suffix);
}

/// What the post-processor puts before and after every sequence.
fn added_tokens(
    inner: &tokenizers::Tokenizer,
    path: &Path,
) -> Result<(Vec<u32>, Vec<u32>), TokensError> {
    let probe = Encoding::from_tokens(vec![Token::new(0, "x".into(), (0, 1))], 0);
    let processed = inner.post_process(probe, None, true);
    let processed = processed.map_err(bad_tokenizer(path))?;
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
        _ => Err(Fault::input(format!(
            "the post-processor of `{}` does not keep a sequence in one piece",
            path.display()
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{fixture, folder_with};
    use fault::Remedy;
    use serde_json::Value;

    /// The tiny tokenizer, with its configuration replaced and its file changed by `change`.
    fn tiny_with(config: &str, change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TokensError> {
        let content = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&content).unwrap();
        change(&mut json);
        let folder = folder_with(&[
            ("tokenizer.json", json.to_string().as_bytes()),
            ("tokenizer_config.json", config.as_bytes()),
        ]);
        Tokenizer::from_dir(folder.path())
    }

    /// The sequences one after the other, and the number of tokens dropped.
    fn cut(tokenizer: &Tokenizer, token_ids: &[u32], ctx_len: usize) -> (Vec<u32>, usize) {
        let (mut cutter, mut out) = (tokenizer.cutter(ctx_len), Vec::new());
        cutter.push(token_ids, &mut out);
        let n_dropped = cutter.finish(&mut out);
        (out, n_dropped)
    }

    #[test]
    fn the_generation_config_names_the_eos_token_where_nothing_else_does() {
        let tokenizer = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let eos_with = |config: &str, generation: &str| {
            let folder = folder_with(&[
                ("tokenizer.json", &tokenizer),
                ("tokenizer_config.json", config.as_bytes()),
                ("generation_config.json", generation.as_bytes()),
            ]);
            Tokenizer::from_dir(folder.path())
                .unwrap()
                .eos_token()
                .to_owned()
        };
        let token_7 = tiny_with("{}", |_| {}).unwrap().token(7).unwrap();
        assert_eq!(eos_with("{}", r#"{"eos_token_id": 7}"#), token_7);
        assert_eq!(eos_with("{}", r#"{"eos_token_id": [7, 0]}"#), token_7);
        assert_eq!(eos_with("{}", r#"{"eos_token_id": 7000}"#), "<|endoftext|>");
        assert_eq!(
            eos_with(r#"{"eos_token": "a"}"#, r#"{"eos_token_id": 7}"#),
            "a"
        );
    }

    #[test]
    fn the_last_piece_is_dropped_even_when_complete() {
        let tokenizer = tiny_with("{}", |_| {}).unwrap();
        assert_eq!(cut(&tokenizer, &[1, 2, 3, 4, 5], 2), (vec![1, 2, 3, 4], 1));
        assert_eq!(cut(&tokenizer, &[1, 2, 3, 4], 2), (vec![1, 2], 2));
        assert_eq!(cut(&tokenizer, &[1, 2], 2), (vec![], 2));
        assert_eq!(cut(&tokenizer, &[], 2), (vec![], 0));
    }

    #[test]
    fn pieces_of_any_length_are_cut_as_the_whole() {
        let ids: Vec<u32> = (0..100).collect();
        for config in ["{}", r#"{"truncation_side": "left"}"#] {
            let tokenizer = tiny_with(config, |_| {}).unwrap();
            let whole = cut(&tokenizer, &ids, 7);
            for n in 1..20 {
                let (mut cutter, mut out) = (tokenizer.cutter(7), Vec::new());
                ids.chunks(n).for_each(|piece| cutter.push(piece, &mut out));
                let n_dropped = cutter.finish(&mut out);
                assert_eq!((out, n_dropped), whole);
            }
        }
    }

    #[test]
    fn documents_are_tokenised_alone_where_the_separator_comes_first() {
        let is_separable = |config: &str, change: fn(&mut Value)| {
            tiny_with(config, change).unwrap().is_separable()
        };
        assert!(is_separable("{}", |_| {}));
        assert!(!is_separable(r#"{"eos_token": null}"#, |json| {
            json["added_tokens"] = serde_json::json!([]);
        }));
        for property in ["lstrip", "normalized", "single_word"] {
            let content = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
            let mut json: Value = serde_json::from_slice(&content).unwrap();
            json["added_tokens"][0][property] = true.into();
            let folder = folder_with(&[("tokenizer.json", json.to_string().as_bytes())]);
            let tokenizer = Tokenizer::from_dir(folder.path()).unwrap();
            assert!(!tokenizer.is_separable(), "{property}");
        }
    }

    #[test]
    fn a_token_that_reaches_into_the_separator_is_found() {
        for token in ["<<", "a<|end", "x<|end|>y", "é<"] {
            assert!(reaches_into(token, "<|end|>"), "{token}");
        }
        for token in ["<", "<|end|>x", "|>", "end|>", "<|start|>", "<|end"] {
            assert!(!reaches_into(token, "<|end|>"), "{token}");
        }
    }

    #[test]
    fn the_left_side_can_be_cut() {
        let by_config = tiny_with(r#"{"truncation_side": "left"}"#, |_| {}).unwrap();
        assert_eq!(cut(&by_config, &[1, 2, 3, 4, 5], 2), (vec![4, 5, 2, 3], 1));
        let by_file = tiny_with("{}", |json| {
            json["truncation"] = serde_json::json!({
                "max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Left"
            });
        });
        let by_file = by_file.unwrap();
        assert_eq!(cut(&by_file, &[1, 2, 3, 4, 5], 2), (vec![4, 5, 2, 3], 1));
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
            cut(&tokenizer, &[1, 2, 3, 4, 5], 4),
            (vec![0, 1, 2, 7, 0, 3, 4, 7], 1)
        );
        let error = tokenizer.check_ctx_len(2).unwrap_err();
        assert!(
            error.to_string().contains("leaves no room for text: "),
            "{error:?}"
        );
        tokenizer.check_ctx_len(3).unwrap();
    }

    #[test]
    fn an_eos_token_unknown_to_the_file_is_one_token() {
        let tokenizer = tiny_with(r#"{"eos_token": "<stop>"}"#, |_| {}).unwrap();
        let ids = tokenizer.encode("<stop>a<stop>").unwrap();
        assert_eq!((ids.len(), ids[0], ids[2]), (3, 300, 300));
        assert_eq!(tokenizer.token(300).unwrap(), "<stop>");
    }

    #[test]
    fn missing_and_broken_files_are_named() {
        let folder = folder_with(&[]);
        let error = Tokenizer::from_dir(folder.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot read `"), "{error:?}");
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
