//! What is computed token by token: the reconstruction, its error and the gradient at the latents; and the
//! moments of activations.

use crate::instruction_sets::multiversioned;
use crate::{LANES, add_all_scaled, dot};
use rayon::prelude::*;

/// Tokens whose sums are added up one by one; the sums of such blocks then in order.
const BLOCK: usize = 64;

/// A decoder, and the active latents that it decodes.
#[derive(Clone, Copy, Debug)]
pub struct Decoding<'a> {
    /// `[n_tokens, k]`, each below the number of latents.
    pub indices: &'a [i64],
    /// `[n_tokens, k]`, not negative.
    pub acts: &'a [f32],
    /// Entries of a token.
    pub k: usize,
    /// `[num_latents, d_out]`.
    pub w_dec: &'a [f32],
    /// `[d_out]`.
    pub b_dec: &'a [f32],
}

/// Gradients of the squared error, to write to.
#[derive(Debug)]
pub struct ErrorGradients<'a> {
    /// At the reconstruction: `[n_tokens, d_out]`.
    pub grad_out: &'a mut [f32],
    /// At the pre-activations of the entries; 0 where the activation is 0: `[n_tokens, k]`.
    pub grad_pre: &'a mut [f32],
}

impl Decoding<'_> {
    /// Reconstructs `target`: `[n_tokens, d_out]`, writes the gradients of the squared error, and gives it:
    /// a token's rows of the decoder are read once from memory for all of that.
    ///
    /// # Panics
    /// Shapes that do not fit.
    pub fn squared_error(&self, target: &[f32], out: ErrorGradients<'_>) -> f64 {
        let (k, d_out) = (self.k, self.b_dec.len());
        let n_tokens = self.indices.len() / k;
        let ErrorGradients { grad_out, grad_pre } = out;
        assert_eq!(
            self.acts.len(),
            n_tokens * k,
            "an activation for each entry"
        );
        assert_eq!(grad_pre.len(), n_tokens * k, "a gradient for each entry");
        assert_eq!(target.len(), n_tokens * d_out, "a row for each token");
        assert_eq!(grad_out.len(), target.len(), "a gradient for each number");
        let entries = self
            .indices
            .par_chunks(BLOCK * k)
            .zip(self.acts.par_chunks(BLOCK * k));
        let out = grad_out
            .par_chunks_mut(BLOCK * d_out)
            .zip(grad_pre.par_chunks_mut(BLOCK * k));
        let blocks = entries.zip(target.par_chunks(BLOCK * d_out)).zip(out);
        let of_block = |(((indices, acts), target), (grad_out, grad_pre))| {
            let block = Self {
                indices,
                acts,
                ..*self
            };
            block_error(&block, target, grad_out, grad_pre)
        };
        let errors: Vec<f64> = blocks.map(of_block).collect();
        errors.iter().sum()
    }
}

multiversioned!(
    fn block_error(
        decoding: &Decoding<'_>,
        target: &[f32],
        grad_out: &mut [f32],
        grad_pre: &mut [f32]
    ) -> f64 = error_of_block
);

#[inline(always)]
fn error_of_block(
    decoding: &Decoding<'_>,
    target: &[f32],
    grad_out: &mut [f32],
    grad_pre: &mut [f32],
) -> f64 {
    let Decoding {
        k, w_dec, b_dec, ..
    } = *decoding;
    let d_out = b_dec.len();
    let entries = decoding.indices.chunks(k).zip(decoding.acts.chunks(k));
    let out = grad_out.chunks_mut(d_out).zip(grad_pre.chunks_mut(k));
    let mut error = 0.0;
    for (((indices, acts), target), (row, grads)) in entries.zip(target.chunks(d_out)).zip(out) {
        row.copy_from_slice(b_dec);
        let decoder = |latent: i64| &w_dec[latent as usize * d_out..][..d_out];
        let rows = indices.iter().zip(acts);
        let rows = rows.map(|(&latent, &act)| (act, decoder(latent)));
        // A NaN is taken, so that it shows.
        add_all_scaled(row, rows.filter(|(act, _)| *act != 0.0));
        for (out, target) in row.iter_mut().zip(target) {
            *out -= target;
        }
        error += f64::from(dot(row, row));
        row.iter_mut().for_each(|out| *out *= 2.0);
        for ((&latent, &act), grad) in indices.iter().zip(acts).zip(grads) {
            *grad = if act > 0.0 {
                dot(row, decoder(latent))
            } else {
                0.0
            };
        }
    }
    error
}

