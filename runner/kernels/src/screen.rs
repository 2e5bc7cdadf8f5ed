//! The largest pre-activations, or those above a bound, exactly, from products in 16 bit.
//!
//! Processors that multiply in bfloat16 do it several times as fast as in float32. A token's product with a
//! latent is then off by no more than a bound that is known beforehand; only latents that may be among the
//! `k` largest in spite of it, few more than `k`, are computed in float32. So what is found is what
//! float32 finds, up to the rounding of a sum in another order.
//!
//! With `x~` and `w~` for what 16 bit leave of a token and of a latent's weights, by Cauchy and Schwarz:
//!
//! ```text
//! |x . w - x~ . w~|  <=  |x - x~| |w|  +  |x~| |w - w~|
//! ```
//!
//! and what summing in float32 adds, `d` roundings of `|x| |w|`, and the rounding of the rough product itself.

use crate::above::is_above;
use crate::candidates::{Row, Scratch, collect, n_groups, take};
use crate::instruction_sets::multiversioned;
use crate::{AT_ONCE, ByLatent, Found, LANES, dot, dots, sum};
use rayon::prelude::*;
use std::ops::Range;

/// Half of the distance between two numbers in bfloat16, relative to the smaller one, and a little more.
const HALF_STEP: f32 = 1.0 / 255.0;
/// Half of that distance in float32.
const FLOAT_HALF_STEP: f32 = f32::EPSILON / 2.0;
/// For what rounds in the bounds themselves.
const SLACK: f32 = 1.0001;
/// Tokens, and latents, that a thread takes at a time.
const N_TOKENS: usize = 16;
const N_LATENTS: usize = 64;
/// The norm of latents whose weights are all but 0.
const LEAST_NORM: f32 = 1e-13;

/// An encoder, whose products with tokens in 16 bit are known.
#[derive(Debug)]
pub struct Screen<'a> {
    /// `[num_latents, d_in]`.
    weights: &'a [f32],
    /// `[num_latents]`.
    bias: &'a [f32],
    /// Euclidean norms of the latents' weights, or a little more: `[num_latents]`.
    norms: Vec<f32>,
    /// The largest norm and the largest size of a bias of each group.
    groups: Vec<(f32, f32)>,
    /// What 16 bit take from a latent's weights, relative to their norm, at most.
    most_lost: f32,
    d_in: usize,
    k: usize,
}

/// Tokens in 16 bit.
#[derive(Debug)]
pub struct RoundedTokens<'a> {
    /// As they were: `[n_tokens, d_in]`.
    pub x: &'a [f32],
    /// For each token, how far off a product may be for each unit of the latent's norm.
    bounds: Vec<f32>,
}

/// Norms of a row: of itself, of what is left in 16 bit, and of what is lost, or a little more.
struct Norms {
    whole: f32,
    rounded: f32,
    lost: f32,
}

impl RoundedTokens<'_> {
    /// How many they are.
    pub fn n_tokens(&self) -> usize {
        self.bounds.len()
    }
}

impl<'a> Screen<'a> {
    /// To look for the `k` largest. Writes the weights in bfloat16 into `rounded`. `None`: they or a bias are
    /// not finite there, and no bound is.
    ///
    /// # Panics
    /// Shapes that do not fit, or `k` is not in `1..=num_latents`.
    pub fn new(weights: &'a [f32], bias: &'a [f32], k: usize, rounded: &mut [u16]) -> Option<Self> {
        assert!((1..=bias.len()).contains(&k), "{k} of {}", bias.len());
        assert!(u32::try_from(bias.len()).is_ok(), "{} latents", bias.len());
        let d_in = weights.len() / bias.len();
        assert_eq!(weights.len(), bias.len() * d_in, "a bias for each latent");
        assert_eq!(rounded.len(), weights.len(), "a number for each weight");
        let rows = weights.par_chunks(d_in).zip(rounded.par_chunks_mut(d_in));
        let of_row = |(row, rounded): (&[f32], &mut [u16])| {
            let Norms { whole, lost, .. } = round_row(row, rounded);
            let norm = SLACK * whole.max(LEAST_NORM);
            (norm, lost / norm)
        };
        let (norms, lost): (Vec<f32>, Vec<f32>) = rows.map(of_row).unzip();
        let numbers = norms.iter().chain(&lost).chain(bias);
        if !numbers.into_iter().all(|number| number.is_finite()) {
            return None;
        }
        let mut groups = vec![(0.0f32, 0.0f32); n_groups(bias.len(), k)];
        for latents in (0..bias.len()).step_by(groups.len()) {
            for (latent, (most_norm, most_bias)) in (latents..bias.len()).zip(&mut groups) {
                *most_norm = most_norm.max(norms[latent]);
                *most_bias = most_bias.max(bias[latent].abs());
            }
        }
        Some(Self {
            groups,
            most_lost: lost.into_iter().fold(0.0, f32::max),
            weights,
            bias,
            norms,
            d_in,
            k,
        })
    }

