//! Shuffled batches of sequences.

use crate::epochs::Epochs;
use crate::{Tokens, TokensError, permutation};
use fault::Fault;
use plan::StreamKey;
use std::collections::HashSet;
use std::ops::Range;

/// Seed of the choice of sequences that are held out; not a setting, so that jobs which differ in
/// everything else are evaluated on the same ones.
const HELD_OUT_SEED: u64 = 0;

/// Which sequences make which batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchSpec {
    /// Seed of the shuffle of all sequences.
    pub shuffle_seed: u64,
    /// Sequences to take from the start of the shuffled order; `None` or a number above the total: all of
    /// them (sparsify fails on the latter).
    pub max_examples: Option<u64>,
    /// Fraction of the sequences that training never sees; 0: none, as sparsify. Left out before
    /// `max_examples` are taken. See [`held_out`] for which ones.
    pub eval_fraction: f64,
    /// How often the sequences are trained on, each time in another order; at least 1.
    pub epochs: u64,
    /// Sequences in a batch, of all processes together.
    pub batch_size: usize,
    /// Which part of every batch.
    pub shard: Shard,
    /// Sequences in one pass of this process over a part of its part; its part fits one pass if this
    /// is not smaller.
    pub pass_size: usize,
}

impl BatchSpec {
    /// The batches of a stream, of which this process has `shard`.
    pub fn of_stream(key: &StreamKey, shard: Shard) -> Self {
        Self {
            shuffle_seed: key.shuffle_seed,
            max_examples: key.max_examples,
            eval_fraction: key.eval_fraction,
            epochs: key.epochs,
            batch_size: key.batches_per_pass * key.batch_size,
            shard,
            pass_size: key.batch_size,
        }
    }
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

    /// The indices of this part among `n`: parts are in the order of ranks, and differ by one at most.
    fn of(self, n: usize) -> Range<usize> {
        let end = |rank| n * rank / self.n_ranks;
        end(self.rank)..end(self.rank + 1)
    }
}

/// The batches of all epochs over token data, in training order.
///
/// The order is that of sparsify: `Dataset.shuffle(shuffle_seed)`, then the first `max_examples`. After these, they come
/// again in another order for each further epoch. Every `batch_size` sequences are a batch, also over the border of two
/// epochs, and each process has some of them in a row: so a batch does not depend on how many processes there are. A
/// partial last batch is left out, so every batch has the same number of tokens, and schedules and training agree on
/// their number.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: Tokens,
    epochs: Epochs,
    n_batches: usize,
    batch_size: usize,
    /// Indices in a batch of each pass of this process.
    passes: Vec<Range<usize>>,
    /// Passes of the process that has the most.
    most_passes: usize,
}

impl Batches {
    /// Shuffles the sequences of `tokens` and cuts them into batches.
    ///
    /// # Errors
    /// There are fewer sequences than one batch takes, fewer in a batch than processes, or a size is 0.
    ///
    /// # Panics
    /// The shard's rank is not below its number of ranks.
    pub fn new(tokens: Tokens, spec: BatchSpec) -> Result<Self, TokensError> {
        let BatchSpec {
            batch_size,
            shard,
            pass_size,
            shuffle_seed,
            ..
        } = spec;
        assert!(shard.rank < shard.n_ranks, "{shard:?}");
        let order = training_order(&tokens, &spec);
        if pass_size == 0 {
            return Err(too_few(tokens.n_sequences() as u64, &spec));
        }
        check_batch(tokens.n_sequences() as u64, &spec)?;
        if batch_size < shard.n_ranks {
            let n_ranks = shard.n_ranks;
            let message =
                format!("{n_ranks} ranks are more than the {batch_size} sequences of a batch");
            let hint = "start fewer ranks: jobs keep the batches that they were begun with";
            return Err(Fault::input(message).with_hint(hint).into());
        }
        let n_in_all = order.len() as u64 * spec.epochs.max(1);
        let own = shard.of(batch_size);
        let largest = batch_size.div_ceil(shard.n_ranks);
        let starts = own.clone().step_by(pass_size);
        Ok(Self {
            tokens,
            epochs: Epochs::new(order, shuffle_seed),
            n_batches: (n_in_all / batch_size as u64) as usize,
            batch_size,
            passes: starts
                .map(|start| start..own.end.min(start + pass_size))
                .collect(),
            most_passes: largest.div_ceil(pass_size),
        })
    }

    /// Number of batches, at least 1.
    pub fn n_batches(&self) -> usize {
        self.n_batches
    }

    /// Sequences of an epoch.
    pub fn n_selected(&self) -> usize {
        self.epochs.n_sequences()
    }

    /// Sequences in a batch, of all processes together.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Passes of this process over its part of a batch, at least 1.
    pub fn n_passes(&self) -> usize {
        self.passes.len()
    }

    /// Passes over a batch of the process that has the most of them.
    pub fn most_passes(&self) -> usize {
        self.most_passes
    }

    /// Length of a sequence, in tokens.
    pub fn ctx_len(&self) -> usize {
        self.tokens.ctx_len()
    }

