//! The least of the scores that are chosen, where they are on several ranks.

use crate::SaeError;
use tch::{Device, Tensor};

/// Bits of a positive number that each round of the search looks at, from the highest on.
const ROUNDS: [u32; 3] = [11, 11, 10];

/// As [`crate::BatchLatents::least_of`], of the scores of all ranks in each set. What they send each other is how many
/// scores there are in each of some thousand ranges: `gather` gives the counts of every rank for those of this one.
///
/// # Errors
/// That of `gather`, or too little memory.
pub fn least_scores<E: From<SaeError>>(
    sets: &[Vec<&Tensor>],
    n: usize,
    mut gather: impl FnMut(&[i64]) -> Result<Vec<Vec<i64>>, E>,
) -> Result<Vec<f32>, E> {
    let searches = sets.iter().map(|scores| BitSearch::new(scores, n));
    let mut searches = searches.collect::<Result<Vec<_>, _>>()?;
    let mut shift = u32::BITS;
    for n_bits in ROUNDS {
        shift -= n_bits;
        let counts = searches.iter().flat_map(|own| own.counts(shift, n_bits));
        let counts: Vec<i64> = counts.collect();
        let of_ranks = gather(&counts)?;
        let all = |idx: usize| of_ranks.iter().map(|counts| counts[idx]).sum::<i64>();
        let totals: Vec<i64> = (0..counts.len()).map(all).collect();
        for (search, totals) in searches.iter_mut().zip(totals.chunks(1 << n_bits)) {
            search.note(totals, n_bits);
        }
    }
    Ok(searches.iter().map(BitSearch::found).collect())
}

/// The search for the `n`-th largest of positive numbers, of which each rank has some.
struct BitSearch {
    /// Of the numbers here.
    bits: Vec<u32>,
    /// The highest bits of the number, as far as they are known.
    prefix: u32,
    /// It is the one of this place among those that begin so; 0: no rank has any.
    n_left: i64,
}

impl BitSearch {
    fn new(scores: &[&Tensor], n: usize) -> Result<Self, SaeError> {
        let mut bits = Vec::new();
        for scores in scores {
            // Sync: the scores go to the host.
            let scores = Vec::<f32>::try_from(scores.f_to_device(Device::Cpu)?)?;
            let positive = scores.into_iter().filter(|score| *score > 0.0);
            bits.extend(positive.map(f32::to_bits));
        }
        Ok(Self {
            bits,
            prefix: 0,
            n_left: n as i64,
        })
    }

    /// How many of the numbers here begin as is known, by the next `n_bits`, after which `shift` are left.
    fn counts(&self, shift: u32, n_bits: u32) -> Vec<i64> {
        let mut counts = vec![0i64; 1 << n_bits];
        let mask = (1u32 << n_bits) - 1;
        let known = u64::from(self.prefix);
        for bits in &self.bits {
            if u64::from(*bits) >> (shift + n_bits) == known {
                counts[(bits >> shift & mask) as usize] += 1;
            }
        }
        counts
    }

    /// `totals`: those counts of all ranks.
    fn note(&mut self, totals: &[i64], n_bits: u32) {
        // Fewer than are wanted: the least of them.
        self.n_left = self.n_left.min(totals.iter().sum());
        if self.n_left == 0 {
            return;
        }
        let mut n_above = 0;
        let found = (0..totals.len()).rev().find(|idx| {
            n_above += totals[*idx];
            n_above >= self.n_left
        });
        let found = found.expect("there are as many");
        self.n_left -= n_above - totals[found];
        self.prefix = self.prefix << n_bits | found as u32;
    }

    /// Infinity if no rank has any.
    fn found(&self) -> f32 {
        if self.n_left == 0 {
            f32::INFINITY
        } else {
            f32::from_bits(self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchLatents;

    fn alone(sets: &[Vec<&Tensor>], n: usize) -> Vec<f32> {
        let gather = |counts: &[i64]| Ok::<_, SaeError>(vec![counts.to_vec()]);
        least_scores(sets, n, gather).unwrap()
    }

    #[test]
    fn the_least_by_counting_is_that_by_sorting() {
        let numbers: Vec<f32> = (0..500).map(|idx| (idx as f32 * 1.7).sin() * 3.0).collect();
        let parts = [
            Tensor::from_slice(&numbers[..100]),
            Tensor::from_slice(&numbers[100..]),
        ];
        let n_positive = numbers.iter().filter(|number| **number > 0.0).count();
        for n in [1, 2, 57, n_positive, 400, 10_000] {
            let sets = [vec![&parts[0], &parts[1]], vec![&parts[1]], Vec::new()];
            let counted = alone(&sets, n);
            for (counted, scores) in counted.iter().zip(&sets[..2]) {
                let sorted = BatchLatents::least_of(scores, n).unwrap();
                assert_eq!(f64::from(*counted), sorted.double_value(&[]), "{n}");
            }
            assert_eq!(counted[2], f32::INFINITY);
        }
        let none = [Tensor::from_slice(&[-1.0f32, 0.0])];
        assert_eq!(alone(&[vec![&none[0]]], 3), [f32::INFINITY]);
    }
}