    /// Writes tokens in bfloat16 into `rounded`; both `[n_tokens, d_in]`.
    ///
    /// # Panics
    /// Shapes that do not fit.
    pub fn round<'x>(&self, x: &'x [f32], rounded: &mut [u16]) -> RoundedTokens<'x> {
        assert_eq!(x.len() / self.d_in * self.d_in, x.len(), "whole rows");
        assert_eq!(x.len(), rounded.len(), "a number for each number");
        // Of the rough sum, in whatever order, and of the exact one, in `LANES` parts.
        let n_roundings = (self.d_in + self.d_in / LANES + 2 * LANES) as f32;
        let summing = n_roundings * FLOAT_HALF_STEP;
        let rows = x
            .par_chunks(self.d_in)
            .zip(rounded.par_chunks_mut(self.d_in));
        let bound = |(row, rounded): (&[f32], &mut [u16])| {
            let Norms {
                whole,
                rounded,
                lost,
            } = round_row(row, rounded);
            let most = f32::max(whole, rounded) * (1.0 + self.most_lost);
            SLACK * (lost + rounded * self.most_lost + summing * most)
        };
        RoundedTokens {
            x,
            bounds: rows.map(bound).collect(),
        }
    }

    /// The `k` largest pre-activations of each token, in the order of the latents, as [`crate::topk`] gives
    /// them. `rough`: products of the rounded tokens and weights, summed in float32 and then rounded to
    /// bfloat16: `[n_tokens, num_latents]`. `values`, `indices`: `[n_tokens, k]`. Gives how many
    /// pre-activations were computed in float32.
    ///
    /// # Panics
    /// Shapes that do not fit.
    pub fn topk(
        &self,
        rough: &[u16],
        tokens: &RoundedTokens<'_>,
        values: &mut [f32],
        indices: &mut [i64],
    ) -> usize {
        let (num_latents, n_tokens) = (self.bias.len(), tokens.bounds.len());
        assert_eq!(
            rough.len(),
            n_tokens * num_latents,
            "a product for each latent"
        );
        assert_eq!(values.len(), n_tokens * self.k, "k values for a token");
        assert_eq!(indices.len(), values.len(), "an index for each value");
        let collect = |screened: &Screened<'_>, scratch: &mut Scratch| {
            collect_screened(screened, self.k, scratch);
        };
        let candidates = self.candidates(rough, &tokens.bounds, collect);
        let computed = self.compute(&candidates, tokens.x);
        let out = values
            .par_chunks_mut(self.k)
            .zip(indices.par_chunks_mut(self.k));
        let of_token = candidates.ends.par_windows(2).map(|ends| ends[0]..ends[1]);
        of_token
            .zip(out)
            .for_each_init(Vec::new, |scratch, (range, (values, indices))| {
                scratch.clear();
                let latents = &candidates.latents[range.clone()];
                scratch.extend(computed[range].iter().copied().zip(latents.iter().copied()));
                take(self.k, scratch, values, indices);
            });
        computed.len()
    }

    /// The pre-activations of each token that are above `bounds`, one for each latent, and NaN, as [`crate::above`] gives
    /// them; and how many were computed in float32. `rough`: as for [`Screen::topk`].
    ///
    /// # Panics
    /// Shapes that do not fit.
    pub fn above(
        &self,
        rough: &[u16],
        tokens: &RoundedTokens<'_>,
        bounds: &[f32],
    ) -> (Found, usize) {
        let (num_latents, n_tokens) = (self.bias.len(), tokens.bounds.len());
        assert_eq!(bounds.len(), num_latents, "a bound for each latent");
        assert_eq!(
            rough.len(),
            n_tokens * num_latents,
            "a product for each latent"
        );
        let collect = |screened: &Screened<'_>, scratch: &mut Scratch| {
            collect_above(screened, bounds, &mut scratch.indices);
        };
        let candidates = self.candidates(rough, &tokens.bounds, collect);
        let computed = self.compute(&candidates, tokens.x);
        let mut found = Found::default();
        for ends in candidates.ends.windows(2) {
            let entries = ends[0]..ends[1];
            let values = computed[entries.clone()].iter();
            for (&value, &latent) in values.zip(&candidates.latents[entries]) {
                if is_above(value, bounds[latent as usize]) {
                    found.values.push(value);
                    found.indices.push(latent.into());
                }
            }
            found.ends.push(found.values.len() as i64);
        }
        (found, computed.len())
    }

    /// Which latents of each token `collect` takes, whatever the products are.
    fn candidates(
        &self,
        rough: &[u16],
        bounds: &[f32],
        collect: impl Fn(&Screened<'_>, &mut Scratch) + Sync,
    ) -> Candidates {
        let blocks = rough
            .par_chunks(N_TOKENS * self.bias.len())
            .zip(bounds.par_chunks(N_TOKENS));
        let of_block = |scratch: &mut Scratch, (rough, bounds): (&[u16], &[f32])| {
            let mut of_block = Candidates::default();
            for (rough, &bound) in rough.chunks(self.bias.len()).zip(bounds) {
                let screen = self;
                let screened = Screened {
                    rough,
                    screen,
                    bound,
                };
                collect(&screened, scratch);
                of_block.latents.extend_from_slice(&scratch.indices);
                of_block.ends.push(of_block.latents.len());
            }
            of_block
        };
        let blocks: Vec<Candidates> = blocks.map_init(Scratch::default, of_block).collect();
        let mut all = Candidates {
            ends: vec![0],
            ..Candidates::default()
        };
        for block in blocks {
            let first = all.latents.len();
            all.latents.extend_from_slice(&block.latents);
            all.ends.extend(block.ends.iter().map(|end| first + end));
        }
        all
    }

    /// Their pre-activations, computed in the order of latents, so that the weights come from memory once
    /// and one after the other.
    fn compute(&self, candidates: &Candidates, x: &[f32]) -> Vec<f32> {
        let n = candidates.latents.len();
        let by_latent = ByLatent::sort(&candidates.latents, self.bias.len());
        let mut tokens = Vec::with_capacity(n);
        for (token, ends) in (0u32..).zip(candidates.ends.windows(2)) {
            tokens.resize(ends[1], token);
        }
        let mut sorted = vec![0.0; n];
        let mut parts = Vec::new();
        let mut rest = sorted.as_mut_slice();
        for first in (0..self.bias.len()).step_by(N_LATENTS) {
            let latents = first..(first + N_LATENTS).min(self.bias.len());
            let (part, others) = rest.split_at_mut(by_latent.n_of(latents.clone()));
            parts.push((latents, part));
            rest = others;
        }
        parts.into_par_iter().for_each(|(latents, part)| {
            dots_by_latent(self, latents, &by_latent, (&tokens, x), part);
        });
        let mut values = vec![0.0; n];
        for (&entry_idx, value) in by_latent.entry_indices().iter().zip(sorted) {
            values[entry_idx as usize] = value;
        }
        values
    }
}

