//! The numbers of rows that are above a bound.

use crate::instruction_sets::multiversioned;
use rayon::prelude::*;

/// Rows that a thread takes at a time.
const N_ROWS: usize = 16;
/// Numbers that are looked at together first: most often none of them is above.
const AT_ONCE: usize = 64;

/// Numbers of rows, row by row, those of a row in the order of their indices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The numbers.
    pub values: Vec<f32>,
    /// Where in their rows they are.
    pub indices: Vec<i64>,
    /// Where those of each row end.
    pub ends: Vec<i64>,
}

impl Found {
    /// Those of further rows.
    pub fn append(&mut self, rows: &Self) {
        let first = self.values.len() as i64;
        self.values.extend_from_slice(&rows.values);
        self.indices.extend_from_slice(&rows.indices);
        self.ends.extend(rows.ends.iter().map(|end| first + end));
    }

    /// Those that are not below `least`, and NaN.
    #[must_use]
    pub fn at_least(&self, least: f32) -> Self {
        let mut kept = Self::default();
        let mut start = 0;
        for &end in &self.ends {
            for idx in start..end as usize {
                if is_no_less(self.values[idx], least) {
                    kept.values.push(self.values[idx]);
                    kept.indices.push(self.indices[idx]);
                }
            }
            kept.ends.push(kept.values.len() as i64);
            start = end as usize;
        }
        kept
    }
}

fn is_no_less(value: f32, least: f32) -> bool {
    value >= least || value.is_nan()
}

/// The numbers of `row + bias` that are above `bounds`, and NaN, for each row of `rows`: `[n_rows, bias.len()]`.
/// `bounds`: one for each number of a row.
///
/// # Panics
/// Shapes that do not fit.
pub fn above(rows: &[f32], bias: &[f32], bounds: &[f32]) -> Found {
    let n = bias.len();
    assert_eq!(bounds.len(), n, "a bound for each number of a row");
    assert_eq!(rows.len() / n * n, rows.len(), "whole rows");
    let of_rows = |rows: &[f32]| {
        let mut found = Found::default();
        for row in rows.chunks(n) {
            find(row, bias, bounds, &mut found);
            found.ends.push(found.values.len() as i64);
        }
        found
    };
    let parts: Vec<Found> = rows.par_chunks(N_ROWS * n).map(of_rows).collect();
    let mut all = Found::default();
    let n_found = parts.iter().map(|part| part.values.len()).sum();
    all.values.reserve(n_found);
    all.indices.reserve(n_found);
    parts.iter().for_each(|part| all.append(part));
    all
}

multiversioned!(
    fn find(row: &[f32], bias: &[f32], bounds: &[f32], found: &mut Found) = find_in_row
);

#[inline(always)]
fn find_in_row(row: &[f32], bias: &[f32], bounds: &[f32], found: &mut Found) {
    let parts = row.chunks(AT_ONCE).zip(bias.chunks(AT_ONCE));
    for (part_idx, ((row, bias), bounds)) in parts.zip(bounds.chunks(AT_ONCE)).enumerate() {
        let mut n_above = 0u32;
        for ((x, bias), bound) in row.iter().zip(bias).zip(bounds) {
            n_above += u32::from(is_above(x + bias, *bound));
        }
        if n_above == 0 {
            continue;
        }
        for (idx, ((x, bias), bound)) in row.iter().zip(bias).zip(bounds).enumerate() {
            let value = x + bias;
            if is_above(value, *bound) {
                found.values.push(value);
                found.indices.push((part_idx * AT_ONCE + idx) as i64);
            }
        }
    }
}

/// A NaN is, so that it shows.
#[inline(always)]
pub(crate) fn is_above(value: f32, bound: f32) -> bool {
    value > bound || value.is_nan()
}

/// The `n`-th largest of numbers, from 1, of which a NaN is the largest; `None`: there are fewer. Their order changes.
///
/// # Panics
/// `n` is 0.
pub fn nth_largest(values: &mut [f32], n: usize) -> Option<f32> {
    if values.len() < n {
        return None;
    }
    let larger_first = |a: &f32, b: &f32| crate::candidates::order(*b, *a);
    let (_, nth, _) = values.select_nth_unstable_by(n - 1, larger_first);
    Some(*nth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_found_is_above_and_nothing_else_is(
            n in prop_oneof![1usize..5, 60usize..70, 120usize..200],
            n_rows in 0usize..40,
            seed in any::<u64>(),
        ) {
            let mut number = random(seed);
            let rows: Vec<f32> = (0..n * n_rows).map(|_| number()).collect();
            let bias: Vec<f32> = (0..n).map(|_| number() - 0.5).collect();
            let bounds: Vec<f32> = (0..n).map(|_| number() + 0.2).collect();
            let found = above(&rows, &bias, &bounds);
            let mut expected = Found::default();
            for row in rows.chunks(n) {
                for idx in 0..n {
                    if row[idx] + bias[idx] > bounds[idx] {
                        expected.values.push(row[idx] + bias[idx]);
                        expected.indices.push(idx as i64);
                    }
                }
                expected.ends.push(expected.values.len() as i64);
            }
            prop_assert_eq!(&found, &expected);
            let mut sorted = found.values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for nth in [1, 2, sorted.len()].into_iter().filter(|nth| (1..=sorted.len()).contains(nth)) {
                let least = nth_largest(&mut found.values.clone(), nth).unwrap();
                prop_assert_eq!(least, sorted[nth - 1]);
                let kept = found.at_least(least);
                prop_assert!(kept.values.len() >= nth);
                prop_assert!(kept.values.iter().all(|value| *value >= least));
                prop_assert_eq!(kept.ends.len(), n_rows);
            }
            prop_assert_eq!(nth_largest(&mut sorted, found.values.len() + 1), None);
        }
    }

    #[test]
    fn a_nan_is_found_and_is_the_largest() {
        let found = above(&[1.0, f32::NAN, -3.0], &[0.0; 3], &[0.5; 3]);
        assert_eq!(
            (found.indices.as_slice(), found.ends.as_slice()),
            (&[0, 1][..], &[2][..])
        );
        assert!(nth_largest(&mut found.values.clone(), 1).unwrap().is_nan());
        assert_eq!(found.at_least(9.0).indices, [1]);
    }
}
