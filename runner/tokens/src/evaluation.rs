//! Which sequences SAEs are evaluated on, and in which order.

use crate::{Shard, Tokens, held_out};

/// Sequences that nothing is trained on. Their order is drawn once and for all, so that any number
/// of them from the first on is a fair sample, and the same one for every job on the same data.
#[derive(Clone, Debug)]
pub struct EvalSequences {
    tokens: Tokens,
    /// Indices of the sequences in `tokens`.
    order: Vec<u64>,
}

impl EvalSequences {
    /// The sequences of `tokens` that are held out of training; `None` if `eval_fraction` is 0.
    pub fn held_out(tokens: &Tokens, eval_fraction: f64) -> Option<Self> {
        let order = held_out(tokens.n_sequences() as u64, eval_fraction);
        (!order.is_empty()).then(|| Self {
            tokens: tokens.clone(),
            order,
        })
    }

    /// All sequences of `tokens`, which come from a separate data set.
    pub fn all(tokens: Tokens) -> Self {
        Self {
            order: held_out(tokens.n_sequences() as u64, 1.0),
            tokens,
        }
    }

    /// Only the first `n_sequences` of them, and at least one.
    #[must_use]
    pub fn at_most(mut self, n_sequences: u64) -> Self {
        let n_sequences = usize::try_from(n_sequences).unwrap_or(usize::MAX);
        self.order.truncate(n_sequences.max(1));
        self
    }

    /// How many there are, at least 1.
    pub fn n_sequences(&self) -> usize {
        self.order.len()
    }

    /// Length of a sequence, in tokens.
    pub fn ctx_len(&self) -> usize {
        self.tokens.ctx_len()
    }

    /// The token ids, `batch_size` sequences at a time, row after row; the last batch may be smaller.
    ///
    /// # Panics
    /// `batch_size` is 0.
    pub fn batches(&self, batch_size: usize) -> impl Iterator<Item = Vec<i64>> {
        self.order.chunks(batch_size).map(|batch| self.ids(batch))
    }

    /// The batches in rounds, of which each rank has one: rank 0 the first, rank 1 the second and so on. `None`: the
    /// last round has no batch for this rank.
    ///
    /// # Panics
    /// `batch_size` is 0.
    pub fn rounds(
        &self,
        batch_size: usize,
        shard: Shard,
    ) -> impl Iterator<Item = Option<Vec<i64>>> {
        let rounds = self.order.chunks(batch_size * shard.n_ranks);
        rounds.map(move |round| {
            let own = round.chunks(batch_size).nth(shard.rank);
            own.map(|batch| self.ids(batch))
        })
    }

    fn ids(&self, batch: &[u64]) -> Vec<i64> {
        let mut ids = Vec::with_capacity(batch.len() * self.ctx_len());
        for sequence_idx in batch {
            self.tokens
                .append_sequence(*sequence_idx as usize, &mut ids);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{folder_with, tiny_spec};
    use std::ops::ControlFlow;

    fn tokens() -> Tokens {
        let cache = folder_with(&[]);
        let tokens = Tokens::open_or_build(&tiny_spec(), cache.path(), &mut |_| {
            ControlFlow::Continue(())
        });
        tokens.unwrap()
    }

    #[test]
    fn held_out_sequences_come_once_each_whatever_the_batch() {
        let tokens = tokens();
        assert!(EvalSequences::held_out(&tokens, 0.0).is_none());
        let held_out = EvalSequences::held_out(&tokens, 0.01).unwrap();
        assert_eq!((held_out.n_sequences(), held_out.ctx_len()), (11, 64));
        let indices = crate::held_out(1025, 0.01);
        let expected: Vec<i64> = indices
            .iter()
            .flat_map(|index| tokens.sequence(*index as usize))
            .collect();
        for (batch_size, n_batches) in [(1, 11), (4, 3), (100, 1)] {
            let batches: Vec<_> = held_out.batches(batch_size).collect();
            assert_eq!(batches.len(), n_batches);
            assert_eq!(batches.concat(), expected);
        }
    }

    #[test]
    fn rounds_give_every_batch_to_one_rank() {
        let held_out = EvalSequences::held_out(&tokens(), 0.01).unwrap();
        let batches: Vec<_> = held_out.batches(2).collect();
        for n_ranks in [1, 2, 4, 7] {
            let of_rank = |rank| {
                let rounds = held_out.rounds(2, Shard { rank, n_ranks });
                rounds.collect::<Vec<_>>()
            };
            let of_ranks: Vec<_> = (0..n_ranks).map(of_rank).collect();
            let n_rounds = batches.len().div_ceil(n_ranks);
            let in_order =
                (0..n_rounds).flat_map(|round| of_ranks.iter().map(move |of| &of[round]));
            let in_order: Vec<_> = in_order.collect();
            assert!(
                in_order[..batches.len()]
                    .iter()
                    .copied()
                    .flatten()
                    .eq(&batches)
            );
            assert!(in_order[batches.len()..].iter().all(|rest| rest.is_none()));
        }
    }

    #[test]
    fn a_data_set_of_its_own_is_taken_whole_or_in_part() {
        let all = EvalSequences::all(tokens());
        assert_eq!(all.n_sequences(), 1025);
        let mut sorted = all.order.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1025));
        let some = all.clone().at_most(3);
        assert_eq!(some.order, all.order[..3]);
        assert_eq!(all.clone().at_most(0).n_sequences(), 1);
        assert_eq!(all.at_most(u64::MAX).n_sequences(), 1025);
    }
}
