//! The backward pass of crosscoders whose hookpoints choose their latents apart: of each hookpoint that of an SAE with
//! the whole encoder and a part of the decoder, and of dead latents that of the whole.

use super::general::{Batch, whole_error};
use crate::kernels::ListedNumbers;
use crate::{Backward, BatchLatents, Losses, Objective, Sae, SaeError};
use tch::Tensor;

impl Sae {
    /// `chosen`: for each hookpoint.
    pub(super) fn decoupled_backward(
        &self,
        batch: &Batch,
        chosen: &BatchLatents,
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        let mut sum = Backward::zeros(self)?;
        let (mut losses, mut errors): (Option<Losses>, _) = (None, Vec::new());
        for (hookpoint, scores) in chosen.sets.iter().enumerate() {
            let (part, error) = self.hookpoint_backward(batch, (hookpoint, scores), objective)?;
            let (start, width) = self.columns(hookpoint);
            let gradients = &mut sum.gradients;
            let of_part = &part.gradients;
            let _ = gradients.encoder_weight.f_add_(&of_part.encoder_weight)?;
            let _ = gradients.encoder_bias.f_add_(&of_part.encoder_bias)?;
            let mut rows = gradients.w_dec.f_narrow(1, start, width)?;
            rows.f_copy_(&of_part.w_dec)?;
            let mut bias = gradients.b_dec.f_narrow(0, start, width)?;
            bias.f_copy_(&of_part.b_dec)?;
            match &mut losses {
                None => losses = Some(part.losses),
                Some(losses) => losses.add(&part.losses)?,
            }
            errors.extend(objective.auxk.is_some().then_some(error));
        }
        sum.losses = losses.expect("there is a hookpoint");
        let gradients = &mut sum.gradients;
        let through_encoder = self.grad_b_dec(None, &gradients.encoder_bias)?;
        let _ = gradients.b_dec.f_add_(&through_encoder)?;
        sum.fire_counts = chosen.fire_counts(self.num_latents())?;
        if let Some(term) = objective.auxk {
            let error = Tensor::f_cat(&errors, 1)?;
            let term = (term, &sum.fire_counts);
            let of_all = (objective.rescales, gradients);
            sum.losses.auxk = self.add_auxk(batch.input(), &error, term, of_all)?;
        }
        Ok(sum)
    }

    /// That of one hookpoint, and the error there: `[n_tokens, width]`.
    fn hookpoint_backward(
        &self,
        batch: &Batch,
        (hookpoint, scores): (usize, &ListedNumbers),
        objective: &Objective<'_>,
    ) -> Result<(Backward, Tensor), SaeError> {
        let own = self.of_hookpoint(hookpoint)?;
        let objective = Objective {
            auxk: None,
            chosen: None,
            ..*objective
        };
        let batch = self.at_hookpoint(batch, hookpoint)?;
        let latents = own.unscaled(scores, &objective)?;
        let reconstructed = own.reconstructed(&batch, &latents, &objective)?;
        let error = whole_error(&reconstructed.errors, &reconstructed.levels)?;
        let backward = own.backward_from(&batch, latents, reconstructed, &objective)?;
        Ok((backward, error))
    }

    fn at_hookpoint(&self, batch: &Batch, hookpoint: usize) -> Result<Batch, SaeError> {
        let (start, width) = self.columns(hookpoint);
        Ok(Batch {
            x: batch.x.shallow_clone(),
            centred: batch.centred.shallow_clone(),
            target: batch.target.f_narrow(1, start, width)?.f_contiguous()?,
        })
    }

    /// What the chosen latents make of the batch less its target: `[n_tokens, d_out]`; and on how many tokens each
    /// fires: `[num_latents]`.
    pub(super) fn decoupled_error(
        &self,
        batch: &Batch,
        chosen: &BatchLatents,
        objective: &Objective<'_>,
    ) -> Result<(Tensor, Tensor), SaeError> {
        let of_hookpoint = |(hookpoint, scores): (usize, &ListedNumbers)| {
            let own = self.of_hookpoint(hookpoint)?;
            let batch = self.at_hookpoint(batch, hookpoint)?;
            let latents = own.unscaled(scores, objective)?;
            let reconstructed = own.reconstructed(&batch, &latents, objective)?;
            whole_error(&reconstructed.errors, &reconstructed.levels)
        };
        let errors = chosen.sets.iter().enumerate().map(of_hookpoint);
        let error = Tensor::f_cat(&errors.collect::<Result<Vec<_>, SaeError>>()?, 1)?;
        Ok((error, chosen.fire_counts(self.num_latents())?))
    }
}
