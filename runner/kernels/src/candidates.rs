//! Which numbers of a row may be among its largest: all but a few are ruled out by looking at the largest of
//! groups.

use std::cmp::Ordering;

/// Numbers of a group, at most.
const MOST_IN_GROUP: usize = 16;
/// Groups for each number that is looked for, at least: of fewer, many hold more than one of those.
const GROUPS_FOR_EACH: usize = 8;
/// The exponent of infinity and NaN.
const NOT_FINITE: u32 = f32::INFINITY.to_bits();

/// A row of numbers that are known more or less exactly.
pub(crate) trait Row {
    /// By how much a bound may be off in the last digits, relative to itself.
    const MARGIN: f32;

    /// Numbers of the row.
    fn len(&self) -> usize;

    /// The numbers from `first` on, as far as they are known.
    fn values(&self, first: usize) -> impl Iterator<Item = f32>;

    /// By how much numbers of a group may be off, above and below the largest one, `largest`.
    fn off(&self, group: usize, largest: f32) -> f32;

    /// What the number at an index is at most.
    fn upper(&self, idx: usize) -> f32;
}

/// Grows with the size of a number; of a NaN it is larger than of infinity.
#[inline(always)]
fn size_bits(x: f32) -> u32 {
    x.abs().to_bits()
}

/// How many groups `n` numbers make when the `k` largest of them are looked for. The number at an index
/// is in the group `idx % n_groups`.
pub(crate) fn n_groups(n: usize, k: usize) -> usize {
    let n_in_group = n / (GROUPS_FOR_EACH * k);
    n.div_ceil(n_in_group.clamp(1, MOST_IN_GROUP))
}

/// What a thread keeps from row to row.
#[derive(Default)]
pub(crate) struct Scratch {
    /// What the largest number of each group is at least and at most.
    lower: Vec<f32>,
    upper: Vec<f32>,
    /// Indices of what may be among the `k` largest.
    pub(crate) indices: Vec<u32>,
}

/// Finds the indices of all numbers that may be among the `k` largest, at least `k` of them.
///
/// Exact: `k` groups hold a number each that is no smaller than the `k`-th largest of the groups' lower
/// bounds, so nothing whose upper bound is below that can be among the `k` largest. In a row with NaN or
/// infinity, it finds all.
#[inline(always)]
pub(crate) fn collect<R: Row>(row: &R, k: usize, scratch: &mut Scratch) {
    let n = row.len();
    let n_groups = n_groups(n, k);
    let are_finite = n_groups > k && largest_of_groups(row, n_groups, scratch);
    let Scratch {
        lower,
        upper,
        indices,
        ..
    } = scratch;
    indices.clear();
    if !are_finite {
        indices.extend(0..n as u32);
        return;
    }
    let (_, least, _) = lower.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let least = *least - least.abs() * R::MARGIN;
    for (group, upper) in upper.iter().enumerate() {
        if *upper >= least {
            let of_group = (group..n).step_by(n_groups);
            let may_be = of_group.filter(|&idx| row.upper(idx) >= least);
            indices.extend(may_be.map(|idx| idx as u32));
        }
    }
}

/// Fills in the bounds of groups; whether all of them are finite, and all their numbers.
#[inline(always)]
fn largest_of_groups<R: Row>(row: &R, n_groups: usize, scratch: &mut Scratch) -> bool {
    let Scratch { lower, upper, .. } = scratch;
    upper.clear();
    upper.resize(n_groups, f32::MIN);
    lower.clear();
    lower.resize(n_groups, 0.0);
    let mut most = 0;
    for first in (0..row.len()).step_by(n_groups) {
        for (largest, value) in upper.iter_mut().zip(row.values(first)) {
            // Unless it is a NaN.
            *largest = if value > *largest { value } else { *largest };
            most = size_bits(value).max(most);
        }
    }
    for (group, (lower, upper)) in lower.iter_mut().zip(upper).enumerate() {
        let (largest, off) = (*upper, row.off(group, *upper));
        (*lower, *upper) = (largest - off, largest + off);
        most = size_bits(off).max(most);
    }
    most < NOT_FINITE
}

/// The `k` largest of the candidates, in the order of their indices. Of equal numbers the first ones are
/// taken; a NaN is larger than all numbers.
pub(crate) fn take(
    k: usize,
    candidates: &mut [(f32, u32)],
    values: &mut [f32],
    indices: &mut [i64],
) {
    let larger_first = |a: &(f32, u32), b: &(f32, u32)| order(b.0, a.0).then(a.1.cmp(&b.1));
    let taken = if candidates.len() > k {
        candidates.select_nth_unstable_by(k - 1, larger_first);
        &mut candidates[..k]
    } else {
        candidates
    };
    taken.sort_unstable_by_key(|(_, idx)| *idx);
    for ((value, idx), candidate) in values.iter_mut().zip(indices).zip(taken) {
        (*value, *idx) = (candidate.0, candidate.1.into());
    }
}

/// NaN above all.
pub(crate) fn order(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
