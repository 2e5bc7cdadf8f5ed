//! The order of sequences over epochs.

use crate::permutation::numbered_permutation;
use std::cell::RefCell;
use std::ops::Range;

/// The sequences of an epoch, trained on several times, each time in another order.
#[derive(Clone, Debug)]
pub(crate) struct Epochs {
    /// In the order of epoch 0.
    first: Vec<u64>,
    seed: u64,
    /// Number and order of the later epoch that was asked for last: sequences are asked for in training order.
    later: RefCell<(usize, Vec<u64>)>,
}

impl Epochs {
    /// Epochs over the sequences of `first`, which is the order of epoch 0. That of epoch `e` after it is the order of
    /// `numpy.random.default_rng([seed, e]).permutation(first)`.
    pub(crate) fn new(first: Vec<u64>, seed: u64) -> Self {
        Self {
            first,
            seed,
            later: RefCell::new((0, Vec::new())),
        }
    }

    /// Sequences of an epoch.
    pub(crate) fn n_sequences(&self) -> usize {
        self.first.len()
    }

    /// Calls `take` with the sequences at these indices of the order of all epochs, one after the other.
    pub(crate) fn each(&self, indices: Range<usize>, mut take: impl FnMut(u64)) {
        let n_sequences = self.n_sequences();
        let mut start = indices.start;
        while start < indices.end {
            let (epoch, first) = (start / n_sequences, start % n_sequences);
            let last = n_sequences.min(first + indices.end - start);
            start += last - first;
            if epoch == 0 {
                self.first[first..last].iter().copied().for_each(&mut take);
            } else {
                let mut later = self.later.borrow_mut();
                if later.0 != epoch {
                    *later = (epoch, self.order_of(epoch));
                }
                later.1[first..last].iter().copied().for_each(&mut take);
            }
        }
    }

    /// The order of a later epoch.
    fn order_of(&self, epoch: usize) -> Vec<u64> {
        let n_sequences = self.n_sequences() as u64;
        let order = numbered_permutation(n_sequences, self.seed, epoch as u32);
        let sequence = |index: u64| self.first[index as usize];
        order.into_iter().map(sequence).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(epochs: &Epochs, indices: Range<usize>) -> Vec<u64> {
        let mut sequences = Vec::new();
        epochs.each(indices, |sequence| sequences.push(sequence));
        sequences
    }

    #[test]
    fn each_epoch_has_every_sequence_once_in_another_order() {
        let first: Vec<u64> = (0..50).map(|i| 7 * i + 3).collect();
        let epochs = Epochs::new(first.clone(), 42);
        let all = taken(&epochs, 0..200);
        assert_eq!(all[..50], first);
        let orders: Vec<_> = all.chunks(50).collect();
        for (epoch, order) in orders.iter().enumerate() {
            let mut sorted = order.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, first, "epoch {epoch}");
            assert!(!orders[..epoch].contains(order), "epoch {epoch}");
        }
        let other = taken(&Epochs::new(first, 43), 0..200);
        assert_eq!(other[..50], all[..50]);
        assert_ne!(other[50..100], all[50..100]);
    }

    #[test]
    fn parts_in_any_order_are_those_of_the_whole() {
        let first: Vec<u64> = (0..7).collect();
        let epochs = Epochs::new(first, 1 << 40);
        let all = taken(&epochs, 0..28);
        for start in (0..28).rev() {
            for end in start..28 {
                assert_eq!(taken(&epochs, start..end), all[start..end]);
            }
        }
    }
}