    /// The token ids of a pass over batch `batch_idx`, `[n_sequences, ctx_len]`, row after row.
    ///
    /// # Panics
    /// `batch_idx` is not below [`Batches::n_batches`], or `pass_idx` not below
    /// [`Batches::n_passes`].
    pub fn pass(&self, batch_idx: usize, pass_idx: usize) -> Vec<i64> {
        let start = batch_idx * self.batch_size;
        let in_batch = &self.passes[pass_idx];
        let in_order = start + in_batch.start..start + in_batch.end;
        let mut ids = Vec::with_capacity(in_order.len() * self.ctx_len());
        self.epochs.each(in_order, |sequence_idx| {
            self.tokens.append_sequence(sequence_idx as usize, &mut ids);
        });
        ids
    }
}

/// The indices of the sequences of `tokens` in the order in which they are trained on in the first epoch, those of a
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

/// Checks that `n_sequences` fill a batch, after those that are held out.
///
/// # Errors
/// They do not, or a batch has no sequence.
pub fn check_batch(n_sequences: u64, spec: &BatchSpec) -> Result<(), TokensError> {
    let n_selected = n_selected(n_sequences, spec);
    if spec.batch_size > 0 && n_selected >= spec.batch_size as u64 {
        Ok(())
    } else {
        Err(too_few(n_sequences, spec))
    }
}

/// Fewer sequences than one batch, with each way that leads to one.
fn too_few(n_sequences: u64, spec: &BatchSpec) -> TokensError {
    let all = BatchSpec {
        max_examples: None,
        ..*spec
    };
    let (n_usable, n_selected) = (n_selected(n_sequences, &all), n_selected(n_sequences, spec));
    let (batch_size, n_ranks) = (spec.batch_size, spec.shard.n_ranks);
    let (wanted, n_of_rank) = (batch_size as u64, n_selected / n_ranks.max(1) as u64);
    // More than the processes make by themselves.
    let is_given = batch_size > n_ranks * spec.pass_size;
    let ways = [
        is_given.then(|| "lower tokens_per_update".to_owned()),
        (!is_given && n_of_rank > 0).then(|| format!("lower batch_size to {n_of_rank} or less")),
        (!is_given && n_ranks > 1).then(|| "start fewer ranks".to_owned()),
        (n_usable >= wanted).then(|| format!("raise max_examples to {wanted} or more")),
        (n_usable < wanted).then(|| "add text".to_owned()),
        (n_usable < wanted && n_sequences >= wanted).then(|| "lower eval_fraction".to_owned()),
    ];
    let ways: Vec<_> = ways.into_iter().flatten().collect();
    let message = format!(
        "{n_selected} of {n_sequences} sequences are selected, too few for one batch of {batch_size}"
    );
    Fault::input(message).with_hint(ways.join(", or ")).into()
}

/// The length of [`training_order`] of `n_sequences`.
pub fn n_selected(n_sequences: u64, spec: &BatchSpec) -> u64 {
    let n_usable = n_sequences - n_held_out(n_sequences, spec.eval_fraction);
    n_usable.min(spec.max_examples.unwrap_or(u64::MAX))
}

fn n_held_out(n_sequences: u64, eval_fraction: f64) -> u64 {
    (n_sequences as f64 * eval_fraction.clamp(0.0, 1.0)).ceil() as u64
}

