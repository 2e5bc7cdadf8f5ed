//! Reconstructions from a token's 1, 2, ..., k largest latents, whose squared errors are averaged: one SAE for every
//! number of active latents up to k (HierarchicalTopK, arXiv:2505.24473).
//!
//! With `e_j` the error of the first `j`, the latent of rank `i` gets `H_i = (2 / k) sum_{j >= i} e_j`: `d f = H_i . W_dec`,
//! `d W_dec = f H_i`. Tokens are taken in blocks, so that their `k` rows are never all in memory.

use super::general::Batch;
use super::sum_of_squares;
use crate::kernels::{Listed, sparse_times_rows};
use crate::support::Support;
use crate::{Backward, Encoded, Gradients, Losses, Sae, SaeError};
use tch::{Kind, Tensor};

/// Bytes of the rows that are in memory at the same time.
const BLOCK_BYTES: i64 = 64 << 20;

/// What a block of tokens gives.
struct BlockGradients {
    /// `[num_latents, d_out]`.
    w_dec: Tensor,
    /// At the activations: `[n_tokens, k]`.
    at_acts: Tensor,
    /// At the bias of the decoder, for each token: `[n_tokens, d_out]`.
    at_out: Tensor,
    /// Sum of squared errors of all reconstructions, over `k`: scalar, Double.
    mean_error: Tensor,
}

impl Sae {
    /// The backward pass on the latents of each token that `encoded` has.
    pub(super) fn hierarchical_backward(
        &self,
        batch: &Batch,
        encoded: Encoded,
    ) -> Result<Backward, SaeError> {
        // From the largest on.
        let (acts, order) = encoded.latent_acts.f_sort(-1, true)?;
        let indices = encoded.latent_indices.f_gather(1, &order, false)?;
        let (n_tokens, k) = acts.size2()?;
        let block = (BLOCK_BYTES / (4 * k * self.cfg.d_out() as i64)).max(1);
        let mut w_dec = self.w_dec.f_zeros_like()?;
        let mut nested = Tensor::f_zeros([0i64; 0], (Kind::Double, acts.device()))?;
        let (mut at_acts, mut at_out) = (Vec::new(), Vec::new());
        for start in (0..n_tokens).step_by(block as usize) {
            let n = block.min(n_tokens - start);
            let part = |x: &Tensor| x.f_narrow(0, start, n);
            let of_block = self.ranked((&part(&acts)?, &part(&indices)?), &part(&batch.target)?)?;
            w_dec = w_dec.f_add(&of_block.w_dec)?;
            nested = nested.f_add(&of_block.mean_error)?;
            at_acts.push(of_block.at_acts);
            at_out.push(of_block.at_out);
        }
        let joined = |parts: &[Tensor], like: &Tensor| match parts {
            [] => like.f_zeros_like(),
            parts => Tensor::f_cat(parts, 0),
        };
        let is_active = acts.f_gt(0.0)?.f_to_kind(acts.kind())?;
        let grad_pre = joined(&at_acts, &acts)?
            .f_mul(&is_active)?
            .f_reshape([-1])?;
        let at_out = joined(&at_out, &batch.target)?;
        let support = Support::Some(Listed::of_rows(&indices)?);
        let num_latents = self.num_latents() as i64;
        let encoder_bias = support.sums_by_latent(&grad_pre, num_latents)?;
        let whole = sparse_times_rows(&acts, &indices, &self.w_dec)?.f_add(&self.b_dec)?;
        Ok(Backward {
            gradients: Gradients {
                encoder_weight: support.transposed_times(&grad_pre, &batch.centred, num_latents)?,
                b_dec: self.grad_b_dec(Some(&at_out), &encoder_bias)?,
                w_skip: self.grad_w_skip(&batch.x, &at_out)?,
                encoder_bias,
                w_dec,
                threshold: None,
                gate: None,
            },
            losses: Losses {
                nested: Some(nested),
                ..Losses::squared_error(sum_of_squares(&whole.f_sub(&batch.target)?)?)
            },
            fire_counts: support.fire_counts(&acts.f_reshape([-1])?, num_latents)?,
        })
    }

    /// The gradients of some tokens, whose latents come from the largest on.
    fn ranked(
        &self,
        (acts, indices): (&Tensor, &Tensor),
        target: &Tensor,
    ) -> Result<BlockGradients, SaeError> {
        let (n_tokens, k) = acts.size2()?;
        let flat = indices.f_reshape([-1])?;
        let rows = self
            .w_dec
            .f_index_select(0, &flat)?
            .f_view([n_tokens, k, -1])?;
        let parts = rows.f_mul(&acts.f_unsqueeze(2)?)?;
        let from_first = parts.f_cumsum(1, acts.kind())?;
        let errors = from_first.f_sub(&target.f_sub(&self.b_dec)?.f_unsqueeze(1)?)?;
        let mean_error = sum_of_squares(&errors)?.f_div_scalar(k as f64)?;
        // Each latent is part of the reconstruction that it comes in with and of all later ones.
        let later = errors.f_flip([1])?.f_cumsum(1, acts.kind())?.f_flip([1])?;
        let later = later.f_mul_scalar(2.0 / k as f64)?;
        let each = Listed::of_rows(&flat.f_unsqueeze(1)?)?;
        let dense = later.f_reshape([n_tokens * k, -1])?;
        Ok(BlockGradients {
            w_dec: each.transposed_times(
                &acts.f_reshape([-1])?,
                &dense,
                self.num_latents() as i64,
            )?,
            at_acts: later.f_mul(&rows)?.f_sum_dim_intlist(2, false, None)?,
            at_out: later.f_select(1, 0)?,
            mean_error,
        })
    }
}