/// Latents that may be among the largest of tokens.
#[derive(Default)]
struct Candidates {
    /// Token by token.
    latents: Vec<u32>,
    /// Where each token's end; of all tokens together, with where the first one's begin.
    ends: Vec<usize>,
}

/// The pre-activations of a token.
struct Screened<'a> {
    rough: &'a [u16],
    screen: &'a Screen<'a>,
    bound: f32,
}

impl Row for Screened<'_> {
    const MARGIN: f32 = 8.0 * f32::EPSILON;

    #[inline(always)]
    fn len(&self) -> usize {
        self.rough.len()
    }

    #[inline(always)]
    fn values(&self, first: usize) -> impl Iterator<Item = f32> {
        let sums = self.rough[first..].iter().zip(&self.screen.bias[first..]);
        sums.map(|(rough, bias)| widened(*rough) + bias)
    }

    // No product of the group is further from 0 than its largest sum and its largest bias, if it is
    // positive; if it is negative, what rounding took from it leaves the sum below the largest.
    #[inline(always)]
    fn off(&self, group: usize, largest: f32) -> f32 {
        let (norm, bias) = self.screen.groups[group];
        self.bound * norm + HALF_STEP * (largest.abs() + bias)
    }

    #[inline(always)]
    fn upper(&self, latent: usize) -> f32 {
        let product = widened(self.rough[latent]);
        let off = self.bound * self.screen.norms[latent] + HALF_STEP * product.abs();
        product + self.screen.bias[latent] + off
    }
}

