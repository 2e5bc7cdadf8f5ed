//! Shuffled batches of sequences.

use crate::{DataError, Tokens, permutation};
use std::collections::HashSet;

/// Seed of the choice of sequences that are held out; not a setting, so that jobs which differ in
/// everything else are evaluated on the same ones.
const HELD_OUT_SEED: u64 = 0;

/// Which sequences make which batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchSpec {
    /// Seed of the shuffle of all sequences.
    pub shuffle_seed: u64,
    /// Take the first so many sequences after the shuffle; `None` or a number above all there are:
    /// every one (sparsify fails on the latter).
    pub max_examples: Option<u64>,
    /// Fraction of the sequences that training never sees; 0: none, as sparsify. Left out before
    /// `max_examples` are taken. See [`held_out`] for which ones.
    pub eval_fraction: f64,
    /// Sequences in a batch, of one rank.
    pub batch_size: usize,
    /// Which part of every batch.
    pub shard: Shard,
}

/// The part of every batch that one of several processes trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub rank: usize,
    /// All processes of the world, over all nodes.
    pub n_ranks: usize,
}

impl Shard {
    /// One process that trains on everything.
    pub const WHOLE: Self = Self {
        rank: 0,
        n_ranks: 1,
    };
}

/// The batches of one pass over token data, in training order.
///
/// The order is that of sparsify: `Dataset.shuffle(shuffle_seed)`, then the first `max_examples`.
/// Every `n_ranks * batch_size` sequences are a batch, of which each rank has `batch_size` in a row:
/// so the world trains on the same batches as one process with as many times the `batch_size`. A
/// partial last batch is left out, so every batch has the same number of tokens, and schedules and
/// training agree on their number.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: Tokens,
    order: Vec<u64>,
    n_selected: usize,
    batch_size: usize,
    shard: Shard,
}

impl Batches {
    /// Shuffles the sequences of `tokens` and cuts them into batches.
    ///
    /// # Errors
    /// There are fewer sequences than one batch takes, or `batch_size` is 0.
    ///
    /// # Panics
    /// The shard's rank is not below its number of ranks.
    pub fn new(tokens: Tokens, spec: BatchSpec) -> Result<Self, DataError> {
        let BatchSpec {
            batch_size, shard, ..
        } = spec;
        assert!(shard.rank < shard.n_ranks, "{shard:?}");
        let mut order = training_order(&tokens, &spec);
        let n_selected = order.len();
        let n_in_batch = batch_size * shard.n_ranks;
        if batch_size == 0 || n_selected < n_in_batch {
            return Err(DataError::TooFewSequences {
                n_sequences: tokens.n_sequences(),
                n_selected,
                batch_size: n_in_batch,
            });
        }
        order.truncate(n_selected - n_selected % n_in_batch);
        Ok(Self {
            tokens,
            order,
            n_selected,
            batch_size,
            shard,
        })
    }

    /// Number of batches, at least 1.
    pub fn n_batches(&self) -> usize {
        self.order.len() / (self.batch_size * self.shard.n_ranks)
    }

    /// Sequences in training order, those at the end that fill no batch included.
    pub fn n_selected(&self) -> usize {
        self.n_selected
    }

    /// Sequences in a batch of this rank.
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
        let start = (batch_idx * self.shard.n_ranks + self.shard.rank) * self.batch_size;
        let mut ids = Vec::with_capacity(self.batch_size * self.ctx_len());
        for sequence_idx in &self.order[start..start + self.batch_size] {
            self.tokens
                .append_sequence(*sequence_idx as usize, &mut ids);
        }
        ids
    }
}

/// The indices of the sequences of `tokens` in the order in which they are trained on, those of a
/// partial last batch included.
pub fn training_order(tokens: &Tokens, spec: &BatchSpec) -> Vec<u64> {
    let n_sequences = tokens.n_sequences() as u64;
    let mut order = permutation(n_sequences, spec.shuffle_seed);
    let held_out: HashSet<u64> = held_out(n_sequences, spec.eval_fraction)
        .into_iter()
        .collect();
    if !held_out.is_empty() {
        order.retain(|sequence_idx| !held_out.contains(sequence_idx));
    }
    let limit = spec.max_examples.unwrap_or(u64::MAX);
    order.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    order
}