/// The mean of the rows of `x`: `[n_rows, mean.len()]`, is written to `mean`; gives the sum of squared
/// deviations from it. Of no rows both are 0.
///
/// # Panics
/// No whole rows.
pub fn moments(x: &[f32], mean: &mut [f64]) -> f64 {
    let width = mean.len();
    mean.fill(0.0);
    if x.is_empty() {
        return 0.0;
    }
    assert_eq!(x.len() % width, 0, "whole rows");
    let blocks = x.par_chunks(BLOCK * width);
    let sums: Vec<Vec<f64>> = blocks
        .clone()
        .map(|rows| sum_of_rows(rows, width))
        .collect();
    for sum in sums {
        mean.iter_mut()
            .zip(sum)
            .for_each(|(mean, sum)| *mean += sum);
    }
    let n_rows = (x.len() / width) as f64;
    mean.iter_mut().for_each(|mean| *mean /= n_rows);
    let rounded: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
    let deviations: Vec<f64> = blocks.map(|rows| deviations(rows, &rounded)).collect();
    deviations.iter().sum()
}

multiversioned!(fn sum_of_rows(rows: &[f32], width: usize) -> Vec<f64> = add_up_rows);

#[inline(always)]
fn add_up_rows(rows: &[f32], width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks(width) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += f64::from(*x);
        }
    }
    sum
}

multiversioned!(fn deviations(rows: &[f32], mean: &[f32]) -> f64 = squared_deviations);

#[inline(always)]
fn squared_deviations(rows: &[f32], mean: &[f32]) -> f64 {
    let mut sum = [0.0f64; LANES];
    for row in rows.chunks(mean.len()) {
        let lanes = row.chunks(LANES).zip(mean.chunks(LANES));
        for (row, mean) in lanes {
            for ((sum, x), mean) in sum.iter_mut().zip(row).zip(mean) {
                let deviation = f64::from(x - mean);
                *sum += deviation * deviation;
            }
        }
    }
    sum.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn errors_and_gradients_are_those_of_plain_loops(
            n_tokens in prop_oneof![0usize..4, 63usize..66, 127usize..131],
            num_latents in 1usize..30,
            d_out in 1usize..40,
        ) {
            let k = num_latents.min(3);
            let indices: Vec<i64> = (0..n_tokens)
                .flat_map(|token| (0..k).map(move |idx| ((token + idx) % num_latents) as i64))
                .collect();
            let acts: Vec<f32> = numbers(n_tokens * k, 0.1).iter().map(|act| act.max(0.0)).collect();
            let (w_dec, b_dec) = (numbers(num_latents * d_out, 0.2), numbers(d_out, 0.3));
            let target = numbers(n_tokens * d_out, 0.4);
            let (mut grad_out, mut grad_pre) = (vec![0.0; n_tokens * d_out], vec![0.0; n_tokens * k]);
            let decoding = Decoding { indices: &indices, acts: &acts, k, w_dec: &w_dec, b_dec: &b_dec };
            let out = ErrorGradients { grad_out: &mut grad_out, grad_pre: &mut grad_pre };
            let error = decoding.squared_error(&target, out);
            let mut expected = 0.0;
            for token in 0..n_tokens {
                for column in 0..d_out {
                    let entries = token * k..(token + 1) * k;
                    let decoded: f32 = entries
                        .map(|entry| acts[entry] * w_dec[indices[entry] as usize * d_out + column])
                        .sum();
                    let off = decoded + b_dec[column] - target[token * d_out + column];
                    expected += f64::from(off * off);
                    prop_assert!((grad_out[token * d_out + column] - 2.0 * off).abs() < 1e-5);
                }
                for entry in token * k..(token + 1) * k {
                    let row = &w_dec[indices[entry] as usize * d_out..][..d_out];
                    let grad = &grad_out[token * d_out..][..d_out];
                    let through: f32 = row.iter().zip(grad).map(|(w, g)| w * g).sum();
                    let expected = if acts[entry] > 0.0 { through } else { 0.0 };
                    prop_assert!((grad_pre[entry] - expected).abs() < 1e-4);
                }
            }
            prop_assert!((error - expected).abs() <= 1e-5 * (1.0 + expected));
        }

        #[test]
        fn moments_are_those_of_plain_loops(
            n_rows in prop_oneof![0usize..4, 63usize..66, 200usize..203],
            width in 1usize..40,
        ) {
            let x: Vec<f32> = numbers(n_rows * width, 0.7).iter().map(|x| 100.0 + x).collect();
            let mut mean = vec![f64::NAN; width];
            let deviations = moments(&x, &mut mean);
            let mut expected = 0.0;
            for (column, mean) in mean.iter().enumerate() {
                let of_column = || x.iter().skip(column).step_by(width).map(|x| f64::from(*x));
                let plain = of_column().sum::<f64>() / (n_rows.max(1) as f64);
                prop_assert!((mean - plain).abs() < 1e-9);
                expected += of_column().map(|x| (x - plain) * (x - plain)).sum::<f64>();
            }
            prop_assert!((deviations - expected).abs() <= 1e-4 * (1.0 + expected));
        }
    }
}
