//! What the beginning of a data set tells before the whole set is tokenised.

use crate::cache::tokenise;
use crate::chunk::Totals;
use crate::memory_limit::MemoryLimit;
use crate::tokenizer_config::TokenizerConfig;
use crate::{BuildProgress, TokenSpec, Tokenizer, Tokens, TokensError};
use datasets::{Document, Documents};
use files::DigestCache;
use plan::{RowRange, TokenizerClass};
use std::ops::ControlFlow;
use std::path::Path;

/// Bytes of a data set's files that are read to find it out, at most.
const MAX_BYTES: u64 = 8 << 20;
/// Part of what a comparison is remembered under; raised when the same inputs would give another one.
const COMPARISON: &str = "tokenizers 1";
/// Documents that are tokenised twice, at most, bytes of each of them, and of all.
const MAX_DOCUMENTS: usize = 200;
const MAX_DOCUMENT_BYTES: usize = 1 << 15;
const MAX_TEXT_BYTES: usize = 1 << 19;

/// How the tokens that tokenizer.json gives differ from those that transformers gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerDifference {
    /// The class that transformers picks.
    pub class: &'static str,
    /// First documents, each with the separator in front.
    pub n_documents: usize,
    /// Those of them that have other tokens.
    pub n_different: usize,
}

impl TokenizerDifference {
    fn entry(&self) -> String {
        format!("{} {}", self.n_documents, self.n_different)
    }

    fn of_entry(class: &'static str, entry: &str) -> Option<Self> {
        let (n_documents, n_different) = entry.split_once(' ')?;
        Some(Self {
            class,
            n_documents: n_documents.parse().ok()?,
            n_different: n_different.parse().ok()?,
        })
    }
}

impl TokenSpec {
    /// Reads the first document. Gives the number of sequences if the tokens with this `digest` have
    /// been made in `cache_dir`, or if the data set holds token ids and has fewer than `n_wanted`
    /// rows. `None`: it has that many, or it would take long to find out, or the files are still to be
    /// downloaded. No text is tokenised: that could not be stopped.
    ///
    /// # Errors
    /// The first document cannot be used. An empty data set, and what is wrong with a tokenizer or with
    /// later documents, is reported when they are used.
    pub fn first_look(
        &self,
        cache_dir: &Path,
        digest: &str,
        n_wanted: u64,
    ) -> Result<Option<u64>, TokensError> {
        if let Ok(tokens) = Tokens::find(cache_dir, digest) {
            return Ok(Some(tokens.n_sequences() as u64));
        }
        if self.files.files.iter().any(|file| !file.path.exists()) {
            return Ok(None);
        }
        let limit = MemoryLimit::begin(self);
        let mut documents = limit.open(self)?;
        let are_counted = self.files.parts.iter().any(RowRange::is_relative);
        if are_counted && documents.n_bytes_total() > MAX_BYTES {
            return Ok(None);
        }
        documents.next().transpose()?;
        if !documents.are_tokenised() {
            return Ok(None);
        }
        let mut go_on = |_: &[u32], totals: &Totals| {
            if totals.n_sequences >= n_wanted || totals.n_bytes_read > MAX_BYTES {
                Err(TokensError::Stopped)
            } else {
                Ok(())
            }
        };
        let progress = &mut |_: BuildProgress| ControlFlow::Continue(());
        let counted = tokenise(
            self,
            limit.open(self)?,
            Totals::default(),
            progress,
            &mut go_on,
        );
        Ok(counted.ok().map(|totals| totals.n_sequences))
    }