/// The indices of the sequences that are held out of `n_sequences`: `eval_fraction` of them, rounded
/// up, drawn without regard to the seed of the training order. So they are the same for all jobs on
/// the same token data. Jobs that differ in `ctx_len`, tokenizer or data have other sequences, and the
/// same numbers mean other text there: what one of them holds out, another may train on.
pub fn held_out(n_sequences: u64, eval_fraction: f64) -> Vec<u64> {
    let n_held_out = (n_sequences as f64 * eval_fraction.clamp(0.0, 1.0)).ceil() as u64;
    if n_held_out == 0 {
        return Vec::new();
    }
    let mut order = permutation(n_sequences, HELD_OUT_SEED);
    order.truncate(n_held_out as usize);
    order
}

/// Which tokens of `token_ids` count: all but those in `exclude_tokens`.
pub fn included(token_ids: &[i64], exclude_tokens: &[u32]) -> Vec<bool> {
    let excluded: HashSet<i64> = exclude_tokens.iter().copied().map(i64::from).collect();
    let is_included = |token_id| !excluded.contains(token_id);
    token_ids.iter().map(is_included).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{folder_with, golden, tiny_spec};
    use std::ops::ControlFlow;

    fn tiny_tokens() -> Tokens {
        let cache = folder_with(&[]);
        Tokens::open_or_build(&tiny_spec(), cache.path(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
    }

    fn batches(max_examples: Option<u64>, batch_size: usize) -> Result<Batches, DataError> {
        let spec = BatchSpec {
            max_examples,
            batch_size,
            ..SPEC
        };
        Batches::new(tiny_tokens(), spec)
    }

    const SPEC: BatchSpec = BatchSpec {
        shuffle_seed: 42,
        max_examples: None,
        eval_fraction: 0.0,
        batch_size: 8,
        shard: Shard::WHOLE,
    };

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

    #[test]
    fn ranks_share_the_batches_of_one_process() {
        let tokens = tiny_tokens();
        let of_rank = |rank, n_ranks, batch_size| {
            let shard = Shard { rank, n_ranks };
            let spec = BatchSpec {
                batch_size,
                shard,
                ..SPEC
            };
            Batches::new(tokens.clone(), spec).unwrap()
        };
        let whole = of_rank(0, 1, 12);
        let ranks = [0, 1, 2].map(|rank| of_rank(rank, 3, 4));
        for part in ranks.iter().chain([&whole]) {
            assert_eq!((part.n_batches(), part.n_selected()), (85, 1025));
        }
        for batch_idx in [0, 1, 84] {
            let parts: Vec<i64> = ranks
                .iter()
                .flat_map(|rank| rank.batch(batch_idx))
                .collect();
            assert_eq!(parts, whole.batch(batch_idx));
        }
    }

    #[test]
    fn what_is_held_out_is_never_trained_on_and_is_the_same_for_all() {
        let tokens = tiny_tokens();
        let held_out = held_out(1025, 0.1);
        assert_eq!(held_out.len(), 103);
        for shuffle_seed in [0, 1, 42] {
            let spec = BatchSpec {
                shuffle_seed,
                eval_fraction: 0.1,
                ..SPEC
            };
            let order = training_order(&tokens, &spec);
            assert_eq!(order.len(), 1025 - 103);
            assert!(order.iter().all(|index| !held_out.contains(index)));
            let all = BatchSpec {
                eval_fraction: 0.0,
                ..spec
            };
            let mut all = training_order(&tokens, &all);
            assert_eq!(all.len(), 1025);
            all.retain(|index| !held_out.contains(index));
            assert_eq!(order, all, "the others keep their order");
        }
    }

    #[test]
    fn held_out_fractions_at_the_ends() {
        assert!(held_out(10, 0.0).is_empty());
        assert_eq!(held_out(10, 1e-9).len(), 1);
        assert_eq!(held_out(10, 1.0).len(), 10);
        assert!(held_out(0, 0.5).is_empty());
        let spec = BatchSpec {
            eval_fraction: 1.0,
            ..SPEC
        };
        assert!(Batches::new(tiny_tokens(), spec).is_err());
    }

    #[test]
    fn excluded_tokens_do_not_count() {
        let mask = included(&[0, 5, 7, 5, 1 << 40], &[5, 0]);
        assert_eq!(mask, [false, false, true, false, true]);
        assert_eq!(included(&[3], &[]), [true]);
    }
}
