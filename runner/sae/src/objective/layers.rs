//! One layer of a cross-layer transcoder (Ameisen et al. 2025, "Circuit Tracing"): what it writes is added to what
//! other layers write, and the error of the sum comes back.
//!
//! Its output has a part for its own hookpoint, then one for each later one. The bias of the decoder and a skip
//! connection have only the first part.

use super::general::{ActiveLatents, Batch, Reconstructed};
use super::latents::{Latents, had_all};
use super::sum_of_squares;
use crate::kernels::NestedErrors;
use crate::support::Support;
use crate::{Backward, Level, Objective, Sae, SaeError};
use tch::Tensor;

/// A forward pass of a layer.
pub struct LayerPass {
    batch: Batch,
    latents: Latents,
    active: ActiveLatents,
    /// What it writes: `[n_tokens, d_out]`.
    pub written: Tensor,
}

impl Sae {
    /// Its forward pass on `x`: `[n_tokens, d_in]`, Float.
    ///
    /// # Errors
    /// Another shape, or too little memory.
    pub fn layer_pass(&self, x: &Tensor, objective: &Objective<'_>) -> Result<LayerPass, SaeError> {
        let target = self.b_dec.f_unsqueeze(0)?.f_zeros_like()?;
        let target = target.f_expand([x.size()[0], target.size()[1]], false)?;
        let batch = self.batch(x, &target)?;
        if let Some(mut latents) = self.listed(&batch, objective)? {
            let room = latents.room.take();
            let active = self.acts_at(&latents.support, &latents.pre_acts)?;
            let written = self.written(&latents.support, &active.acts, x)?;
            if had_all(room)? {
                return Ok(LayerPass {
                    batch,
                    latents,
                    active,
                    written,
                });
            }
        }
        let latents = self.all_latents(&batch.centred, objective)?;
        let active = self.acts_at(&latents.support, &latents.pre_acts)?;
        let written = self.written(&latents.support, &active.acts, x)?;
        Ok(LayerPass {
            batch,
            latents,
            active,
            written,
        })
    }

    fn written(&self, support: &Support, acts: &Tensor, x: &Tensor) -> Result<Tensor, SaeError> {
        let all = (0, self.num_latents() as i64);
        let decoded = support.decoded(acts, &self.w_dec, all)?;
        self.with_skip(decoded.f_add(&self.b_dec)?, x)
    }

    /// Its backward pass. `error`: what all layers wrote less what they should have, where this one writes:
    /// `[n_tokens, d_out]`. Of the squared error, the part at its own hookpoint counts as its own.
    ///
    /// # Errors
    /// Too little memory.
    pub fn layer_backward(
        &self,
        pass: LayerPass,
        error: &Tensor,
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        let LayerPass {
            batch,
            latents,
            active,
            ..
        } = pass;
        let grad_out = error.f_mul_scalar(2.0)?;
        let (own, n_others) = self.own_output();
        let errors = NestedErrors {
            grad_acts: latents.support.dots(&grad_out, &self.w_dec)?,
            errors: sum_of_squares(&error.f_narrow(1, 0, own)?)?.f_unsqueeze(0)?,
            grad_out: grad_out.f_unsqueeze(0)?,
        };
        let reconstructed = Reconstructed {
            active,
            errors,
            levels: vec![Level::all(self.num_latents())],
        };
        let mut backward = self.backward_from(&batch, latents, reconstructed, objective)?;
        let gradients = &mut backward.gradients;
        let _ = gradients.b_dec.f_narrow(0, own, n_others)?.f_zero_()?;
        if let Some(w_skip) = &mut gradients.w_skip {
            let _ = w_skip.f_narrow(0, own, n_others)?.f_zero_()?;
        }
        Ok(backward)
    }

    /// Leaves later hookpoints to the biases of later layers.
    ///
    /// # Errors
    /// Too little memory.
    pub fn limit_bias_to_own_output(&mut self) -> Result<(), SaeError> {
        let (own, n_others) = self.own_output();
        let _ = self.b_dec.f_narrow(0, own, n_others)?.f_zero_()?;
        Ok(())
    }

    /// Widths of its output at its own hookpoint, and at later ones.
    fn own_output(&self) -> (i64, i64) {
        let d_out = self.cfg.d_out();
        let own = d_out / self.cfg.n_outputs();
        (own as i64, (d_out - own) as i64)
    }
}
