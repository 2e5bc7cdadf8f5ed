//! Multi-TopK: a reconstruction from more latents besides the one from `k`, so that the former does not
//! collapse when `k` is changed (Gao et al. 2024, arXiv:2406.04093, section 5.3).

use super::{Term, sum_of_squares};
use crate::gradient::{Part, Pass, Reaches};
use crate::pre_acts::{PreActs, with_relu};
use crate::{Sae, SaeError};
use tch::Tensor;

/// The weight of Multi-TopK's term.
const MULTI_TOPK_WEIGHT: f64 = 0.125;
/// Multi-TopK's active latents, by `k`.
const MULTI_TOPK_FACTOR: usize = 4;

impl Sae {
    /// The term of `4 * k` latents.
    pub(super) fn multi_topk(
        &self,
        pass: &Pass,
        pre_acts: &PreActs<'_>,
        target: &Tensor,
        k: usize,
    ) -> Result<Term, SaeError> {
        let k = self.num_latents().min(MULTI_TOPK_FACTOR * k) as i64;
        let encoded = with_relu(pre_acts.largest(k)?)?;
        let sae_out = self.with_skip(self.decode(&encoded)?, &pass.x)?;
        let error = sae_out.f_sub(target)?;
        let part = Part {
            encoded: &encoded,
            grad_out: &error.f_mul_scalar(2.0 * MULTI_TOPK_WEIGHT)?,
            reaches: Reaches::Positive,
            is_whole: true,
        };
        Ok(Term {
            gradients: self.part_gradients(pass.input(), &part)?.gradients,
            loss: sum_of_squares(&error)?,
        })
    }
}
