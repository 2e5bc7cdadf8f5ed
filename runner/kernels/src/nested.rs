//! Reconstructions from the first latents of each token, up to one end after the other, and from all; their errors and
//! gradients.

use crate::instruction_sets::multiversioned;
use crate::{add_all_scaled, add_scaled, dot};
use rayon::prelude::*;

/// Tokens whose sums are added up one by one; the sums of such blocks then in order.
const BLOCK: usize = 64;

/// A decoder, and any number of latents for each token.
#[derive(Clone, Copy, Debug)]
pub struct NestedDecoding<'a> {
    /// Which latents, rising within a token: `[n_entries]`.
    pub indices: &'a [i64],
    /// `[n_entries]`.
    pub acts: &'a [f32],
    /// Where each token's entries begin, and where the last ones end: `[n_tokens + 1]`.
    pub starts: &'a [i64],
    /// `[num_latents, d_out]`.
    pub w_dec: &'a [f32],
    /// `[d_out]`.
    pub b_dec: &'a [f32],
    /// For each reconstruction, below which latent those that it is made of are, and the weight of its error.
    pub levels: &'a [(usize, f32)],
}

/// Gradients of the weighted sum of squared errors, to write to.
#[derive(Debug)]
pub struct NestedGradients<'a> {
    /// What latents of each level get: `[n_levels, n_tokens, d_out]`.
    pub grad_out: &'a mut [f32],
    /// Their products with the decoder's rows: `[n_entries]`.
    pub grad_acts: &'a mut [f32],
}

/// What a thread works on: tokens that follow each other.
struct Block<'a> {
    starts: &'a [i64],
    target: &'a [f32],
    /// By level.
    grad_out: Vec<&'a mut [f32]>,
    grad_acts: &'a mut [f32],
}

impl NestedDecoding<'_> {
    /// Reconstructs `target`: `[n_tokens, d_out]`, writes the gradients of the weighted sum of squared errors, and gives
    /// the squared errors by level.
    ///
    /// # Panics
    /// Shapes that do not fit.
    pub fn squared_errors(&self, target: &[f32], out: NestedGradients<'_>) -> Vec<f64> {
        let (d_out, n_tokens, n_entries) =
            (self.b_dec.len(), self.starts.len() - 1, self.indices.len());
        let n_levels = self.levels.len();
        assert_eq!(self.acts.len(), n_entries, "an activation for each entry");
        assert_eq!(self.starts[n_tokens] as usize, n_entries, "tokens' entries");
        assert_eq!(target.len(), n_tokens * d_out, "a row for each token");
        assert_eq!(out.grad_acts.len(), n_entries, "a gradient for each entry");
        let n_numbers = n_levels * target.len();
        assert_eq!(out.grad_out.len(), n_numbers, "a gradient for each number");
        let blocks = self.blocks(target, out);
        let errors: Vec<Vec<f64>> = blocks
            .into_par_iter()
            .map(|block| block_errors(self, block))
            .collect();
        let of_level = |level: usize| errors.iter().map(|errors| errors[level]).sum();
        (0..n_levels).map(of_level).collect()
    }

    fn blocks<'o>(&'o self, target: &'o [f32], out: NestedGradients<'o>) -> Vec<Block<'o>> {
        let (d_out, n_tokens) = (self.b_dec.len(), self.starts.len() - 1);
        let size = (BLOCK * d_out).max(1);
        let mut levels: Vec<_> = out
            .grad_out
            .chunks_mut(target.len().max(1))
            .map(|rows| rows.chunks_mut(size))
            .collect();
        let mut grad_acts = out.grad_acts;
        let firsts = (0..n_tokens).step_by(BLOCK);
        let of_block = |(first, target): (usize, &'o [f32])| {
            let starts = &self.starts[first..=(first + BLOCK).min(n_tokens)];
            let n_entries = (starts[starts.len() - 1] - starts[0]) as usize;
            let (ours, others) = std::mem::take(&mut grad_acts).split_at_mut(n_entries);
            grad_acts = others;
            Block {
                starts,
                target,
                grad_out: levels.iter_mut().filter_map(Iterator::next).collect(),
                grad_acts: ours,
            }
        };
        firsts.zip(target.chunks(size)).map(of_block).collect()
    }
}

