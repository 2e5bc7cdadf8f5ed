//! The digest of what token data is made from, which is known before anything is tokenised.

use crate::TokenSpec;
use crate::TokensError;
use crate::memory_limit::MemoryLimit;
use crate::tokenizer_config::TokenizerConfig;
use files::{DigestCache, bound};
use plan::{Format, RowSpec, TokenizerClass};

/// Part of every digest; raised when the same inputs would give other tokens.
const ALGORITHM: &str = "sae-run tokens 3";

impl TokenSpec {
    /// The digest of the token data, in hexadecimal digits: BLAKE3 over the contents of the data
    /// files in their order, the tokenizer and the settings. Names and folders of files do not
    /// count, so that the same data on another machine has the same digest.
    ///
    /// # Errors
    /// The data set or the tokenizer is missing or cannot be read, or `ctx_len` is above the
    /// tokenizer's limit.
    pub fn digest(&self, files: &DigestCache) -> Result<String, TokensError> {
        let RowSpec {
            text_column,
            tokenizer_class: _,
            on_bad_row,
            ctx_len,
            bin_id_bytes,
        } = &self.rows;
        let mut parts = vec![
            ALGORITHM.to_string(),
            text_column.clone(),
            format!("{on_bad_row:?}"),
            ctx_len.to_string(),
            self.vocab_size.to_string(),
        ];
        parts.extend(self.tokenizer_parts(files)?);
        for file in &self.files.files {
            parts.push(format!("{:?}", file.format));
            parts.extend(
                self.files
                    .parts
                    .get(file.part)
                    .map(|rows| format!("{} {rows:?}", file.part)),
            );
            if file.format == Format::Bin {
                parts.push(bin_id_bytes.to_string());
            }
            parts.push(match &file.content_hash {
                Some(hash) => hash.clone(),
                None => files.file(&file.path)?,
            });
        }
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            // With its length in front, no part can be taken for another.
            hasher
                .update(&(part.len() as u64).to_le_bytes())
                .update(part.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn tokenizer_parts(&self, files: &DigestCache) -> Result<Vec<String>, TokensError> {
        let path = self.tokenizer_dir.join("tokenizer.json");
        if self.is_bin() || !path.exists() && self.are_tokenised() {
            return Ok(vec!["none".to_owned()]);
        }
        let hint = "the model's folder must have a tokenizer.json";
        files::open_within(&path, bound::TOKENIZER)
            .map_err(TokensError::unreadable("find", &path, hint))?;
        let class = self.rows.tokenizer_class;
        let config = TokenizerConfig::read(&self.tokenizer_dir, class)?;
        config.check_ctx_len(self.rows.ctx_len)?;
        let mut parts = vec![
            config.separator().to_string(),
            format!("{:?}", config.eos_token_id()),
            format!("{:?}", config.cut_from_end()),
            files.file(&path)?,
        ];
        parts.extend(config.special().parts());
        // What tokenizer.json makes as it is keeps the digest that it had before there was a choice.
        if class != TokenizerClass::File {
            parts.push(format!("{class:?} {:?}", config.rebuild()));
        }
        Ok(parts)
    }

    fn is_bin(&self) -> bool {
        self.files.files[0].format == Format::Bin
    }

    /// Whether the data set, as far as it is on this machine, holds token ids.
    fn are_tokenised(&self) -> bool {
        let documents = MemoryLimit::begin(self).open(self);
        documents.is_ok_and(|documents| documents.are_tokenised())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{data_files, fixture, folder_with, text_rows, tiny_spec};
    use plan::OnBadRow;

    #[test]
    fn the_digest_depends_on_inputs_and_not_on_paths() {
        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        let digest = tiny_spec().digest(&files).unwrap();
        assert_eq!(digest, tiny_spec().digest(&files).unwrap());
        assert_eq!(digest.len(), 64);

        let text = std::fs::read(fixture("tiny.jsonl")).unwrap();
        let elsewhere = folder_with(&[("other.jsonl", &text)]);
        let moved = TokenSpec {
            files: data_files(elsewhere.path()),
            ..tiny_spec()
        };
        assert_eq!(moved.digest(&files).unwrap(), digest);

        let more = folder_with(&[("other.jsonl", &text), ("more.jsonl", b"{\"text\": \"\"}")]);
        let rows = tiny_spec().rows;
        let with_rows = |rows| TokenSpec {
            rows,
            ..tiny_spec()
        };
        let others = [
            with_rows(text_rows(65)),
            with_rows(RowSpec {
                text_column: "body".into(),
                ..rows.clone()
            }),
            with_rows(RowSpec {
                on_bad_row: OnBadRow::Skip,
                ..rows.clone()
            }),
            with_rows(RowSpec {
                tokenizer_class: TokenizerClass::Transformers,
                ..rows.clone()
            }),
            TokenSpec {
                vocab_size: 301,
                ..tiny_spec()
            },
            TokenSpec {
                files: data_files(more.path()),
                ..tiny_spec()
            },
        ];
        for other in others {
            assert_ne!(other.digest(&files).unwrap(), digest, "{other:?}");
        }
        let wider = RowSpec {
            bin_id_bytes: 4,
            ..rows
        };
        let same = with_rows(wider).digest(&files).unwrap();
        assert_eq!(same, digest, "only `.bin` files have such ids");
    }

    #[test]
    fn a_known_hash_stands_for_the_content() {
        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        let digest_of = |hash: &str| {
            let mut spec = tiny_spec();
            spec.files.files[0].content_hash = Some(hash.into());
            spec.files.files[0].path = "not/there.jsonl".into();
            spec.digest(&files).unwrap()
        };
        assert_eq!(digest_of("sha256:a"), digest_of("sha256:a"));
        assert_ne!(digest_of("sha256:a"), digest_of("sha256:b"));
    }

    #[test]
    fn the_digest_depends_on_the_tokenizer() {
        let cache = folder_with(&[]);
        let files = DigestCache::new(cache.path());
        let tokenizer = std::fs::read(fixture("tiny-llama/tokenizer.json")).unwrap();
        let config = std::fs::read(fixture("tiny-llama/tokenizer_config.json")).unwrap();
        let digest_with = |tokenizer: &[u8], config: &[u8]| {
            let folder = folder_with(&[
                ("tokenizer.json", tokenizer),
                ("tokenizer_config.json", config),
            ]);
            let spec = TokenSpec {
                tokenizer_dir: folder.path().into(),
                ..tiny_spec()
            };
            spec.digest(&files).unwrap()
        };
        let digest = tiny_spec().digest(&files).unwrap();
        assert_eq!(digest_with(&tokenizer, &config), digest);
        // A key without influence on the tokens.
        assert_eq!(
            digest_with(&tokenizer, br#"{"eos_token": "<|endoftext|>"}"#),
            digest
        );
        assert_ne!(digest_with(&tokenizer, br#"{"eos_token": "a"}"#), digest);
        assert_ne!(
            digest_with(&[&tokenizer[..], b"\n"].concat(), &config),
            digest
        );
    }

    #[test]
    fn a_context_past_the_limit_has_no_digest() {
        let folder = folder_with(&[
            ("tokenizer.json", b"{}"),
            ("tokenizer_config.json", br#"{"model_max_length": 32}"#),
        ]);
        let spec = TokenSpec {
            tokenizer_dir: folder.path().into(),
            ..tiny_spec()
        };
        let error = spec.digest(&DigestCache::new(folder.path())).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is longer than the model_max_length"),
            "{error:?}"
        );
    }
}
