//! Active latents of tokens, a sparse matrix by its entries, and the weights' gradients from it.

use crate::add_all_scaled;
use crate::instruction_sets::multiversioned;
use rayon::prelude::*;
use std::ops::Range;

/// Biases that a thread takes at a time, at least.
const N_BIASES: usize = 256;

/// Active latents of tokens, token by token.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    /// Which latents, each below the number of latents: `[n_entries]`.
    pub indices: &'a [i64],
    /// Their activations: `[n_entries]`.
    pub acts: &'a [f32],
    /// The loss's gradient at their pre-activations: `[n_entries]`.
    pub grad_pre: &'a [f32],
    /// Whose they are.
    pub tokens: TokenOf<'a>,
}

/// The token of each entry.
#[derive(Clone, Copy, Debug)]
pub enum TokenOf<'a> {
    /// Each token has as many entries.
    Every(usize),
    /// Any number: `[n_entries]`, not falling.
    Listed(&'a [i64]),
}

/// Gradients at the reconstructions from the first latents: up to each of `ends`, and from all.
#[derive(Clone, Copy, Debug)]
pub struct Nested<'a> {
    /// For each of the ends, one after the other: what latents below it and not below the end before get:
    /// `[n_levels, n_tokens, d_out]`.
    pub grad_out: &'a [f32],
    /// Rising, up to the number of latents. Empty: one reconstruction, from all.
    pub ends: &'a [usize],
}

/// The indices of entries by latent, those of a latent in the order of tokens.
#[derive(Debug)]
pub struct ByLatent {
    /// Where the entries of each latent begin, and where the last ones end: `[num_latents + 1]`.
    starts: Vec<u32>,
    entry_indices: Vec<u32>,
}

/// Gradients of an SAE's matrices, to write to.
#[derive(Debug)]
pub struct WeightGradients<'a> {
    /// `[num_latents, d_in]`.
    pub encoder_weight: &'a mut [f32],
    /// `[num_latents, d_out]`.
    pub w_dec: &'a mut [f32],
}

impl ByLatent {
    /// Sorts entries, by counting.
    ///
    /// # Panics
    /// An index that is not below `num_latents`, or more than 2^32 entries.
    pub fn sort<T: Copy + Into<i64>>(indices: &[T], num_latents: usize) -> Self {
        assert!(
            u32::try_from(indices.len()).is_ok(),
            "{} entries",
            indices.len()
        );
        let mut starts = vec![0u32; num_latents + 1];
        for &latent in indices {
            starts[latent.into() as usize + 1] += 1;
        }
        for latent in 0..num_latents {
            starts[latent + 1] += starts[latent];
        }
        let mut next = starts.clone();
        let mut entry_indices = vec![0u32; indices.len()];
        for (entry_idx, &latent) in (0u32..).zip(indices) {
            let next = &mut next[latent.into() as usize];
            entry_indices[*next as usize] = entry_idx;
            *next += 1;
        }
        Self {
            starts,
            entry_indices,
        }
    }

    /// How many latents there are.
    pub fn n_latents(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many entries the latents have.
    pub(crate) fn n_of(&self, latents: Range<usize>) -> usize {
        (self.starts[latents.end] - self.starts[latents.start]) as usize
    }

    /// The indices of all entries, latent by latent.
    pub(crate) fn entry_indices(&self) -> &[u32] {
        &self.entry_indices
    }

    pub(crate) fn of(&self, latent: usize) -> &[u32] {
        &self.entry_indices[self.starts[latent] as usize..self.starts[latent + 1] as usize]
    }
}

impl Entries<'_> {
    /// Writes the gradients of the matrices: `d W_dec = acts^T grad_out`, `d W_enc = grad_pre^T centred`.
    /// `centred`: `[n_tokens, d_in]`.
    ///
    /// # Panics
    /// Shapes that do not fit.
    pub fn weight_gradients(
        &self,
        by_latent: &ByLatent,
        grad_out: Nested<'_>,
        centred: &[f32],
        out: WeightGradients<'_>,
    ) {
        let WeightGradients {
            encoder_weight,
            w_dec,
        } = out;
        let [d_in, d_out] = self.widths(by_latent, [encoder_weight, w_dec], (centred, grad_out));
        encoder_weight
            .par_chunks_mut(d_in)
            .zip(w_dec.par_chunks_mut(d_out))
            .enumerate()
            .for_each(|(latent, (encoder_weight, w_dec))| {
                let entry_indices = by_latent.of(latent);
                sum_rows(
                    entry_indices,
                    self.tokens,
                    (self.grad_pre, centred),
                    encoder_weight,
                );
                let grad_out = grad_out.of(latent);
                sum_rows(entry_indices, self.tokens, (self.acts, grad_out), w_dec);
            });
    }

    /// Writes the gradient of the encoder's bias, `sum grad_pre`: `[num_latents]`.
    ///
    /// # Panics
    /// Another length.
    pub fn bias_gradient(&self, by_latent: &ByLatent, encoder_bias: &mut [f32]) {
        assert_eq!(
            encoder_bias.len(),
            by_latent.n_latents(),
            "a bias for each latent"
        );
        let biases = encoder_bias.par_iter_mut().enumerate();
        biases.with_min_len(N_BIASES).for_each(|(latent, bias)| {
            let of_latent = by_latent.of(latent).iter();
            *bias = of_latent
                .map(|&entry_idx| self.grad_pre[entry_idx as usize])
                .sum();
        });
    }