multiversioned!(
    fn block_errors(decoding: &NestedDecoding<'_>, block: Block<'_>) -> Vec<f64> = errors_of_block
);

#[inline(always)]
fn errors_of_block(decoding: &NestedDecoding<'_>, block: Block<'_>) -> Vec<f64> {
    let (d_out, levels) = (decoding.b_dec.len(), decoding.levels);
    let decoder = |latent: i64| &decoding.w_dec[latent as usize * d_out..][..d_out];
    let mut errors = vec![0.0; levels.len()];
    let mut row = vec![0.0; d_out];
    let Block {
        starts,
        target,
        mut grad_out,
        grad_acts,
    } = block;
    for (token, (ends, target)) in starts.windows(2).zip(target.chunks(d_out)).enumerate() {
        let range = ends[0] as usize..ends[1] as usize;
        let (indices, acts) = (&decoding.indices[range.clone()], &decoding.acts[range]);
        let grads = &mut grad_acts[(ends[0] - starts[0]) as usize..][..indices.len()];
        let of_token = token * d_out..(token + 1) * d_out;
        row.copy_from_slice(decoding.b_dec);
        let mut first = 0;
        for ((end, _), (error, out)) in levels.iter().zip(errors.iter_mut().zip(&mut grad_out)) {
            let last = first + indices[first..].partition_point(|latent| (*latent as usize) < *end);
            let entries = indices[first..last].iter().zip(&acts[first..last]);
            let rows = entries.map(|(&latent, &act)| (act, decoder(latent)));
            // A NaN is taken, so that it shows.
            add_all_scaled(&mut row, rows.filter(|(act, _)| *act != 0.0));
            let out = &mut out[of_token.clone()];
            for ((out, row), target) in out.iter_mut().zip(&row).zip(target) {
                *out = row - target;
            }
            *error += f64::from(dot(out, out));
            first = last;
        }
        sum_from_the_last(&mut grad_out, levels, of_token.clone());
        let mut first = 0;
        for ((end, _), out) in levels.iter().zip(&grad_out) {
            let last = first + indices[first..].partition_point(|latent| (*latent as usize) < *end);
            for (latent, grad) in indices[first..last].iter().zip(&mut grads[first..last]) {
                *grad = dot(&out[of_token.clone()], decoder(*latent));
            }
            first = last;
        }
    }
    errors
}

