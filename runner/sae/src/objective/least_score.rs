//! The least of the scores that are chosen, where they are on several ranks.

use crate::SaeError;
use tch::{Device, Tensor};

/// Bits of a positive number that each round of the search looks at, from the highest on.
const ROUNDS: [u32; 3] = [11, 11, 10];

/// As [`crate::BatchLatents::least_of`], of the scores of all ranks: what they send each other is how many scores there are
/// in each of some thousand ranges. `gather` gives the counts of every rank for those of this one.
///
/// # Errors
/// That of `gather`, or too little memory.
pub fn least_score<E: From<SaeError>>(
    scores: &[&Tensor],
    n: usize,
    mut gather: impl FnMut(&[i64]) -> Result<Vec<Vec<i64>>, E>,
) -> Result<f32, E> {
    let bits = bits_of_positive(scores)?;
    let (mut prefix, mut n_left) = (0u32, n as i64);
    let mut shift = u32::BITS;
    for n_bits in ROUNDS {
        shift -= n_bits;
        let mut counts = vec![0i64; 1 << n_bits];
        let mask = (1u32 << n_bits) - 1;
        for bits in bits
            .iter()
            .filter(|bits| u64::from(**bits) >> (shift + n_bits) == u64::from(prefix))
        {
            counts[(bits >> shift & mask) as usize] += 1;
        }
        let of_ranks = gather(&counts)?;
        let all = |idx: usize| of_ranks.iter().map(|counts| counts[idx]).sum::<i64>();
        let totals: Vec<i64> = (0..counts.len()).map(all).collect();
        // Fewer than are wanted: the least of them.
        n_left = n_left.min(totals.iter().sum());
        if n_left == 0 {
            return Ok(f32::INFINITY);
        }
        let mut n_above = 0;
        let found = (0..counts.len()).rev().find(|idx| {
            n_above += totals[*idx];
            n_above >= n_left
        });
        let found = found.expect("there are as many");
        n_left -= n_above - totals[found];
        prefix = prefix << n_bits | found as u32;
    }
    Ok(f32::from_bits(prefix))
}

/// Those of the scores above 0; in the order of the scores.
fn bits_of_positive(scores: &[&Tensor]) -> Result<Vec<u32>, SaeError> {
    let mut bits = Vec::new();
    for scores in scores {
        // Sync: the scores go to the host.
        let scores = Vec::<f32>::try_from(scores.f_to_device(Device::Cpu)?)?;
        let positive = scores.into_iter().filter(|score| *score > 0.0);
        bits.extend(positive.map(f32::to_bits));
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BatchLatents;

    fn alone(scores: &[&Tensor], n: usize) -> f32 {
        let gather = |counts: &[i64]| Ok::<_, SaeError>(vec![counts.to_vec()]);
        least_score(scores, n, gather).unwrap()
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
            let counted = alone(&[&parts[0], &parts[1]], n);
            let sorted = BatchLatents::least_of(&[&parts[0], &parts[1]], n).unwrap();
            assert_eq!(f64::from(counted), sorted.double_value(&[]), "{n}");
        }
        let none = [Tensor::from_slice(&[-1.0f32, 0.0])];
        assert_eq!(alone(&[&none[0]], 3), f32::INFINITY);
    }
}