/// The indices of the sequences that are held out of `n_sequences`: `eval_fraction` of them, rounded
/// up, drawn without regard to the seed of the training order. So they are the same for all jobs on
/// the same token data. Jobs that differ in `ctx_len`, tokenizer or data have other sequences, and the
/// same numbers mean other text there: what one of them holds out, another may train on.
pub fn held_out(n_sequences: u64, eval_fraction: f64) -> Vec<u64> {
    let n_held_out = n_held_out(n_sequences, eval_fraction);
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
    use fault::Remedy;
    use std::ops::ControlFlow;

    fn tiny_tokens() -> Tokens {
        let cache = folder_with(&[]);
        Tokens::open_or_build(&tiny_spec(), cache.path(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
    }

    fn batches(max_examples: Option<u64>, batch_size: usize) -> Result<Batches, TokensError> {
        let spec = BatchSpec {
            max_examples,
            batch_size,
            pass_size: batch_size,
            ..SPEC
        };
        Batches::new(tiny_tokens(), spec)
    }

    const SPEC: BatchSpec = BatchSpec {
        shuffle_seed: 42,
        max_examples: None,
        eval_fraction: 0.0,
        epochs: 1,
        batch_size: 8,
        shard: Shard::WHOLE,
        pass_size: 8,
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
            assert_eq!(batches.pass(batch_idx, 0), expected);
        }
    }

    #[test]
    fn max_examples_takes_the_first_after_the_shuffle() {
        let all = batches(None, 8).unwrap();
        let some = batches(Some(20), 8).unwrap();
        assert_eq!(some.n_batches(), 2);
        assert_eq!(some.pass(1, 0), all.pass(1, 0));
        assert_eq!(
            batches(Some(1 << 40), 8).unwrap().n_batches(),
            all.n_batches()
        );
    }

    #[test]
    fn epochs_go_on_where_the_one_before_ended() {
        let spec = |epochs, batch_size| BatchSpec {
            max_examples: Some(20),
            epochs,
            batch_size,
            pass_size: batch_size,
            ..SPEC
        };
        let batches = |epochs, batch_size| {
            let batches = Batches::new(tiny_tokens(), spec(epochs, batch_size)).unwrap();
            let ids = (0..batches.n_batches()).flat_map(|batch| batches.pass(batch, 0));
            (batches.n_batches(), ids.collect::<Vec<_>>())
        };
        let (n_batches, all) = batches(3, 20);
        assert_eq!((n_batches, all.len()), (3, 60 * 64));
        assert_eq!(batches(1, 20).1, all[..20 * 64]);
        assert_eq!(batches(2, 8), (5, all[..40 * 64].to_vec()));
        assert_eq!(batches(3, 8), (7, all[..56 * 64].to_vec()));
        assert_eq!(batches(1, 8), (2, all[..16 * 64].to_vec()));
        let sorted = |epoch: &[i64]| {
            let mut rows: Vec<Vec<i64>> = epoch.chunks(64).map(<[i64]>::to_vec).collect();
            rows.sort();
            rows
        };
        let epochs: Vec<_> = all.chunks(20 * 64).collect();
        assert_eq!(sorted(epochs[0]), sorted(epochs[2]));
        assert_ne!(epochs[1], epochs[2]);
        // No epoch fills a batch with the same sequence twice.
        assert!(Batches::new(tiny_tokens(), spec(2, 21)).is_err());
    }

    #[test]
    fn less_than_a_batch_is_an_error_with_its_numbers() {
        let error = batches(Some(7), 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            "7 of 1025 sequences are selected, too few for one batch of 8"
        );
        let hint = "lower batch_size to 7 or less, or raise max_examples to 8 or more";
        assert_eq!(error.hint().unwrap(), hint);
        let error = batches(Some(7), 2000).unwrap_err();
        let hint = "lower batch_size to 7 or less, or add text";
        assert_eq!(error.hint().unwrap(), hint);
        let spec = |batch_size, n_ranks| BatchSpec {
            batch_size,
            shard: Shard { rank: 0, n_ranks },
            ..SPEC
        };
        let hint = |spec| check_batch(10, &spec).unwrap_err().hint().unwrap();
        let ranks = "lower batch_size to 2 or less, or start fewer ranks, or add text";
        assert_eq!(hint(spec(16, 4)), ranks);
        assert_eq!(hint(spec(16, 16)), "start fewer ranks, or add text");
        let held_out = BatchSpec {
            eval_fraction: 0.9,
            ..spec(4, 1)
        };
        let fraction = "lower batch_size to 1 or less, or add text, or lower eval_fraction";
        assert_eq!(hint(held_out), fraction);
        assert!(check_batch(4, &spec(4, 1)).is_ok());
        let error = batches(None, 2000).unwrap_err();
        let message = "1025 of 1025 sequences are selected, too few for one batch of 2000";
        assert_eq!(error.to_string(), message);
        assert!(batches(None, 0).is_err());
        assert_eq!(batches(None, 1025).unwrap().n_batches(), 1);
    }

    /// All passes over a batch of ranks one after the other.
    fn of_ranks(batch_idx: usize, n_ranks: usize, pass_size: usize) -> Vec<i64> {
        let tokens = tiny_tokens();
        let mut ids = Vec::new();
        for rank in 0..n_ranks {
            let spec = BatchSpec {
                batch_size: 12,
                shard: Shard { rank, n_ranks },
                pass_size,
                ..SPEC
            };
            let batches = Batches::new(tokens.clone(), spec).unwrap();
            assert_eq!((batches.n_batches(), batches.n_selected()), (85, 1025));
            for pass_idx in 0..batches.n_passes() {
                let pass = batches.pass(batch_idx, pass_idx);
                assert!(!pass.is_empty() && pass.len() <= pass_size * 64);
                ids.extend(pass);
            }
        }
        ids
    }

    #[test]
    fn a_batch_is_the_same_for_any_number_of_ranks() {
        for batch_idx in [0, 84] {
            let whole = of_ranks(batch_idx, 1, 12);
            assert_eq!(whole.len(), 12 * 64);
            for (n_ranks, pass_size) in [(3, 4), (1, 4), (2, 4), (5, 1), (12, 12), (7, 2)] {
                assert_eq!(
                    of_ranks(batch_idx, n_ranks, pass_size),
                    whole,
                    "{n_ranks} ranks"
                );
            }
        }
    }

    #[test]
    fn every_rank_must_have_a_sequence() {
        let spec = BatchSpec {
            batch_size: 2,
            shard: Shard {
                rank: 1,
                n_ranks: 3,
            },
            ..SPEC
        };
        let error = Batches::new(tiny_tokens(), spec).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 ranks are more than the 2 sequences of a batch"
        );
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
