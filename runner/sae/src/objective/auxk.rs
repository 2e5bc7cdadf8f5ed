//! AuxK: dead latents predict what the others leave over.

use super::{Term, sum_of_squares};
use crate::gradient::{Input, Part, Reaches};
use crate::kernels::sparse_times_rows;
use crate::pre_acts::{SomePreActs, with_relu};
use crate::{Gradients, Moments, Sae, SaeError};
use tch::{Kind, TchError, Tensor};

/// The loss of dead latents (Gao et al. 2024, arXiv:2406.04093, appendix A.2, with the scale that
/// sparsify puts before it): the `d_out / 2` largest pre-activations among them reconstruct the
/// residual. Without ReLU, so that a latent whose pre-activation is negative can come back.
#[derive(Clone, Copy, Debug)]
pub struct AuxK<'a> {
    /// Weight of the term.
    pub alpha: f64,
    /// Indices of all dead latents, and of others if there is a mask: `[n]`, Int64, ascending.
    pub candidates: &'a Tensor,
    /// Which of `candidates` are dead: `[n]`, Bool; `None`: all. With a mask, their number does not decide on a
    /// shape, and those that are not dead change no bit of what comes of it.
    pub are_dead: Option<&'a Tensor>,
    /// As its paper has it, with ReLU, no such scale, and the error relative to the variance of the residual. Then the
    /// squared error is by token: what all is divided by is the number of tokens. A latent that fires in the update
    /// itself is not dead.
    pub is_of_residual: bool,
    /// On how many tokens of the update each latent fired: `[num_latents]`; `None`: it has these tokens alone.
    pub fire_counts: Option<&'a Tensor>,
    /// [`AuxK::scale_of_residual`] of the update: scalar, Double; `None`: it has these tokens alone.
    pub residual_scale: Option<&'a Tensor>,
}

impl AuxK<'_> {
    /// The number of tokens over the total variance of what is left over of them, or 0 if nothing is: scalar, Double.
    ///
    /// # Errors
    /// Too little memory.
    pub fn scale_of_residual(residual: &Moments) -> Result<Tensor, SaeError> {
        let variance = &residual.squared_deviations;
        let n_tokens = residual.n_tokens as f64;
        let inverse = variance.f_reciprocal()?.f_mul_scalar(n_tokens)?;
        Ok(inverse.f_masked_fill(&variance.f_le(0.0)?, 0.0)?)
    }

    /// Which of the candidates are dead: `[n]`, Bool; `None`: all. `own`: on how many of these tokens each latent fired.
    fn are_dead(&self, own: &Tensor) -> Result<Option<Tensor>, TchError> {
        let before = self.are_dead.map(Tensor::shallow_clone);
        if !self.is_of_residual {
            return Ok(before);
        }
        let fire_counts = self.fire_counts.unwrap_or(own);
        let is_silent = fire_counts.f_index_select(0, self.candidates)?.f_le(0.0)?;
        Ok(Some(match before {
            None => is_silent,
            Some(before) => before.f_logical_and(&is_silent)?,
        }))
    }

    /// `min(n_dead / n_wanted, 1)`: scalar, Double.
    fn scale(&self, n_wanted: i64) -> Result<Tensor, TchError> {
        let n_dead = match self.are_dead {
            Some(are_dead) => are_dead.f_sum(Kind::Double)?,
            None => {
                let n_dead = self.candidates.size()[0] as f64;
                let options = (Kind::Double, self.candidates.device());
                Tensor::f_full([0i64; 0], n_dead, options)?
            }
        };
        n_dead.f_div_scalar(n_wanted as f64)?.f_clamp_max(1.0)
    }
}

impl Sae {
    /// The term of the dead latents; `error`: `sae_out - target`, `pre_acts`: gives those of the candidates.
    pub(super) fn auxk<'a, 'l>(
        &'a self,
        input: Input<'_>,
        error: &Tensor,
        (term, own_fire_counts): (AuxK<'l>, &Tensor),
        pre_acts: impl FnOnce(&'l Tensor) -> Result<SomePreActs<'a, 'l>, SaeError>,
    ) -> Result<Option<Term>, SaeError> {
        let n_wanted = (self.cfg.d_out() / self.cfg.n_outputs()) as i64 / 2;
        let k = n_wanted.min(term.candidates.size()[0]);
        if k == 0 {
            return Ok(None);
        }
        let pre_acts = pre_acts(term.candidates)?;
        let (mut encoded, are_dead) = match term.are_dead(own_fire_counts)? {
            None => (pre_acts.largest(k)?, None),
            Some(are_dead) => {
                let (encoded, are_dead) = pre_acts.largest_where(&are_dead, k)?;
                (encoded, Some(are_dead))
            }
        };
        if term.is_of_residual {
            encoded = with_relu(encoded)?;
        }
        // The residual is `-error`, so the prediction's own error is the sum.
        let predicted =
            sparse_times_rows(&encoded.latent_acts, &encoded.latent_indices, &self.w_dec)?;
        let missed = predicted.f_add(error)?;
        let scale = match term.residual_scale {
            _ if !term.is_of_residual => term.scale(n_wanted)?,
            Some(scale) => scale.shallow_clone(),
            None => AuxK::scale_of_residual(&Moments::of(error)?)?,
        };
        let of_gradient = scale.f_mul_scalar(2.0 * term.alpha)?;
        let part = Part {
            encoded: &encoded,
            grad_out: &missed.f_mul(&of_gradient.f_to_kind(missed.kind())?)?,
            reaches: match &are_dead {
                _ if term.is_of_residual => Reaches::Positive,
                None => Reaches::All,
                Some(are_dead) => Reaches::Where(are_dead),
            },
            is_whole: false,
        };
        Ok(Some(Term {
            gradients: self.part_gradients(input, &part)?.gradients,
            loss: sum_of_squares(&missed)?.f_mul(&scale)?,
        }))
    }

    /// Adds the gradients of the term; gives it, without its weight.
    pub(super) fn add_auxk(
        &self,
        input: Input<'_>,
        error: &Tensor,
        (term, fire_counts): (AuxK<'_>, &Tensor),
        (rescales, gradients): (bool, &mut Gradients),
    ) -> Result<Option<Tensor>, SaeError> {
        let of = |latents| self.pre_acts_of(input.centred, latents, rescales);
        let term = self.auxk(input, error, (term, fire_counts), of)?;
        term.map(|term| term.add_to(gradients)).transpose()
    }
}
