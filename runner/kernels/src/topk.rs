//! The largest numbers of each row.

use crate::LANES;
use multiversion::multiversion;
use rayon::prelude::*;
use std::cmp::Ordering;

/// Numbers of which only the largest is looked at first.
const GROUP: usize = 2 * LANES;

/// What a thread keeps from row to row.
#[derive(Default)]
struct Scratch {
    /// The largest of each group.
    maxima: Vec<f32>,
    /// A copy, to be partly sorted.
    sorted: Vec<f32>,
    /// What may be among the `k` largest, with its place.
    candidates: Vec<(f32, u32)>,
}

/// The `k` largest of `row + bias` for each row of `rows`: `[n_rows, bias.len()]`, in the order of their
/// places. `values`, `places`: `[n_rows, k]`. Of equal numbers the first ones are taken; a NaN is larger
/// than all numbers.
///
/// Exact: the `k` largest groups hold a number no smaller than the `k`-th largest of their maxima, so
/// nothing below that can be among the `k` largest.
///
/// # Panics
/// Shapes that do not fit, or `k` is not in `1..=bias.len()`.
pub fn topk(rows: &[f32], bias: &[f32], k: usize, values: &mut [f32], places: &mut [i64]) {
    let n = bias.len();
    assert!((1..=n).contains(&k), "{k} of {n}");
    assert!(u32::try_from(n).is_ok(), "{n} numbers in a row");
    assert_eq!(rows.len() / n * n, rows.len(), "whole rows");
    assert_eq!(values.len(), rows.len() / n * k, "k values for a row");
    assert_eq!(places.len(), values.len(), "a place for each value");
    let out = values.par_chunks_mut(k).zip(places.par_chunks_mut(k));
    rows.par_chunks(n).zip(out).for_each_init(
        Scratch::default,
        |scratch, (row, (values, places))| {
            collect_candidates(row, bias, k, scratch);
            take(k, &mut scratch.candidates, values, places);
        },
    );
}

/// All numbers of a row that may be among its `k` largest, at least `k`, in their order.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn collect_candidates(row: &[f32], bias: &[f32], k: usize, scratch: &mut Scratch) {
    let Scratch {
        maxima,
        sorted,
        candidates,
    } = scratch;
    maxima.clear();
    let ((groups, rest), (biases, rest_of_bias)) = (row.as_chunks(), bias.as_chunks());
    let mut are_numbers = true;
    for (group, bias) in groups.iter().zip(biases) {
        let (largest, is_finite) = largest(group, bias);
        are_numbers &= is_finite;
        maxima.push(largest);
    }
    if !rest.is_empty() {
        let (largest, is_finite) = largest(&padded(rest), &padded(rest_of_bias));
        are_numbers &= is_finite;
        maxima.push(largest);
    }
    candidates.clear();
    let places = 0..;
    let all = row.iter().zip(bias).zip(places);
    let mut all = all.map(|((row, bias), place)| (row + bias, place));
    // Nothing is left out where numbers are not in order, or no group can be.
    if !are_numbers || maxima.len() <= k {
        candidates.extend(all);
        return;
    }
    sorted.clone_from(maxima);
    let (_, least, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    for largest in &*maxima {
        if largest >= least {
            let of_group = all.by_ref().take(GROUP);
            candidates.extend(of_group.filter(|(value, _)| value >= least));
        } else {
            all.nth(GROUP - 1);
        }
    }
}

/// The largest of `row + bias`, and whether all are finite.
#[inline(always)]
fn largest(row: &[f32; GROUP], bias: &[f32; GROUP]) -> (f32, bool) {
    let mut values = [0.0f32; GROUP];
    // Not 0 where a number is none, or infinite.
    let mut zeros = [0.0f32; GROUP];
    for lane in 0..GROUP {
        values[lane] = row[lane] + bias[lane];
        zeros[lane] = values[lane] * 0.0;
    }
    let mut width = GROUP / 2;
    while width > 0 {
        for lane in 0..width {
            let (one, other) = (values[lane], values[lane + width]);
            values[lane] = if other > one { other } else { one };
            zeros[lane] += zeros[lane + width];
        }
        width /= 2;
    }
    (values[0], zeros[0] == 0.0)
}

/// With numbers that are never the largest behind it.
#[inline(always)]
fn padded(rest: &[f32]) -> [f32; GROUP] {
    let mut padded = [f32::MIN / 2.0; GROUP];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// The `k` largest of the candidates, in their order.
fn take(k: usize, candidates: &mut [(f32, u32)], values: &mut [f32], places: &mut [i64]) {
    let larger_first = |a: &(f32, u32), b: &(f32, u32)| order(b.0, a.0).then(a.1.cmp(&b.1));
    let taken = match candidates.len() > k {
        true => {
            candidates.select_nth_unstable_by(k - 1, larger_first);
            &mut candidates[..k]
        }
        false => candidates,
    };
    taken.sort_unstable_by_key(|(_, place)| *place);
    for ((value, place), candidate) in values.iter_mut().zip(places).zip(taken) {
        (*value, *place) = (candidate.0, candidate.1.into());
    }
}

/// NaN above all.
fn order(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By sorting the whole row.
    fn plain(row: &[f32], bias: &[f32], k: usize) -> Vec<(i64, f32)> {
        let sums = row.iter().zip(bias).map(|(row, bias)| row + bias);
        let mut all: Vec<(i64, f32)> = (0..).zip(sums).collect();
        all.sort_by(|a, b| order(b.1, a.1).then(a.0.cmp(&b.0)));
        all.truncate(k);
        all.sort_by_key(|(place, _)| *place);
        all
    }

    fn ours(rows: &[f32], bias: &[f32], k: usize) -> Vec<Vec<(i64, f32)>> {
        let n_rows = rows.len() / bias.len();
        let (mut values, mut places) = (vec![0.0; n_rows * k], vec![0; n_rows * k]);
        topk(rows, bias, k, &mut values, &mut places);
        let of_row = |(places, values): (&[i64], &[f32])| {
            places.iter().copied().zip(values.iter().copied()).collect()
        };
        places.chunks(k).zip(values.chunks(k)).map(of_row).collect()
    }

    fn same(a: &[(i64, f32)], b: &[(i64, f32)]) -> bool {
        let bits = |x: &[(i64, f32)]| -> Vec<_> {
            let number = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
            x.iter().map(|&(place, x)| (place, number(x))).collect()
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
    fn numbers_that_are_none_are_taken_first() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 37, 199] {
                let mut row: Vec<f32> = (0..200).map(|idx| (idx as f32 * 0.7).sin()).collect();
                row[place] = bad;
                let bias = vec![0.0; 200];
                for k in [1, 4, 200] {
                    let ours = &ours(&row, &bias, k)[0];
                    assert!(same(ours, &plain(&row, &bias, k)), "{bad} {place} {k}");
                }
            }
        }
        let nans = vec![f32::NAN; 70];
        assert_eq!(ours(&nans, &nans, 3)[0].len(), 3);
    }
}
