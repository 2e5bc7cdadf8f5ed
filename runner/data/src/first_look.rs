//! What the beginning of a data set tells before all of it is tokenised.

use crate::cache::tokenise;
use crate::chunk::Totals;
use crate::{BuildProgress, DataError, Documents, TokenSpec, Tokens};
use plan::RowRange;
use std::ops::ControlFlow;
use std::path::Path;

/// Bytes of a data set's files that are read to find it out, at most.
const MAX_BYTES: u64 = 8 << 20;

impl TokenSpec {
    /// Reads the first document. Gives the number of sequences where the tokens with this `digest` have
    /// been made in `cache_dir`, or where the data set holds token ids and has no more than `n_wanted`
    /// rows. `None`: it has that many, or it would take long to find out, or the files are still to be
    /// downloaded. No text is tokenised: nobody could stop that.
    ///
    /// # Errors
    /// The first document cannot be used. That there is none, and what is wrong with a tokenizer or with
    /// later documents, is left to those who need them.
    pub fn first_look(
        &self,
        cache_dir: &Path,
        digest: &str,
        n_wanted: u64,
    ) -> Result<Option<u64>, DataError> {
        if let Ok(tokens) = Tokens::find(cache_dir, digest) {
            return Ok(Some(tokens.n_sequences() as u64));
        }
        if self.files.files.iter().any(|file| !file.path.exists()) {
            return Ok(None);
        }
        let open = || Documents::open(self.files.clone(), self.rows.clone());
        let mut documents = open()?;
        let are_counted = self.files.parts.iter().any(RowRange::is_relative);
        if are_counted && documents.n_bytes_total() > MAX_BYTES {
            return Ok(None);
        }
        documents.next().transpose()?;
        if !documents.are_tokenised() {
            return Ok(None);
        }
        let mut go_on = |_: &[u32], totals: &Totals| match totals.n_sequences >= n_wanted
            || totals.n_bytes_read > MAX_BYTES
        {
            true => Err(DataError::Stopped),
            false => Ok(()),
        };
        let progress = &mut |_: BuildProgress| ControlFlow::Continue(());
        let counted = tokenise(self, open()?, Totals::default(), progress, &mut go_on);
        Ok(counted.ok().map(|totals| totals.n_sequences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DigestCache;
    use crate::fixtures::{data_files, folder_with, text_rows, tiny_spec};

    fn look(spec: &TokenSpec, n_wanted: u64) -> Result<Option<u64>, DataError> {
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
        assert!(
            matches!(error, DataError::MissingColumn { .. }),
            "{error:?}"
        );
        for content in ["", "{\"text\": \"a\"}\n"] {
            assert_eq!(look_at(content).unwrap(), None, "{content}");
        }
        assert_eq!(look_at("{\"text\": \"a\"}\n{}\n").unwrap(), None);
    }
}
