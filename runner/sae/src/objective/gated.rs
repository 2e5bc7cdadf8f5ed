//! Gated SAEs (Rajamanoharan et al. 2024, arXiv:2404.16014): one half of the encoder says which latents are active, the
//! other how much, with the same weights times a scale, and another bias.
//!
//! ```text
//! pi = W_enc c + b_gate        m = e^r_mag (W_enc c) + b_mag        f = 1[pi > 0] ReLU(m)
//! loss = |x - sae_out|^2 + |x - (ReLU(pi) W_dec + b_dec)|^2 + penalty(ReLU(pi))
//! ```

use super::general::Batch;
use super::penalty::{Active, Penalty};
use super::sum_of_squares;
use crate::support::Support;
use crate::{Backward, Gate, Gradients, Level, Losses, Sae, SaeError};
use tch::{Kind, Tensor};

impl Gate {
    /// Activations from the gate's pre-activations, and the magnitudes' own: both `[n_tokens, num_latents]`.
    pub(crate) fn acts(&self, pre_acts: &Tensor, bias: &Tensor) -> Result<[Tensor; 2], SaeError> {
        let magnitudes = pre_acts
            .f_sub(bias)?
            .f_mul(&self.r_mag.f_exp()?)?
            .f_add(&self.b_mag)?;
        let is_open = pre_acts.f_gt(0.0)?.f_to_kind(pre_acts.kind())?;
        Ok([magnitudes.f_relu()?.f_mul(&is_open)?, magnitudes])
    }
}

impl Sae {
    /// The backward pass of a gated SAE. `is_detached`: whether the second reconstruction leaves the decoder alone.
    pub(super) fn gated_backward(
        &self,
        gate: &Gate,
        batch: &Batch,
        (penalty, is_detached): (Penalty<'_>, bool),
    ) -> Result<Backward, SaeError> {
        let (centred, target) = (&batch.centred, &batch.target);
        let pre_acts = centred.f_linear(&self.encoder_weight, Some(&self.encoder_bias))?;
        let [acts, magnitudes] = gate.acts(&pre_acts, &self.encoder_bias)?;
        let support = Support::All;
        let levels = [Level::all(self.num_latents())];
        let decoder = (&self.w_dec, &self.b_dec);
        let errors = support.reconstruct(self.to_decode(&acts), decoder, target, &levels)?;
        let is_open = pre_acts.f_gt(0.0)?;
        let norms = self.decoder_norms()?;
        let gates = pre_acts.f_relu()?;
        let term = penalty.term(&Active {
            support: &support,
            acts: &gates,
            are_active: &is_open,
            norms: &norms,
        })?;
        let missed = gates
            .f_matmul(&self.w_dec)?
            .f_add(&self.b_dec)?
            .f_sub(target)?;
        let grad_missed = missed.f_mul_scalar(2.0)?;
        let is_open = is_open.f_to_kind(Kind::Float)?;
        let mut at_gates = grad_missed.f_matmul(&self.w_dec.f_tr()?)?;
        if let Some(at_acts) = &term.at_acts {
            at_gates = at_gates.f_add(at_acts)?;
        }
        let at_gates = at_gates.f_mul(&is_open)?;
        let at_magnitudes = errors
            .grad_acts
            .f_mul(&acts.f_gt(0.0)?.f_to_kind(Kind::Float)?)?;
        let scale = gate.r_mag.f_exp()?;
        let grad_pre = at_gates.f_add(&at_magnitudes.f_mul(&scale)?)?;
        let of_weights =
            support.latent_gradients([&acts, &grad_pre], (&errors.grad_out, centred), &levels)?;
        let sum = |x: &Tensor| x.f_sum_dim_intlist(0, false, None);
        let of_all = errors.grad_out.f_select(0, 0)?;
        let unscaled = magnitudes.f_sub(&gate.b_mag)?;
        let mut gradients = Gradients {
            b_dec: self.grad_b_dec(Some(&of_all), &of_weights.encoder_bias)?,
            encoder_weight: of_weights.encoder_weight,
            encoder_bias: sum(&at_gates)?,
            w_dec: of_weights.w_dec,
            w_skip: self.grad_w_skip(&batch.x, &of_all)?,
            threshold: None,
            gate: Some(Gate {
                b_mag: sum(&at_magnitudes)?,
                r_mag: sum(&at_magnitudes.f_mul(&unscaled)?)?,
            }),
        };
        if let Some(at_norms) = &term.at_norms {
            let of_rows = self.row_norm().gradient(&self.w_dec, at_norms)?;
            let _ = gradients.w_dec.f_add_(&of_rows)?;
        }
        if !is_detached {
            let _ = gradients
                .w_dec
                .f_add_(&gates.f_tr()?.f_matmul(&grad_missed)?)?;
            let _ = gradients.b_dec.f_add_(&sum(&grad_missed)?)?;
        }
        Ok(Backward {
            losses: Losses {
                auxk: Some(sum_of_squares(&missed)?),
                sparsity: term.loss,
                powers: term.powers,
                ..Losses::squared_error(errors.errors.f_get(0)?)
            },
            fire_counts: support.fire_counts(&acts, self.num_latents() as i64)?,
            gradients,
        })
    }
}
