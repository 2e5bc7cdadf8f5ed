//! What an SAE's update costs besides its product: on the CPU plain Rust on slices of a row-major matrix, on a GPU the
//! same in CUDA C++ (`cuda/`).
//!
//! Loops are written so that the compiler makes vectors of them, once for each instruction set
//! (instruction_sets.rs); which one runs is decided at run time. Every number is computed by one thread, in
//! an order that depends on nothing but the sizes: results are the same to the bit for any number of threads
//! and any processor.
//!
//! Nothing here knows libtorch; the crate `sae` holds each function to what libtorch computes.
//!
//! - `screen.rs`: exact top-k from a product in bfloat16; `topk.rs`, `candidates.rs`: the largest of a row
//! - `above.rs`: the numbers of rows above a bound
//! - `tokens.rs`, `nested.rs`: errors and gradients by token; `entries.rs`: gradients of weights by latent
//! - `update.rs`: the optimizer's update, row by row; `rows.rs`: one pass over weights
//! - `instruction_sets.rs`, `threads.rs`: what runs where
//! - `cuda/`: the same on a GPU

mod above;
mod candidates;
pub mod cuda;
mod entries;
mod instruction_sets;
mod nested;
mod rows;
mod screen;
mod threads;
mod tokens;
mod topk;
mod update;

pub use above::{Found, above, nth_largest};
pub use entries::{ByLatent, Entries, Nested, TokenOf, WeightGradients};
pub use nested::{NestedDecoding, NestedGradients};
pub use rows::{Adam, Signum, project, scale, signum};
pub use screen::{RoundedTokens, Screen};
pub use threads::in_threads;
pub use tokens::{Decoding, ErrorGradients, moments};
pub use topk::topk;
pub use update::{MatrixUpdate, RowSteps, Weights};

/// Numbers of a vector register, or more; sums are kept in as many parts.
const LANES: usize = 16;

/// `sum a b`.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            parts[lane] += a[lane] * b[lane];
        }
    }
    rest + sum(parts)
}

/// Of the halves, of their halves and so on.
#[inline(always)]
fn sum(mut parts: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            parts[lane] += parts[lane + width];
        }
        width /= 2;
    }
    parts[0]
}

/// `out += factor * x`.
#[inline(always)]
fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += factor * x;
    }
}

/// Rows that are read at a time: memory answers for all of them while one would be waited for.
const AT_ONCE: usize = 4;

/// `sum a b` of several `a`, each as [`dot`] gives it.
#[inline(always)]
fn dots(a: [&[f32]; AT_ONCE], b: &[f32]) -> [f32; AT_ONCE] {
    let (chunks_of_b, rest_of_b) = b.as_chunks::<LANES>();
    let rest = a.map(|a| {
        let rest = a[chunks_of_b.len() * LANES..].iter().zip(rest_of_b);
        rest.map(|(a, b)| a * b).sum::<f32>()
    });
    let [a0, a1, a2, a3] = a.map(|a| a.as_chunks::<LANES>().0.iter());
    let [mut parts0, mut parts1, mut parts2, mut parts3] = [[0.0f32; LANES]; AT_ONCE];
    for ((b, (a0, a1)), (a2, a3)) in chunks_of_b.iter().zip(a0.zip(a1)).zip(a2.zip(a3)) {
        add_products(&mut parts0, a0, b);
        add_products(&mut parts1, a1, b);
        add_products(&mut parts2, a2, b);
        add_products(&mut parts3, a3, b);
    }
    let sums = [parts0, parts1, parts2, parts3].map(sum);
    std::array::from_fn(|row| rest[row] + sums[row])
}

#[inline(always)]
fn add_products(parts: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for lane in 0..LANES {
        parts[lane] += a[lane] * b[lane];
    }
}

/// Adds rows with their factors to `out`, one after the other.
#[inline(always)]
fn add_all_scaled<'a>(out: &mut [f32], mut rows: impl Iterator<Item = (f32, &'a [f32])>) {
    loop {
        let mut taken: [(f32, &[f32]); AT_ONCE] = [(0.0, &[]); AT_ONCE];
        let mut n_taken = 0;
        for row in rows.by_ref().take(AT_ONCE) {
            taken[n_taken] = row;
            n_taken += 1;
        }
        if n_taken < AT_ONCE {
            for (factor, row) in &taken[..n_taken] {
                add_scaled(out, *factor, row);
            }
            return;
        }
        let [(fa, a), (fb, b), (fc, c), (fd, d)] = taken;
        let (ab, cd) = (a.iter().zip(b), c.iter().zip(d));
        for (out, ((a, b), (c, d))) in out.iter_mut().zip(ab.zip(cd)) {
            *out = *out + fa * a + fb * b + fc * c + fd * d;
        }
    }
}

/// Numbers of both signs, for tests.
#[cfg(test)]
fn numbers(n: usize, phase: f32) -> Vec<f32> {
    (0..n).map(|idx| (idx as f32 * 1.7 + phase).sin()).collect()
}

/// Numbers from 0 to 1 without a pattern, for tests.
#[cfg(test)]
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of everything that is computed in parallel: the latents, the gradients, the moments.
    fn everything(n_threads: usize) -> Vec<u64> {
        let (n_tokens, num_latents, d, k) = (300, 90, 37, 5);
        let x = numbers(n_tokens * d, 0.5);
        let w_dec = numbers(num_latents * d, 0.6);
        let (mut acts, mut indices) = (vec![0.0; n_tokens * k], vec![0; n_tokens * k]);
        let (mut grad_out, mut grad_pre) = (vec![0.0; n_tokens * d], vec![0.0; n_tokens * k]);
        let mut encoder_weight = vec![0.0; num_latents * d];
        let (mut encoder_bias, mut w_dec_grad) =
            (vec![0.0; num_latents], vec![0.0; num_latents * d]);
        let mut mean = vec![0.0; d];
        let (error, deviations) = in_threads(n_threads, || {
            let pre_acts = numbers(n_tokens * num_latents, 0.7);
            let bias = numbers(num_latents, 0.8);
            topk(&pre_acts, &bias, k, &mut acts, &mut indices);
            acts.iter_mut().for_each(|act| *act = act.max(0.0));
            let decoding = Decoding {
                indices: &indices,
                acts: &acts,
                k,
                w_dec: &w_dec,
                b_dec: &x[..d],
            };
            let out = ErrorGradients {
                grad_out: &mut grad_out,
                grad_pre: &mut grad_pre,
            };
            let error = decoding.squared_error(&x, out);
            let entries = Entries {
                indices: &indices,
                acts: &acts,
                grad_pre: &grad_pre,
                tokens: TokenOf::Every(k),
            };
            let out = WeightGradients {
                encoder_weight: &mut encoder_weight,
                w_dec: &mut w_dec_grad,
            };
            let by_latent = ByLatent::sort(&indices, num_latents);
            entries.weight_gradients(&by_latent, grad_out.as_slice().into(), &x, out);
            entries.bias_gradient(&by_latent, &mut encoder_bias);
            (error, moments(&x, &mut mean))
        });
        let floats = [grad_out, grad_pre, encoder_weight, encoder_bias, w_dec_grad].concat();
        let floats = floats.iter().map(|x| u64::from(x.to_bits()));
        let doubles = mean
            .iter()
            .chain([&error, &deviations])
            .map(|x| x.to_bits());
        floats.chain(doubles).collect()
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let one = everything(1);
        assert_eq!(everything(2), one);
        assert_eq!(everything(5), one);
    }
}
