//! At which latents of a token there are numbers, and what is computed from them: at all, or at some. The formulas of
//! losses are the same for both.

use crate::kernels::{
    Acts, Listed, NestedErrors, SortedEntries, is_within, nested_errors, nested_rows, ranges,
};
use crate::{Level, SaeError};
use tch::{Kind, TchError, Tensor};

/// Where the numbers of a batch are.
#[derive(Debug)]
pub(crate) enum Support {
    /// At every latent of each token: tensors are `[n_tokens, num_latents]`.
    All,
    /// At some: tensors are `[n_entries]`.
    Some(Listed),
}

/// Gradients of an SAE's matrices and of the encoder's bias.
pub(crate) struct LatentGradients {
    /// `[num_latents, d_in]`.
    pub(crate) encoder_weight: Tensor,
    /// `[num_latents]`.
    pub(crate) encoder_bias: Tensor,
    /// `[num_latents, d_out]`.
    pub(crate) w_dec: Tensor,
}

impl Support {
    /// The numbers of latents, `[num_latents]`, where the support is.
    pub(crate) fn at_latents(&self, numbers: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::All => numbers.f_unsqueeze(0),
            Self::Some(at) => numbers.f_take(&at.indices),
        }
    }

    /// The numbers of tokens, `[n_tokens]`, where the support is.
    pub(crate) fn at_tokens(&self, numbers: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::All => numbers.f_unsqueeze(1),
            Self::Some(at) => numbers.f_take(at.tokens()),
        }
    }

    /// `[num_latents]`.
    pub(crate) fn sums_by_latent(
        &self,
        values: &Tensor,
        num_latents: i64,
    ) -> Result<Tensor, TchError> {
        match self {
            Self::All => values.f_sum_dim_intlist(0, false, None),
            Self::Some(at) => at.sums_by_latent(values, num_latents),
        }
    }

    /// `[n_tokens]`.
    pub(crate) fn sums_by_token(
        &self,
        values: &Tensor,
        num_latents: i64,
    ) -> Result<Tensor, TchError> {
        match self {
            Self::All => values.f_sum_dim_intlist(1, false, None),
            Self::Some(at) => at.sums_by_token(values, num_latents),
        }
    }

    /// On how many tokens each latent is positive: `[num_latents]`, Float.
    pub(crate) fn fire_counts(&self, acts: &Tensor, num_latents: i64) -> Result<Tensor, TchError> {
        self.sums_by_latent(&acts.f_gt(0.0)?.f_to_kind(Kind::Float)?, num_latents)
    }

    /// Reconstructs `target`: `[n_tokens, d_out]` from activations where the support is, of the latents below each
    /// level's end.
    pub(crate) fn reconstruct(
        &self,
        acts: Acts<'_>,
        (w_dec, b_dec): (&Tensor, &Tensor),
        target: &Tensor,
        levels: &[Level],
    ) -> Result<NestedErrors, SaeError> {
        let at = match self {
            Self::All => {
                return self.reconstruct_from_all(acts.numbers, (w_dec, b_dec), target, levels);
            }
            Self::Some(at) => at,
        };
        let pairs = levels.iter().map(|level| (level.end, level.weight as f32));
        let of_levels = (target, &*pairs.collect::<Vec<_>>());
        Ok(nested_errors(at, acts, (w_dec, b_dec), of_levels)?)
    }

    fn reconstruct_from_all(
        &self,
        acts: &Tensor,
        (w_dec, b_dec): (&Tensor, &Tensor),
        target: &Tensor,
        levels: &[Level],
    ) -> Result<NestedErrors, SaeError> {
        let ends = ends(levels);
        let weights: Vec<f32> = levels.iter().map(|level| level.weight as f32).collect();
        let parts = ranges(&ends).map(|range| self.decoded(acts, w_dec, range));
        let (errors, rows) = nested_rows((b_dec, target), parts, &weights)?;
        let dots = rows.iter().zip(ranges(&ends)).map(|(rows, (start, end))| {
            rows.f_matmul(&w_dec.f_narrow(0, start, end - start)?.f_tr()?)
        });
        let dots = dots.collect::<Result<Vec<_>, TchError>>()?;
        Ok(NestedErrors {
            grad_acts: Tensor::f_cat(&dots, 1)?,
            errors,
            grad_out: Tensor::f_stack(&rows, 0)?,
        })
    }

    /// What the latents of a range decode to, without the bias: `[n_tokens, d_out]`.
    pub(crate) fn decoded(
        &self,
        acts: &Tensor,
        w_dec: &Tensor,
        (start, end): (i64, i64),
    ) -> Result<Tensor, TchError> {
        match self {
            Self::All => {
                let acts = acts.f_narrow(1, start, end - start)?;
                acts.f_matmul(&w_dec.f_narrow(0, start, end - start)?)
            }
            Self::Some(at) => {
                at.times_rows(&acts.f_mul(&is_within(&at.indices, (start, end))?)?, w_dec)
            }
        }
    }

    /// The products of `rows`, `[n_tokens, d_out]`, with those of the decoder, where the support is.
    pub(crate) fn dots(&self, rows: &Tensor, w_dec: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::All => rows.f_matmul(&w_dec.f_tr()?),
            Self::Some(at) => at.dots(rows, w_dec),
        }
    }

    /// The gradients of the weights: `d W_dec = acts^T grad_out`, `d W_enc = grad_pre^T centred`, `d b_enc = sum grad_pre`.
    /// `grad_out`: `[n_levels, n_tokens, d_out]`.
    pub(crate) fn latent_gradients(
        &self,
        [acts, grad_pre]: [&Tensor; 2],
        (grad_out, centred): (&Tensor, &Tensor),
        levels: &[Level],
    ) -> Result<LatentGradients, TchError> {
        let num_latents = levels.last().map_or(0, |level| level.end as i64);
        if let Some(entries) = self.sorted([acts, grad_pre], levels)?
            && let Some((encoder_weight, w_dec)) = entries.matrix_gradients(centred, grad_out)?
        {
            return Ok(LatentGradients {
                encoder_bias: entries.bias_gradient()?,
                encoder_weight,
                w_dec,
            });
        }
        let of_level = |(level, (start, end)): (i64, (i64, i64))| {
            let grad_out = grad_out.f_select(0, level)?;
            match self {
                Self::All => {
                    let acts = acts.f_narrow(1, start, end - start)?;
                    acts.f_tr()?.f_matmul(&grad_out)
                }
                Self::Some(at) => {
                    let all = at.transposed_times(acts, &grad_out, num_latents)?;
                    all.f_narrow(0, start, end - start)
                }
            }
        };
        let ends = ends(levels);
        let w_dec = (0..).zip(ranges(&ends)).map(of_level);
        Ok(LatentGradients {
            w_dec: Tensor::f_cat(&w_dec.collect::<Result<Vec<_>, TchError>>()?, 0)?,
            encoder_bias: self.sums_by_latent(grad_pre, num_latents)?,
            encoder_weight: self.transposed_times(grad_pre, centred, num_latents)?,
        })
    }

    /// `[num_latents, d]`, for `rows`: `[n_tokens, d]`.
    pub(crate) fn transposed_times(
        &self,
        values: &Tensor,
        rows: &Tensor,
        num_latents: i64,
    ) -> Result<Tensor, TchError> {
        match self {
            Self::All => values.f_tr()?.f_matmul(rows),
            Self::Some(at) => at.transposed_times(values, rows, num_latents),
        }
    }

    /// By latent, for kernels. `None`: no kernel takes them.
    pub(crate) fn sorted(
        &self,
        values: [&Tensor; 2],
        levels: &[Level],
    ) -> Result<Option<SortedEntries>, TchError> {
        let Self::Some(at) = self else {
            return Ok(None);
        };
        let ends = ends(levels);
        let num_latents = ends.last().map_or(0, |end| *end as i64);
        SortedEntries::listed(at, values, &ends, num_latents)
    }
}

fn ends(levels: &[Level]) -> Vec<usize> {
    levels.iter().map(|level| level.end).collect()
}