    /// Compares the tokens of the first documents by tokenizer.json as it is with those of the class that
    /// transformers picks. `None`: they are the same, or it cannot be known: the class is not built in, the
    /// data set holds token ids, or it is still to be downloaded. What is wrong is reported when it is used.
    /// The answer is remembered in `known`: two tokenizers of a large vocabulary take seconds.
    pub fn tokenizer_difference(&self, known: &DigestCache) -> Option<TokenizerDifference> {
        let configs = [TokenizerClass::File, TokenizerClass::Transformers]
            .map(|class| TokenizerConfig::read(&self.tokenizer_dir, class).ok());
        let class = configs[1].as_ref()?.rebuild()?.class().name();
        let inputs = format!("{COMPARISON} {} {configs:?}", self.digest(known).ok()?);
        let entry_name = blake3::hash(inputs.as_bytes()).to_hex();
        let entry = known.recall(&entry_name);
        let remembered = entry.and_then(|entry| TokenizerDifference::of_entry(class, &entry));
        let difference = match remembered {
            Some(difference) => difference,
            None => {
                let difference = self.compare_tokenizers(class)?;
                known.remember(&entry_name, &difference.entry());
                difference
            }
        };
        (difference.n_different > 0).then_some(difference)
    }

    fn compare_tokenizers(&self, class: &'static str) -> Option<TokenizerDifference> {
        let limit = MemoryLimit::begin(self);
        let texts = first_texts(limit.open(self).ok()?);
        let tokens = |class| tokens_of(&self.tokenizer_dir, class, &texts);
        let of_file = tokens(TokenizerClass::File)?;
        let of_class = tokens(TokenizerClass::Transformers)?;
        let pairs = of_file.iter().zip(&of_class);
        let n_different = pairs
            .filter(|(of_file, of_class)| of_file != of_class)
            .count();
        Some(TokenizerDifference {
            class,
            n_documents: texts.len(),
            n_different,
        })
    }
}

fn first_texts(documents: Documents) -> Vec<String> {
    let mut n_bytes = 0;
    let texts = documents.map_while(|document| match document {
        Ok(Document::Text(mut text)) if n_bytes < MAX_TEXT_BYTES => {
            text.truncate(text.floor_char_boundary(MAX_DOCUMENT_BYTES));
            n_bytes += text.len();
            Some(text)
        }
        _ => None,
    });
    texts.take(MAX_DOCUMENTS).collect()
}

