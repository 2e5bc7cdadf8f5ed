//! AuxK: dead latents predict what the others leave over.

use super::{Term, sum_of_squares};
use crate::gradient::{Part, Pass, Reaches};
use crate::kernels::sparse_times_rows;
use crate::pre_acts::PreActs;
use crate::{Sae, SaeError};
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
}

impl AuxK<'_> {
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
    /// The term of the dead latents; `error`: `sae_out - target`.
    pub(super) fn auxk(
        &self,
        pass: &Pass,
        pre_acts: &PreActs<'_>,
        error: &Tensor,
        term: AuxK<'_>,
    ) -> Result<Option<Term>, SaeError> {
        let n_wanted = self.cfg.d_out() as i64 / 2;
        let k = n_wanted.min(term.candidates.size()[0]);
        if k == 0 {
            return Ok(None);
        }
        let (encoded, are_dead) = match term.are_dead {
            None => (pre_acts.largest_of(term.candidates, k)?, None),
            Some(are_dead) => {
                let (encoded, are_dead) = pre_acts.largest_where(term.candidates, are_dead, k)?;
                (encoded, Some(are_dead))
            }
        };
        // The residual is `-error`, so the prediction's own error is the sum.
        let predicted =
            sparse_times_rows(&encoded.latent_acts, &encoded.latent_indices, &self.w_dec)?;
        let missed = predicted.f_add(error)?;
        let scale = term.scale(n_wanted)?;
        let of_gradient = scale.f_mul_scalar(2.0 * term.alpha)?;
        let part = Part {
            encoded: &encoded,
            grad_out: &missed.f_mul(&of_gradient.f_to_kind(missed.kind())?)?,
            reaches: are_dead.as_ref().map_or(Reaches::All, Reaches::Where),
            is_whole: false,
        };
        Ok(Some(Term {
            gradients: self.part_gradients(pass, &part)?.gradients,
            loss: sum_of_squares(&missed)?.f_mul(&scale)?,
        }))
    }
}