multiversioned!(
    fn collect_screened(screened: &Screened<'_>, k: usize, scratch: &mut Scratch) = collect
);

multiversioned!(
    fn collect_above(screened: &Screened<'_>, bounds: &[f32], indices: &mut Vec<u32>) = may_be_above
);

/// Numbers that are looked at together first: most often none of them may be above.
const GROUP: usize = 64;

/// Finds the indices of all latents whose pre-activation may be above its bound.
#[inline(always)]
fn may_be_above(screened: &Screened<'_>, bounds: &[f32], indices: &mut Vec<u32>) {
    indices.clear();
    let n = screened.len();
    for first in (0..n).step_by(GROUP) {
        let group = first..(first + GROUP).min(n);
        let may_be = |latent: usize| is_above(screened.upper(latent), bounds[latent]);
        let n_above: u32 = group.clone().map(|latent| u32::from(may_be(latent))).sum();
        if n_above > 0 {
            indices.extend(
                group
                    .filter(|latent| may_be(*latent))
                    .map(|latent| latent as u32),
            );
        }
    }
}

multiversioned!(
    fn dots_by_latent(
        screen: &Screen<'_>,
        latents: Range<usize>,
        by_latent: &ByLatent,
        tokens_x: (&[u32], &[f32]),
        out: &mut [f32]
    ) = latent_dots
);

/// Pre-activations of some latents with the tokens that each is a candidate of, in order.
#[inline(always)]
fn latent_dots(
    screen: &Screen<'_>,
    latents: Range<usize>,
    by_latent: &ByLatent,
    (tokens, x): (&[u32], &[f32]),
    out: &mut [f32],
) {
    let d_in = screen.d_in;
    let token = |entry_idx: u32| &x[tokens[entry_idx as usize] as usize * d_in..][..d_in];
    let mut rest = out;
    for latent in latents {
        let row = &screen.weights[latent * d_in..][..d_in];
        let (out, others) = rest.split_at_mut(by_latent.of(latent).len());
        rest = others;
        let (whole, rest_of_entries) = by_latent.of(latent).as_chunks::<AT_ONCE>();
        let (out_of_whole, out) = out.as_chunks_mut::<AT_ONCE>();
        for (&entry_indices, out) in whole.iter().zip(out_of_whole) {
            *out = dots(entry_indices.map(token), row).map(|dot| dot + screen.bias[latent]);
        }
        for (&entry_idx, out) in rest_of_entries.iter().zip(out) {
            *out = dot(token(entry_idx), row) + screen.bias[latent];
        }
    }
}

multiversioned!(fn round_row(row: &[f32], rounded: &mut [u16]) -> Norms = round_to_bfloat16);

/// Writes a row in bfloat16, each number to the nearest, and of two as near ones to the even.
#[inline(always)]
fn round_to_bfloat16(row: &[f32], rounded: &mut [u16]) -> Norms {
    for (x, rounded) in row.iter().zip(&mut *rounded) {
        let bits = x.to_bits();
        *rounded = (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16;
    }
    let mut sums = [[0.0f32; LANES]; 3];
    let (rows, rest) = row.as_chunks();
    let (lefts, rest_of_left) = rounded.as_chunks();
    for (row, left) in rows.iter().zip(lefts) {
        add_squares(&mut sums, row, left);
    }
    let (mut row, mut left) = ([0.0; LANES], [0; LANES]);
    row[..rest.len()].copy_from_slice(rest);
    left[..rest.len()].copy_from_slice(rest_of_left);
    add_squares(&mut sums, &row, &left);
    // Squares of so small numbers are 0.
    let vanished = (row.len() as f32 * f32::MIN_POSITIVE).sqrt();
    let [whole, rounded, lost] = sums.map(|squares| sum(squares).sqrt() + vanished);
    Norms {
        whole,
        rounded,
        lost,
    }
}

/// Those of numbers, of what is left of them, and of what is lost.
#[inline(always)]
fn add_squares(sums: &mut [[f32; LANES]; 3], row: &[f32; LANES], left: &[u16; LANES]) {
    for lane in 0..LANES {
        let (x, left) = (row[lane], widened(left[lane]));
        let lost = x - left;
        sums[0][lane] += x * x;
        sums[1][lane] += left * left;
        sums[2][lane] += lost * lost;
    }
}

#[inline(always)]
fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests;
