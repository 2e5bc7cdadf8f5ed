//! AuxK: dead latents predict what the others leave over.

use super::{Term, sum_of_squares};
use crate::gradient::{Part, Pass};
use crate::kernels::sparse_times_rows;
use crate::pre_acts::PreActs;
use crate::{Sae, SaeError};
use tch::Tensor;

/// The loss of dead latents (Gao et al. 2024, arXiv:2406.04093, appendix A.2, with the scale that
/// sparsify puts before it): the `d_out / 2` largest pre-activations among them reconstruct the
/// residual. Without ReLU, so that a latent whose pre-activation is negative can come back.
#[derive(Clone, Copy, Debug)]
pub struct AuxK<'a> {
    /// Weight of the term.
    pub alpha: f64,
    /// Indices of the dead latents: `[n_dead]`, Int64.
    pub dead: &'a Tensor,
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
        let n_dead = term.dead.size()[0];
        let n_wanted = self.cfg.d_out() as i64 / 2;
        let k = n_wanted.min(n_dead);
        if k == 0 {
            return Ok(None);
        }
        let scale = (n_dead as f64 / n_wanted as f64).min(1.0);
        let encoded = pre_acts.largest_of(term.dead, k)?;
        // The residual is `-error`, so the prediction's own error is the sum.
        let predicted =
            sparse_times_rows(&encoded.latent_acts, &encoded.latent_indices, &self.w_dec)?;
        let missed = predicted.f_add(error)?;
        let part = Part {
            encoded: &encoded,
            grad_out: &missed.f_mul_scalar(2.0 * term.alpha * scale)?,
            has_relu: false,
            is_whole: false,
        };
        Ok(Some(Term {
            gradients: self.part_gradients(pass, &part)?.gradients,
            loss: sum_of_squares(&missed)?.f_mul_scalar(scale)?,
        }))
    }
}
