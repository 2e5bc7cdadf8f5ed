//! JumpReLU: latents above thresholds, one for each, which are trained (Rajamanoharan et al. 2024, arXiv:2407.14435).
//!
//! `f = u 1[u > theta]` has no gradient at `theta`; it is estimated in a window of the width `epsilon` around it, where
//! `rect = 1[|u - theta| < epsilon / 2]`. With `g` the gradient at `f` and `q` that at the token's L0:
//!
//! ```text
//! d theta = -sum rect (theta g + q) / epsilon
//! d u     = 1[u > theta] g   [ + rect (theta g + q) / epsilon, if it reaches the input ]
//! ```

use super::penalty::PenaltyTerm;
use crate::SaeError;
use crate::support::Support;
use tch::{Kind, TchError, Tensor};

/// How the gradient at thresholds is estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jump {
    /// Width of the window around a threshold.
    pub bandwidth: f64,
    /// Whether what is estimated reaches the pre-activations, too.
    pub ste_to_input: bool,
}

impl Default for Jump {
    /// SAELens's.
    fn default() -> Self {
        Self {
            bandwidth: 0.05,
            ste_to_input: false,
        }
    }
}

/// The gradients of a part at what the thresholds are compared with, and at the thresholds.
pub(super) struct JumpGradients {
    /// Where the support is.
    pub(super) grad_pre: Tensor,
    /// `[num_latents]`.
    pub(super) threshold: Tensor,
}

/// What pre-activations above a threshold are.
pub(super) struct Jumped {
    pub(super) acts: Tensor,
    pub(super) are_active: Tensor,
}

/// Thresholds as they are applied: one below 0 acts as 0, and has the gradient of 0.
pub(crate) fn applied(threshold: &Tensor) -> Result<Tensor, TchError> {
    threshold.f_clamp_min(0.0)
}

impl Jump {
    /// What pre-activations have to be above to take part: `[num_latents]`.
    pub(super) fn bounds(self, threshold: &Tensor) -> Result<Tensor, TchError> {
        applied(threshold)?.f_sub_scalar(self.bandwidth / 2.0)
    }

    pub(super) fn acts(
        support: &Support,
        pre_acts: &Tensor,
        threshold: &Tensor,
    ) -> Result<Jumped, TchError> {
        let threshold = support.at_latents(&applied(threshold)?)?;
        let is_idle = pre_acts.f_le_tensor(&threshold)?;
        Ok(Jumped {
            acts: pre_acts.f_masked_fill(&is_idle, 0.0)?,
            are_active: is_idle.f_logical_not()?,
        })
    }

    /// `grad_acts`: the gradient at the activations, of the penalty, too.
    pub(super) fn gradients(
        self,
        support: &Support,
        (pre_acts, threshold): (&Tensor, &Tensor),
        (grad_acts, penalty): (&Tensor, &PenaltyTerm),
    ) -> Result<JumpGradients, SaeError> {
        let at = support.at_latents(&applied(threshold)?)?;
        let beyond = pre_acts.f_sub(&at)?;
        let is_active = beyond.f_gt(0.0)?.f_to_kind(Kind::Float)?;
        let is_near = beyond.f_abs()?.f_lt(self.bandwidth / 2.0)?;
        let mut slope = grad_acts.f_mul(&at)?;
        if let Some(at_counts) = &penalty.at_counts {
            slope = slope.f_add(&support.at_tokens(at_counts)?)?;
        }
        let estimated = slope.f_mul(&is_near.f_to_kind(Kind::Float)?)?;
        let estimated = estimated.f_div_scalar(self.bandwidth)?;
        let mut grad_pre = grad_acts.f_mul(&is_active)?;
        if self.ste_to_input {
            grad_pre = grad_pre.f_add(&estimated)?;
        }
        let sums = support.sums_by_latent(&estimated, threshold.size()[0])?;
        Ok(JumpGradients {
            grad_pre,
            threshold: sums.f_neg()?,
        })
    }
}
