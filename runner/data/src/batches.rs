//! Shuffled batches of sequences.

use crate::{DataError, Tokens, permutation};

/// Which sequences make which batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSpec {
    /// Seed of the shuffle of all sequences.
    pub shuffle_seed: u64,
    /// Take the first so many sequences after the shuffle; `None` or a number above all there are:
    /// every one (sparsify fails on the latter).
    pub max_examples: Option<u64>,
    /// Sequences in a batch.
    pub batch_size: usize,
}

/// The batches of one pass over token data, in training order.
///
/// The order is that of sparsify: `Dataset.shuffle(shuffle_seed)`, then the first `max_examples`.
/// A partial last batch is dropped, so every batch has the same number of tokens, and schedules
/// and training agree on their number.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: Tokens,
    order: Vec<u64>,
    batch_size: usize,
}

impl Batches {
    /// Shuffles the sequences of `tokens` and cuts them into batches.
    ///
    /// # Errors
    /// There are fewer sequences than one batch takes, or `batch_size` is 0.
    pub fn new(tokens: Tokens, spec: BatchSpec) -> Result<Self, DataError> {
        let BatchSpec {
            shuffle_seed,
            max_examples,
            batch_size,
        } = spec;
        let n_sequences = tokens.n_sequences();
        let limit = max_examples.and_then(|limit| usize::try_from(limit).ok());
        let n_selected = n_sequences.min(limit.unwrap_or(usize::MAX));
        if batch_size == 0 || n_selected < batch_size {
            return Err(DataError::TooFewSequences {
                n_sequences,
                n_selected,
                batch_size,
            });
        }
        let mut order = permutation(n_sequences as u64, shuffle_seed);
        order.truncate(n_selected - n_selected % batch_size);
        Ok(Self {
            tokens,
            order,
            batch_size,
        })
    }

    /// Number of batches, at least 1.
    pub fn n_batches(&self) -> usize {
        self.order.len() / self.batch_size
    }

    /// Sequences in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Length of a sequence, in tokens.
    pub fn ctx_len(&self) -> usize {
        self.tokens.ctx_len()
    }

    /// The token ids of batch `batch_idx`, `[batch_size, ctx_len]`, row after row.
    ///
    /// # Panics
    /// `batch_idx` is not below [`Batches::n_batches`].
    pub fn batch(&self, batch_idx: usize) -> Vec<i64> {
        let start = batch_idx * self.batch_size;
        let mut ids = Vec::with_capacity(self.batch_size * self.ctx_len());
        for sequence_idx in &self.order[start..start + self.batch_size] {
            self.tokens
                .append_sequence(*sequence_idx as usize, &mut ids);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenSpec;
    use crate::fixtures::{fixture, folder_with, golden};
    use std::ops::ControlFlow;

    fn tiny_tokens() -> Tokens {
        let spec = TokenSpec {
            dataset: fixture("tiny.jsonl"),
            tokenizer_dir: fixture("tiny-llama"),
            text_column: "text".into(),
            ctx_len: 64,
            vocab_size: 300,
        };
        let cache = folder_with(&[]);
        Tokens::open_or_build(&spec, cache.path(), &mut |_| ControlFlow::Continue(())).unwrap()
    }

    fn batches(max_examples: Option<u64>, batch_size: usize) -> Result<Batches, DataError> {
        Batches::new(
            tiny_tokens(),
            BatchSpec {
                shuffle_seed: 42,
                max_examples,
                batch_size,
            },
        )
    }

    #[test]
    fn batches_follow_the_shuffled_data_set() {
        let tokens = tiny_tokens();
        let batches = batches(None, 8).unwrap();
        assert_eq!((batches.n_batches(), batches.ctx_len()), (1025 / 8, 64));
        let golden = golden();
        let rows = golden["tiny_shuffled"]["rows"].as_array().unwrap();
        for batch_idx in [0, 1, 127] {
            let rows = &rows[batch_idx * 8..(batch_idx + 1) * 8];
            let expected: Vec<i64> = rows
                .iter()
                .flat_map(|row| tokens.sequence(row.as_u64().unwrap() as usize))
                .collect();
            assert_eq!(batches.batch(batch_idx), expected);
        }
    }

    #[test]
    fn max_examples_takes_the_first_after_the_shuffle() {
        let all = batches(None, 8).unwrap();
        let some = batches(Some(20), 8).unwrap();
        assert_eq!(some.n_batches(), 2);
        assert_eq!(some.batch(1), all.batch(1));
        assert_eq!(
            batches(Some(1 << 40), 8).unwrap().n_batches(),
            all.n_batches()
        );
    }

    #[test]
    fn less_than_a_batch_is_an_error_with_its_numbers() {
        let error = batches(Some(7), 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "7 of 1025 sequences do not fill one batch of 8"
        );
        assert!(error.hint().unwrap().contains("max_examples"));
        let error = batches(None, 2000).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::TooFewSequences {
                    n_selected: 1025,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(batches(None, 0).is_err());
        assert_eq!(batches(None, 1025).unwrap().n_batches(), 1);
    }
}