    /// The widths of two matrices, `[num_latents, width]`, whose rows are sums of rows of tokens.
    ///
    /// # Panics
    /// Entries, matrices and rows that do not fit.
    pub(crate) fn widths(
        &self,
        by_latent: &ByLatent,
        matrices: [&[f32]; 2],
        (centred, grad_out): (&[f32], Nested<'_>),
    ) -> [usize; 2] {
        let (n, n_latents) = (self.indices.len(), by_latent.n_latents());
        assert_eq!(by_latent.entry_indices.len(), n, "the same entries");
        assert_eq!(self.acts.len(), n, "an activation for each entry");
        assert_eq!(self.grad_pre.len(), n, "a gradient for each entry");
        let n_levels = grad_out.ends.len().max(1);
        let rows = [centred.len(), grad_out.grad_out.len() / n_levels];
        let [d_in, d_out] = matrices.map(|matrix| matrix.len() / n_latents);
        let shapes = [(d_in, rows[0]), (d_out, rows[1])];
        for ((width, n_numbers), matrix) in shapes.into_iter().zip(matrices) {
            assert_eq!(matrix.len(), n_latents * width, "a row for each latent");
            let are_there = match self.tokens {
                TokenOf::Every(k) => n_numbers == n / k * width,
                TokenOf::Listed(tokens) => {
                    let n_tokens = tokens.last().map_or(0, |last| *last as usize + 1);
                    tokens.len() == n && n_numbers >= n_tokens * width
                }
            };
            assert!(are_there, "a row for each token");
        }
        [d_in, d_out]
    }
}

impl TokenOf<'_> {
    #[inline(always)]
    fn of(self, entry_idx: usize) -> usize {
        match self {
            Self::Every(k) => entry_idx / k,
            Self::Listed(tokens) => tokens[entry_idx] as usize,
        }
    }
}

impl<'a> Nested<'a> {
    /// What a latent gets: `[n_tokens, d_out]`.
    pub(crate) fn of(self, latent: usize) -> &'a [f32] {
        let level = self.ends.partition_point(|end| *end <= latent);
        let n_numbers = self.grad_out.len() / self.ends.len().max(1);
        &self.grad_out[level * n_numbers..][..n_numbers]
    }
}

impl<'a> From<&'a [f32]> for Nested<'a> {
    /// One reconstruction: `[n_tokens, d_out]`.
    fn from(grad_out: &'a [f32]) -> Self {
        Self {
            grad_out,
            ends: &[],
        }
    }
}

multiversioned!(
    fn sum_rows(
        entry_indices: &[u32],
        tokens: TokenOf<'_>,
        values_rows: (&[f32], &[f32]),
        out: &mut [f32]
    ) = add_rows
);

/// `out = sum values[entry_idx] * rows[token of entry_idx]` over the entries of a latent.
#[inline(always)]
pub(crate) fn add_rows(
    entry_indices: &[u32],
    tokens: TokenOf<'_>,
    (values, rows): (&[f32], &[f32]),
    out: &mut [f32],
) {
    out.fill(0.0);
    let width = out.len();
    let entries = entry_indices.iter().map(|&entry_idx| entry_idx as usize);
    let rows = entries.map(|entry_idx| {
        (
            values[entry_idx],
            &rows[tokens.of(entry_idx) * width..][..width],
        )
    });
    // Of latents that were selected with activation 0.
    add_all_scaled(out, rows.filter(|(value, _)| *value != 0.0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gradients_are_those_of_dense_products(
            n_tokens in 0usize..9,
            num_latents in 1usize..40,
            d_in in 1usize..35,
            d_out in 1usize..20,
            step in 1usize..7,
        ) {
            let k = num_latents.min(3);
            let indices: Vec<i64> = (0..n_tokens)
                .flat_map(|token| (0..k).map(move |idx| ((token * step + idx) % num_latents) as i64))
                .collect();
            let mut acts = numbers(n_tokens * k, 0.1);
            if let Some(first) = acts.first_mut() {
                *first = 0.0;
            }
            let (grad_pre, grad_out) = (numbers(n_tokens * k, 0.2), numbers(n_tokens * d_out, 0.3));
            let centred = numbers(n_tokens * d_in, 0.4);
            let mut encoder_weight = vec![f32::NAN; num_latents * d_in];
            let mut encoder_bias = vec![f32::NAN; num_latents];
            let mut w_dec = vec![f32::NAN; num_latents * d_out];
            let entries = Entries { indices: &indices, acts: &acts, grad_pre: &grad_pre, tokens: TokenOf::Every(k) };
            let by_latent = ByLatent::sort(&indices, num_latents);
            let out = WeightGradients {
                encoder_weight: &mut encoder_weight,
                w_dec: &mut w_dec,
            };
            entries.weight_gradients(&by_latent, grad_out.as_slice().into(), &centred, out);
            entries.bias_gradient(&by_latent, &mut encoder_bias);
            let dense = |values: &[f32], rows: &[f32], width: usize| {
                let mut sum = vec![0.0; num_latents * width];
                for (entry, &latent) in indices.iter().enumerate() {
                    for column in 0..width {
                        sum[latent as usize * width + column] += values[entry] * rows[entry / k * width + column];
                    }
                }
                sum
            };
            prop_assert_eq!(encoder_weight, dense(&grad_pre, &centred, d_in));
            prop_assert_eq!(w_dec, dense(&acts, &grad_out, d_out));
            let ones = vec![1.0; n_tokens];
            prop_assert_eq!(encoder_bias, dense(&grad_pre, &ones, 1));
        }
    }

    #[test]
    fn entries_of_a_latent_are_in_the_order_of_tokens() {
        let by_latent = ByLatent::sort(&[2u32, 0, 2, 1, 0, 2], 4);
        let all: Vec<_> = (0..4).map(|latent| by_latent.of(latent).to_vec()).collect();
        assert_eq!(all, [vec![1, 4], vec![3], vec![0, 2, 5], vec![]]);
    }
}
