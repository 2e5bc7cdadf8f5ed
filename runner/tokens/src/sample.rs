//! About how many tokens a data set has, by its beginning.

use crate::memory_limit::MemoryLimit;
use crate::{TokenSpec, Tokenizer};
use datasets::Document;
use files::DigestCache;
use std::path::Path;
use std::time::Instant;

/// Part of what a sample is remembered under; raised when the same inputs would give another one.
const SAMPLE: &str = "sample 1";
/// Documents and bytes of text that are tokenised, at most.
const MAX_DOCUMENTS: usize = 200;
const MAX_TEXT_BYTES: usize = 1 << 16;
/// Bytes of text for a token if there is no tokenizer: English, with a vocabulary of some 50 000.
pub const BYTES_PER_TOKEN: f64 = 4.5;

/// What the beginning of a data set says of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Tokens of all documents, about.
    pub n_tokens: u64,
    /// Tokens that one thread makes in a second; `None`: there was no tokenizer, or they are made already.
    pub tokens_per_s: Option<f64>,
}

/// Whether a model's folder has a tokenizer.
pub fn has_tokenizer(dir: &Path) -> bool {
    dir.join("tokenizer.json").exists()
}

impl TokenSpec {
    /// Reads the first documents and tokenises them. `None`: they cannot be used or are not here, which is reported when
    /// they are. The answer is remembered in `known` under the `digest` of the tokens.
    pub fn sample(&self, known: &DigestCache, digest: &str) -> Option<Sample> {
        if let Some(sample) = Sample::recall(known, digest) {
            return Some(sample);
        }
        let sample = self.take_sample()?;
        known.remember(&entry_name(digest), &sample.entry());
        Some(sample)
    }

    fn take_sample(&self) -> Option<Sample> {
        if self.files.files.iter().any(|file| !file.path.exists()) {
            return None;
        }
        let limit = MemoryLimit::begin(self);
        let mut documents = limit.open(self).ok()?;
        let (mut texts, mut n_ids, mut n_bytes) = (Vec::new(), 0u64, 0);
        let mut is_whole = false;
        while texts.len() < MAX_DOCUMENTS && n_bytes < MAX_TEXT_BYTES {
            match documents.next() {
                Some(Ok(Document::Text(mut text))) => {
                    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
                    n_bytes += text.len();
                    texts.push(text);
                }
                Some(Ok(Document::TokenIds(ids))) => {
                    n_ids += ids.len() as u64;
                    n_bytes += ids.len() * size_of::<u32>();
                }
                Some(Err(_)) => return None,
                None => {
                    is_whole = true;
                    break;
                }
            }
        }
        let (n_text_tokens, tokens_per_s) = self.count(&texts, n_bytes);
        let share = documents.n_bytes_read() as f64 / documents.n_bytes_total().max(1) as f64;
        let share = if is_whole {
            1.0
        } else {
            share.clamp(1e-9, 1.0)
        };
        Some(Sample {
            n_tokens: ((n_text_tokens + n_ids as f64) / share) as u64,
            tokens_per_s,
        })
    }

    /// The tokens of `texts`, which have `n_bytes`, and how many are made in a second.
    fn count(&self, texts: &[String], n_bytes: usize) -> (f64, Option<f64>) {
        if texts.is_empty() {
            return (0.0, None);
        }
        let tokenizer = Tokenizer::of_class(&self.tokenizer_dir, self.rows.tokenizer_class);
        let Ok(tokenizer) = tokenizer else {
            return (n_bytes as f64 / BYTES_PER_TOKEN, None);
        };
        let begun = Instant::now();
        // A separator for each document.
        let counted = texts
            .iter()
            .map(|text| tokenizer.tokenize(text).map_or(1, |ids| ids.len() + 1));
        let n_tokens = counted.sum::<usize>() as f64;
        let seconds = begun.elapsed().as_secs_f64().max(1e-6);
        (n_tokens, Some(n_tokens / seconds))
    }
}

fn entry_name(digest: &str) -> String {
    blake3::hash(format!("{SAMPLE} {digest}").as_bytes())
        .to_hex()
        .to_string()
}

impl Sample {
    /// What was found before of the tokens with this `digest`. Nothing is read or tokenised.
    pub fn recall(known: &DigestCache, digest: &str) -> Option<Self> {
        Self::of_entry(&known.recall(&entry_name(digest))?)
    }

    fn entry(&self) -> String {
        format!("{} {}", self.n_tokens, self.tokens_per_s.unwrap_or(0.0))
    }

    fn of_entry(entry: &str) -> Option<Self> {
        let (n_tokens, tokens_per_s) = entry.split_once(' ')?;
        let tokens_per_s: f64 = tokens_per_s.parse().ok()?;
        Some(Self {
            n_tokens: n_tokens.parse().ok()?,
            tokens_per_s: (tokens_per_s > 0.0).then_some(tokens_per_s),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokens;
    use crate::fixtures::{data_files, folder_with, text_rows, tiny_spec};
    use std::ops::ControlFlow;

    #[test]
    fn the_beginning_of_a_data_set_says_about_how_long_it_is() {
        let (spec, cache) = (tiny_spec(), folder_with(&[]));
        let known = DigestCache::new(cache.path());
        let digest = spec.digest(&known).unwrap();
        let sample = spec.sample(&known, &digest).unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        let tokens = Tokens::open_or_build(&spec, cache.path(), go_on).unwrap();
        let made = (tokens.n_sequences() * tokens.ctx_len()) as f64;
        let ratio = sample.n_tokens as f64 / made;
        assert!((0.5..2.0).contains(&ratio), "{sample:?} of {made}");
        assert!(sample.tokens_per_s.unwrap() > 0.0);
        assert_eq!(spec.sample(&known, &digest), Some(sample), "remembered");
    }

    #[test]
    fn without_a_tokenizer_the_size_of_the_text_counts() {
        let folder = folder_with(&[("a.jsonl", b"{\"text\": \"four and five\"}\n")]);
        let spec = TokenSpec {
            files: data_files(&folder.path().join("a.jsonl")),
            tokenizer_dir: folder.path().into(),
            ..tiny_spec()
        };
        assert!(!has_tokenizer(folder.path()));
        let sample = spec.take_sample().unwrap();
        assert_eq!((sample.n_tokens, sample.tokens_per_s), (2, None));
    }

    #[test]
    fn ids_are_counted_as_they_are() {
        let rows = "{\"input_ids\": [1, 2, 3]}\n".repeat(4);
        let folder = folder_with(&[("a.jsonl", rows.as_bytes())]);
        let spec = TokenSpec {
            files: data_files(&folder.path().join("a.jsonl")),
            rows: text_rows(3),
            ..tiny_spec()
        };
        let sample = spec.take_sample().unwrap();
        assert_eq!((sample.n_tokens, sample.tokens_per_s), (12, None));
    }
}
