//! The optimizer's update of the matrices, row by row as the gradient comes: it is never written to memory.

use crate::entries::add_rows;
use crate::instruction_sets::multiversioned;
use crate::rows::{divide_by, project_from, signum_by};
use crate::{ByLatent, Entries, Nested, Signum, TokenOf};
use rayon::prelude::*;

/// A matrix with a row for each latent, as schedule-free signum keeps it.
#[derive(Debug)]
pub struct Weights<'a> {
    /// What the SAE holds: `[num_latents, width]`.
    pub y: &'a mut [f32],
    /// What the optimizer remembers: the same shape.
    pub z: &'a mut [f32],
}

/// The matrices of an SAE, and how to update them.
#[derive(Debug)]
pub struct MatrixUpdate<'a> {
    /// `[num_latents, d_in]`.
    pub encoder_weight: Weights<'a>,
    /// `[num_latents, d_out]`.
    pub w_dec: Weights<'a>,
    /// What the decoder's gradient goes through; the encoder's is not projected.
    pub steps: RowSteps,
}

/// What the gradient of each row goes through.
#[derive(Clone, Copy, Debug)]
pub struct RowSteps {
    /// What it is divided by.
    pub divisor: f32,
    /// Whether it loses its part parallel to the row.
    pub is_projected: bool,
    /// The optimizer's.
    pub constants: Signum,
}

impl Entries<'_> {
    /// What [`Entries::weight_gradients`], [`crate::scale`], [`crate::project`] and [`crate::signum`] do one after
    /// the other, to the bit.
    ///
    /// # Panics
    /// Shapes that do not fit.
    pub fn update(
        &self,
        by_latent: &ByLatent,
        grad_out: Nested<'_>,
        centred: &[f32],
        update: MatrixUpdate<'_>,
    ) {
        let MatrixUpdate {
            encoder_weight,
            w_dec,
            steps,
        } = update;
        let of_encoder = RowSteps {
            is_projected: false,
            ..steps
        };
        let matrices = [&*encoder_weight.y, &*w_dec.y];
        let [d_in, d_out] = self.widths(by_latent, matrices, (centred, grad_out));
        let rows = encoder_weight.rows(d_in).zip(w_dec.rows(d_out)).enumerate();
        rows.for_each_init(
            || (vec![0.0; d_in], vec![0.0; d_out]),
            |(grad_encoder, grad_decoder), (latent, (encoder, decoder))| {
                let entry_indices = by_latent.of(latent);
                let values = (self.grad_pre, centred);
                update_row(
                    entry_indices,
                    self.tokens,
                    values,
                    grad_encoder,
                    encoder,
                    of_encoder,
                );
                let values = (self.acts, grad_out.of(latent));
                update_row(
                    entry_indices,
                    self.tokens,
                    values,
                    grad_decoder,
                    decoder,
                    steps,
                );
            },
        );
    }
}

impl<'a> Weights<'a> {
    fn rows(
        self,
        width: usize,
    ) -> impl IndexedParallelIterator<Item = (&'a mut [f32], &'a mut [f32])> {
        assert_eq!(self.y.len(), self.z.len(), "a z for each weight");
        self.y
            .par_chunks_mut(width)
            .zip(self.z.par_chunks_mut(width))
    }
}

multiversioned!(
    fn update_row(
        entry_indices: &[u32],
        tokens: TokenOf<'_>,
        values_rows: (&[f32], &[f32]),
        gradient: &mut [f32],
        y_z: (&mut [f32], &mut [f32]),
        steps: RowSteps
    ) = update_one_row
);

#[inline(always)]
fn update_one_row(
    entry_indices: &[u32],
    tokens: TokenOf<'_>,
    values_rows: (&[f32], &[f32]),
    gradient: &mut [f32],
    (y, z): (&mut [f32], &mut [f32]),
    steps: RowSteps,
) {
    add_rows(entry_indices, tokens, values_rows, gradient);
    divide_by(gradient, steps.divisor);
    if steps.is_projected {
        project_from(gradient, y);
    }
    signum_by(y, z, gradient, steps.constants);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{WeightGradients, in_threads, numbers, project, scale, signum};

    #[test]
    fn it_is_what_the_kernels_do_one_after_the_other() {
        for (n_tokens, num_latents, d_in, d_out, k) in
            [(0, 5, 3, 4, 2), (1, 1, 1, 1, 1), (130, 70, 37, 16, 9)]
        {
            let indices: Vec<i64> = (0..n_tokens * k)
                .map(|entry| ((entry / k * 7 + entry % k * 3) % num_latents) as i64)
                .collect();
            let (acts, grad_pre) = (numbers(n_tokens * k, 0.1), numbers(n_tokens * k, 0.2));
            let (grad_out, centred) = (
                numbers(n_tokens * d_out, 0.3),
                numbers(n_tokens * d_in, 0.4),
            );
            let entries = Entries {
                indices: &indices,
                acts: &acts,
                grad_pre: &grad_pre,
                tokens: TokenOf::Every(k),
            };
            let by_latent = ByLatent::sort(&indices, num_latents);
            let constants = Signum {
                lr: 0.1,
                to_x: -0.05,
                average: 0.3,
                to_y: 0.05,
            };
            let matrix = |width, phase| numbers(num_latents * width, phase);
            let matrices = || {
                [
                    matrix(d_in, 0.5),
                    matrix(d_in, 0.6),
                    matrix(d_out, 0.7),
                    matrix(d_out, 0.8),
                ]
            };

            let [mut y_enc, mut z_enc, mut y_dec, mut z_dec] = matrices();
            let (mut encoder_weight, mut w_dec) = (matrix(d_in, 0.0), matrix(d_out, 0.0));
            let out = WeightGradients {
                encoder_weight: &mut encoder_weight,
                w_dec: &mut w_dec,
            };
            entries.weight_gradients(&by_latent, grad_out.as_slice().into(), &centred, out);
            scale(&mut encoder_weight, 3.0);
            scale(&mut w_dec, 3.0);
            project(&mut w_dec, &y_dec, d_out);
            signum(&mut y_enc, &mut z_enc, &encoder_weight, constants);
            signum(&mut y_dec, &mut z_dec, &w_dec, constants);

            for n_threads in [1, 3] {
                let [mut y_enc2, mut z_enc2, mut y_dec2, mut z_dec2] = matrices();
                let update = MatrixUpdate {
                    encoder_weight: Weights {
                        y: &mut y_enc2,
                        z: &mut z_enc2,
                    },
                    w_dec: Weights {
                        y: &mut y_dec2,
                        z: &mut z_dec2,
                    },
                    steps: RowSteps {
                        divisor: 3.0,
                        is_projected: true,
                        constants,
                    },
                };
                in_threads(n_threads, || {
                    entries.update(&by_latent, grad_out.as_slice().into(), &centred, update);
                });
                assert_eq!((&y_enc2, &z_enc2), (&y_enc, &z_enc));
                assert_eq!((&y_dec2, &z_dec2), (&y_dec, &z_dec));
            }
        }
    }
}
