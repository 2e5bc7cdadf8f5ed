//! The loss of pre-activations below thresholds: it raises those of latents that do not fire (Anthropic, January 2025).

use super::jump::applied;
use crate::{Gradients, Sae, SaeError};
use fault::Fault;
use tch::{Kind, Tensor};

/// `coefficient sum ReLU(theta - u) n` over the latents of tokens, with the norm `n` of the decoder's row.
#[derive(Clone, Copy, Debug)]
pub struct PreActLoss<'a> {
    /// Weight of the term.
    pub coefficient: f64,
    /// Which latents: indices, `[n]`, Int64; `None`: all.
    pub latents: Option<&'a Tensor>,
    /// Which of `latents` count: `[n]`, Bool; `None`: all.
    pub counts: Option<&'a Tensor>,
}

impl Sae {
    /// Adds the term's gradients, with its coefficient; gives the term, with its coefficient: scalar, Double.
    pub(super) fn add_pre_act_loss(
        &self,
        centred: &Tensor,
        term: PreActLoss<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor, SaeError> {
        let no_threshold = || Fault::internal("a loss below thresholds, of an SAE without them");
        let threshold = self.threshold.as_ref().ok_or_else(no_threshold)?;
        let of = |weight: &Tensor| match term.latents {
            None => Ok(weight.shallow_clone()),
            Some(latents) => weight.f_index_select(0, latents),
        };
        let (weight, bias, w_dec) = (
            of(&self.encoder_weight)?,
            of(&self.encoder_bias)?,
            of(&self.w_dec)?,
        );
        let row_norm = self.row_norm();
        let coefficient = match term.counts {
            None => bias.f_full_like(term.coefficient)?,
            Some(counts) => counts
                .f_to_kind(Kind::Float)?
                .f_mul_scalar(term.coefficient)?,
        };
        let scale = row_norm.of(&w_dec)?.f_mul(&coefficient)?;
        let threshold = of(&applied(threshold)?)?;
        let below = threshold
            .f_sub(&centred.f_linear(&weight, Some(&bias))?)?
            .f_relu()?;
        let loss = below.f_mul(&scale)?.f_sum(Kind::Double)?;
        let grad_threshold = below.f_gt(0.0)?.f_to_kind(Kind::Float)?.f_mul(&scale)?;
        let at_norms = below
            .f_sum_dim_intlist(0, false, None)?
            .f_mul(&coefficient)?;
        let grad_bias = grad_threshold.f_sum_dim_intlist(0, false, None)?;
        let latents = term.latents;
        let add = |sum: &mut Tensor, part: &Tensor| -> Result<(), SaeError> {
            let _ = match latents {
                None => sum.f_add_(part)?,
                // Each latent is there once: no sum depends on the order of threads.
                Some(latents) => {
                    let rows = sum.f_index_select(0, latents)?.f_add(part)?;
                    sum.f_index_copy_(0, latents, &rows)?
                }
            };
            Ok(())
        };
        add(
            &mut gradients.encoder_weight,
            &grad_threshold.f_tr()?.f_matmul(centred)?.f_neg()?,
        )?;
        add(&mut gradients.encoder_bias, &grad_bias.f_neg()?)?;
        add(&mut gradients.w_dec, &row_norm.gradient(&w_dec, &at_norms)?)?;
        if let Some(sum) = &mut gradients.threshold {
            add(sum, &grad_bias)?;
        }
        if self.cfg.subtracts_b_dec() {
            let through = grad_bias
                .f_unsqueeze(0)?
                .f_matmul(&weight)?
                .f_squeeze_dim(0)?;
            let _ = gradients.b_dec.f_add_(&through)?;
        }
        Ok(loss)
    }
}
