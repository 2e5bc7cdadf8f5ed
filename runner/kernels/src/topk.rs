//! The largest numbers of each row.

use crate::candidates::{Row, Scratch, collect, take};
use crate::instruction_sets::multiversioned;
use rayon::prelude::*;

/// A row of products and the bias.
struct Sums<'a> {
    row: &'a [f32],
    bias: &'a [f32],
}

impl Row for Sums<'_> {
    // The same sum each time.
    const MARGIN: f32 = 0.0;

    #[inline(always)]
    fn len(&self) -> usize {
        self.row.len()
    }

    #[inline(always)]
    fn values(&self, first: usize) -> impl Iterator<Item = f32> {
        let sums = self.row[first..].iter().zip(&self.bias[first..]);
        sums.map(|(row, bias)| row + bias)
    }

    #[inline(always)]
    fn off(&self, _: usize, _: f32) -> f32 {
        0.0
    }

    #[inline(always)]
    fn upper(&self, idx: usize) -> f32 {
        self.row[idx] + self.bias[idx]
    }
}

/// The `k` largest of `row + bias` for each row of `rows`: `[n_rows, bias.len()]`, in the order of their
/// indices. `values`, `indices`: `[n_rows, k]`. Of equal numbers the first ones are taken; a NaN is larger
/// than all numbers.
///
/// # Panics
/// Shapes that do not fit, or `k` is not in `1..=bias.len()`.
pub fn topk(rows: &[f32], bias: &[f32], k: usize, values: &mut [f32], indices: &mut [i64]) {
    let n = bias.len();
    assert!((1..=n).contains(&k), "{k} of {n}");
    assert!(u32::try_from(n).is_ok(), "{n} numbers in a row");
    assert_eq!(rows.len() / n * n, rows.len(), "whole rows");
    assert_eq!(values.len(), rows.len() / n * k, "k values for a row");
    assert_eq!(indices.len(), values.len(), "an index for each value");
    let out = values.par_chunks_mut(k).zip(indices.par_chunks_mut(k));
    rows.par_chunks(n).zip(out).for_each_init(
        || (Scratch::default(), Vec::new()),
        |(scratch, candidates), (row, (values, indices))| {
            let sums = Sums { row, bias };
            collect_sums(&sums, k, scratch);
            candidates.clear();
            let found = scratch.indices.iter();
            candidates.extend(found.map(|&idx| (sums.upper(idx as usize), idx)));
            take(k, candidates, values, indices);
        },
    );
}

multiversioned!(fn collect_sums(sums: &Sums<'_>, k: usize, scratch: &mut Scratch) = collect);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidates::order;
    use proptest::prelude::*;

    /// By sorting the whole row.
    fn plain(row: &[f32], bias: &[f32], k: usize) -> Vec<(i64, f32)> {
        let sums = row.iter().zip(bias).map(|(row, bias)| row + bias);
        let mut all: Vec<(i64, f32)> = (0..).zip(sums).collect();
        all.sort_by(|a, b| order(b.1, a.1).then(a.0.cmp(&b.0)));
        all.truncate(k);
        all.sort_by_key(|(idx, _)| *idx);
        all
    }

    fn ours(rows: &[f32], bias: &[f32], k: usize) -> Vec<Vec<(i64, f32)>> {
        let n_rows = rows.len() / bias.len();
        let (mut values, mut indices) = (vec![0.0; n_rows * k], vec![0; n_rows * k]);
        topk(rows, bias, k, &mut values, &mut indices);
        let of_row = |(indices, values): (&[i64], &[f32])| {
            indices
                .iter()
                .copied()
                .zip(values.iter().copied())
                .collect()
        };
        indices
            .chunks(k)
            .zip(values.chunks(k))
            .map(of_row)
            .collect()
    }

    fn same(a: &[(i64, f32)], b: &[(i64, f32)]) -> bool {
        let bits = |x: &[(i64, f32)]| -> Vec<_> {
            let number = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
            x.iter().map(|&(idx, x)| (idx, number(x))).collect()
        };
        bits(a) == bits(b)
    }

    proptest! {
        #[test]
        fn the_largest_are_those_of_a_sort(
            n in prop_oneof![1usize..5, 30usize..35, 63usize..66, 100usize..700],
            n_rows in 0usize..4,
            seed in any::<u64>(),
            n_values in prop_oneof![Just(3u64), Just(1 << 20)],
        ) {
            let mut state = seed;
            let mut number = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Few values: many are equal.
                ((state >> 33) % n_values) as f32 / n_values as f32 - 0.5
            };
            let bias: Vec<f32> = (0..n).map(|_| number()).collect();
            let rows: Vec<f32> = (0..n * n_rows).map(|_| number()).collect();
            for k in [1, 2, n / 3, n].into_iter().filter(|k| (1..=n).contains(k)) {
                for (row, ours) in rows.chunks(n).zip(ours(&rows, &bias, k)) {
                    prop_assert!(same(&ours, &plain(row, &bias, k)), "{k} of {n}");
                }
            }
        }
    }

    #[test]
    fn nan_and_infinity_are_taken_first() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for idx in [0, 37, 199] {
                let mut row: Vec<f32> = (0..200).map(|idx| (idx as f32 * 0.7).sin()).collect();
                row[idx] = bad;
                let bias = vec![0.0; 200];
                for k in [1, 4, 200] {
                    let ours = &ours(&row, &bias, k)[0];
                    assert!(same(ours, &plain(&row, &bias, k)), "{bad} {idx} {k}");
                }
            }
        }
        let nans = vec![f32::NAN; 70];
        assert_eq!(ours(&nans, &nans, 3)[0].len(), 3);
    }
}