/// Of errors makes what the latents of each level get: the gradients at its own reconstruction and at all later ones.
#[inline(always)]
fn sum_from_the_last(
    rows: &mut [&mut [f32]],
    levels: &[(usize, f32)],
    of_token: std::ops::Range<usize>,
) {
    for level in (0..levels.len()).rev() {
        let (rows, later) = rows.split_at_mut(level + 1);
        let row = &mut rows[level][of_token.clone()];
        let factor = 2.0 * levels[level].1;
        row.iter_mut().for_each(|x| *x *= factor);
        if let Some(later) = later.first() {
            add_scaled(row, 1.0, &later[of_token.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decoding, ErrorGradients, in_threads, numbers};

    /// Any number of latents for each token, also none.
    fn entries(n_tokens: usize, num_latents: usize) -> (Vec<i64>, Vec<i64>) {
        let (mut indices, mut starts) = (Vec::new(), vec![0]);
        for token in 0..n_tokens {
            let of_token = (0..num_latents).filter(|latent| (latent * 7 + token) % 5 < token % 4);
            indices.extend(of_token.map(|latent| latent as i64));
            starts.push(indices.len() as i64);
        }
        (indices, starts)
    }

    #[test]
    fn errors_and_gradients_are_those_of_plain_loops() {
        for (n_tokens, num_latents, d) in [(0, 3, 4), (1, 1, 1), (130, 30, 17)] {
            let (indices, starts) = entries(n_tokens, num_latents);
            let acts = numbers(indices.len(), 0.1);
            let (w_dec, b_dec) = (numbers(num_latents * d, 0.2), numbers(d, 0.3));
            let target = numbers(n_tokens * d, 0.4);
            let levels = [
                (num_latents / 3, 0.5),
                (num_latents / 2, 2.0),
                (num_latents, 1.0),
            ];
            let decoding = NestedDecoding {
                indices: &indices,
                acts: &acts,
                starts: &starts,
                w_dec: &w_dec,
                b_dec: &b_dec,
                levels: &levels,
            };
            let mut grad_out = vec![f32::NAN; 3 * n_tokens * d];
            let mut grad_acts = vec![f32::NAN; indices.len()];
            let out = NestedGradients {
                grad_out: &mut grad_out,
                grad_acts: &mut grad_acts,
            };
            let errors = in_threads(2, || decoding.squared_errors(&target, out));
            let mut expected = [0.0f64; 3];
            for token in 0..n_tokens {
                let range = starts[token] as usize..starts[token + 1] as usize;
                let error = |end: usize, column: usize| {
                    let of_level = range.clone().filter(|idx| (indices[*idx] as usize) < end);
                    let sum: f32 = of_level
                        .map(|idx| acts[idx] * w_dec[indices[idx] as usize * d + column])
                        .sum();
                    sum + b_dec[column] - target[token * d + column]
                };
                let wanted = |level: usize, column: usize| -> f32 {
                    let later = levels[level..].iter();
                    later
                        .map(|(end, weight)| 2.0 * weight * error(*end, column))
                        .sum()
                };
                for level in 0..3 {
                    for column in 0..d {
                        expected[level] += f64::from(error(levels[level].0, column).powi(2));
                        let got = grad_out[(level * n_tokens + token) * d + column];
                        assert!((got - wanted(level, column)).abs() < 1e-4);
                    }
                }
                for idx in range.clone() {
                    let latent = indices[idx] as usize;
                    let level = levels.iter().position(|(end, _)| latent < *end).unwrap();
                    let dot: f32 = (0..d)
                        .map(|c| wanted(level, c) * w_dec[latent * d + c])
                        .sum();
                    assert!((grad_acts[idx] - dot).abs() < 1e-3, "{idx}");
                }
            }
            for (got, expected) in errors.iter().zip(expected) {
                assert!(
                    (got - expected).abs() <= 1e-5 * expected,
                    "{got} {expected}"
                );
            }
        }
    }

    #[test]
    fn one_level_of_as_many_latents_is_the_plain_decoding() {
        let (n_tokens, num_latents, d, k) = (70, 12, 19, 3);
        let indices: Vec<i64> = (0..n_tokens)
            .flat_map(|token| [0, 4, 7 + token % 5])
            .collect();
        let starts: Vec<i64> = (0..=n_tokens).map(|token| token * k as i64).collect();
        let n_tokens = n_tokens as usize;
        let acts = vec![0.5; n_tokens * k];
        let (w_dec, b_dec) = (numbers(num_latents * d, 0.2), numbers(d, 0.3));
        let target = numbers(n_tokens * d, 0.4);
        let nested = NestedDecoding {
            indices: &indices,
            acts: &acts,
            starts: &starts,
            w_dec: &w_dec,
            b_dec: &b_dec,
            levels: &[(num_latents, 1.0)],
        };
        let plain = Decoding {
            indices: &indices,
            acts: &acts,
            k,
            w_dec: &w_dec,
            b_dec: &b_dec,
        };
        let mut rows = [vec![0.0; n_tokens * d], vec![0.0; n_tokens * d]];
        let mut grads = [vec![0.0; n_tokens * k], vec![0.0; n_tokens * k]];
        let [rows_nested, rows_plain] = &mut rows;
        let [grads_nested, grads_plain] = &mut grads;
        let errors = nested.squared_errors(
            &target,
            NestedGradients {
                grad_out: rows_nested,
                grad_acts: grads_nested,
            },
        );
        let error = plain.squared_error(
            &target,
            ErrorGradients {
                grad_out: rows_plain,
                grad_pre: grads_plain,
            },
        );
        assert_eq!(
            (&rows[0], &grads[0], errors),
            (&rows[1], &grads[1], vec![error])
        );
    }
}