/// The tokens of each text with the separator in front.
fn tokens_of(folder: &Path, class: TokenizerClass, texts: &[String]) -> Option<Vec<Vec<u32>>> {
    let tokenizer = Tokenizer::of_class(folder, class).ok()?;
    let texts = texts
        .iter()
        .map(|text| tokenizer.eos_token().to_owned() + text);
    texts.map(|text| tokenizer.tokenize(&text).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{data_files, fixture, folder_with, text_rows, tiny_spec};
    use serde_json::Value;

    fn look(spec: &TokenSpec, n_wanted: u64) -> Result<Option<u64>, TokensError> {
        let cache = folder_with(&[]);
        spec.first_look(cache.path(), &"0".repeat(64), n_wanted)
    }

    #[test]
    fn token_ids_are_counted_and_text_is_not() {
        assert_eq!(look(&tiny_spec(), 2000).unwrap(), None);
        let ids: String = (0..5)
            .map(|id| format!("{{\"input_ids\": [{id}, 2, 3]}}\n"))
            .collect();
        let folder = folder_with(&[("a.jsonl", ids.as_bytes())]);
        let tokenised = TokenSpec {
            files: data_files(&folder.path().join("a.jsonl")),
            rows: text_rows(3),
            ..tiny_spec()
        };
        assert_eq!(look(&tokenised, 8).unwrap(), Some(5));
        assert_eq!(look(&tokenised, 3).unwrap(), None);
    }

    #[test]
    fn tokens_that_were_made_are_asked() {
        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        let mut spec = tiny_spec();
        let digest = spec.digest(&files).unwrap();
        let progress = &mut |_: BuildProgress| ControlFlow::Continue(());
        Tokens::open_or_build(&spec, cache.path(), progress).unwrap();
        spec.files.files[0].path = "gone.jsonl".into();
        let looked = spec.first_look(cache.path(), &digest, 1);
        assert_eq!(looked.unwrap(), Some(1025));
        assert_eq!(look(&spec, 1).unwrap(), None, "still to be downloaded");
    }

    #[test]
    fn a_first_document_without_text_is_an_error_and_a_later_one_is_not() {
        let look_at = |content: &str| {
            let folder = folder_with(&[("a.jsonl", content.as_bytes())]);
            let files = data_files(&folder.path().join("a.jsonl"));
            look(
                &TokenSpec {
                    files,
                    ..tiny_spec()
                },
                4,
            )
        };
        let error = look_at("{\"txt\": \"a\"}\n").unwrap_err();
        assert!(error.to_string().contains("no column `text`"), "{error:?}");
        for content in ["", "{\"text\": \"a\"}\n"] {
            assert_eq!(look_at(content).unwrap(), None, "{content}");
        }
        assert_eq!(look_at("{\"text\": \"a\"}\n{}\n").unwrap(), None);
    }

    #[test]
    fn other_tokens_than_those_of_transformers_are_counted() {
        let difference = |config: &str, pre_tokenizer: &str, rows: &str| {
            let tokenizer = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
            let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
            tokenizer["pre_tokenizer"]["type"] = pre_tokenizer.into();
            let folder = folder_with(&[
                ("tokenizer.json", tokenizer.to_string().as_bytes()),
                ("tokenizer_config.json", config.as_bytes()),
                ("config.json", br#"{"model_type": "llama"}"#),
                ("a.jsonl", rows.as_bytes()),
            ]);
            let spec = TokenSpec {
                files: data_files(&folder.path().join("a.jsonl")),
                tokenizer_dir: folder.path().into(),
                ..tiny_spec()
            };
            spec.tokenizer_difference(&DigestCache::new(folder.path()))
        };
        let rows = "{\"text\": \"whale\"}\n{\"text\": \"the whale\"}\n{}\n";
        let gpt2 = r#"{"tokenizer_class": "GPT2TokenizerFast"}"#;
        let found = difference(gpt2, "Whitespace", rows).unwrap();
        assert_eq!((found.class, found.n_documents), ("GPT2Tokenizer", 2));
        assert_eq!(found.n_different, 1, "spaces alone differ");
        assert_eq!(difference(gpt2, "ByteLevel", rows), None);
        for config in ["{}", "{", r#"{"tokenizer_class": "BertTokenizer"}"#] {
            assert_eq!(difference(config, "Whitespace", rows), None, "{config}");
        }
        let ids = "{\"input_ids\": [1, 2]}\n";
        for rows in ["", ids, "{\"txt\": \"the whale\"}\n"] {
            assert_eq!(difference(gpt2, "Whitespace", rows), None, "{rows}");
        }
    }

    #[test]
    fn a_comparison_is_made_once_and_again_where_an_input_changed() {
        let tokenizer = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
        tokenizer["pre_tokenizer"]["type"] = "Whitespace".into();
        let folder = folder_with(&[
            ("tokenizer.json", tokenizer.to_string().as_bytes()),
            (
                "tokenizer_config.json",
                br#"{"tokenizer_class": "GPT2Tokenizer"}"#,
            ),
            ("a.jsonl", b"{\"text\": \"the whale\"}\n"),
        ]);
        let mut spec = TokenSpec {
            files: data_files(&folder.path().join("a.jsonl")),
            tokenizer_dir: folder.path().into(),
            ..tiny_spec()
        };
        // The content is known by its hash, so that only a comparison needs the file.
        spec.files.files[0].content_hash = Some("sha256:a".into());
        let known = DigestCache::new(folder.path());
        let found = spec.tokenizer_difference(&known).unwrap();
        std::fs::remove_file(folder.path().join("a.jsonl")).unwrap();
        assert_eq!(spec.tokenizer_difference(&known), Some(found));
        for entry in std::fs::read_dir(folder.path().join("digests")).unwrap() {
            std::fs::write(entry.unwrap().path(), "damaged").unwrap();
        }
        assert_eq!(spec.tokenizer_difference(&known), None, "nothing to read");
        spec.files.files[0].content_hash = Some("sha256:b".into());
        assert_eq!(spec.tokenizer_difference(&known), None, "other content");
    }
}
