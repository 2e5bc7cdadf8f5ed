//! Penalties on latents that are active: what is added to the squared error, so that few are.
//!
//! With `a = f n` for a latent's activation `f` and the norm `n` of its decoder row, and `L0` of a token:
//!
//! ```text
//! power      lambda sum a^p, or its p-th root by token                  ReLU, Gated; p = 1: L1
//! tanh       lambda sum tanh(c a)                                       JumpReLU (Anthropic, January 2025)
//! count      lambda L0                                                  JumpReLU (Rajamanoharan et al. 2024)
//! quadratic  lambda (2 / target) (L0 - target)^2                        JumpReLU (Gemma Scope 2)
//! ```

use crate::SaeError;
use crate::support::Support;
use tch::{Kind, TchError, Tensor};

/// A penalty with its coefficient, as it is in this update.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Penalty<'a> {
    /// Nothing is added.
    #[default]
    None,
    /// `sum a^p` over the latents of a token.
    Power {
        /// lambda.
        coefficient: f64,
        /// The power.
        p: f64,
        /// Whether its `p`-th root is taken.
        is_norm: bool,
        /// Whether `a` is `f n`, and not `f`.
        is_scaled: bool,
        /// The next power, if the sums with both are wanted.
        next_p: Option<f64>,
    },
    /// `sum tanh(scale a)`.
    Tanh {
        /// lambda.
        coefficient: f64,
        /// c.
        scale: f64,
    },
    /// L0.
    Count {
        /// lambda.
        coefficient: f64,
    },
    /// `(2 / target) (L0 - target)^2`.
    Quadratic {
        /// lambda.
        coefficient: f64,
        /// The number of active latents that is wanted of each token.
        target: f64,
    },
    /// `(L0 / target - 1)^2` of the mean L0 of an update.
    MeanQuadratic {
        /// lambda.
        coefficient: f64,
        /// The number of active latents that is wanted on average.
        target: f64,
        /// The mean of the update: scalar, Float.
        mean_l0: &'a Tensor,
    },
}

/// Where the penalty is computed.
pub(super) struct Active<'a> {
    pub(super) support: &'a Support,
    /// Activations, 0 where a latent is not active.
    pub(super) acts: &'a Tensor,
    /// Which are active: Bool.
    pub(super) are_active: &'a Tensor,
    /// Norms of the decoder's rows: `[num_latents]`.
    pub(super) norms: &'a Tensor,
}

/// What a penalty gives, with its coefficient.
#[derive(Default)]
pub(super) struct PenaltyTerm {
    /// Scalar, Double.
    pub(super) loss: Option<Tensor>,
    /// Its gradient at the activations, where the support is.
    pub(super) at_acts: Option<Tensor>,
    /// Its gradient at the number of active latents: `[n_tokens]`.
    pub(super) at_counts: Option<Tensor>,
    /// Its gradient at the norms of the decoder's rows: `[num_latents]`.
    pub(super) at_norms: Option<Tensor>,
    /// The sums with a power and the next one, without a coefficient: `[2]`, Double.
    pub(super) powers: Option<Tensor>,
}

impl Penalty<'_> {
    /// Whether it depends on the decoder's rows.
    pub(super) fn is_on_rows(self) -> bool {
        match self {
            Self::None
            | Self::Count { .. }
            | Self::Quadratic { .. }
            | Self::MeanQuadratic { .. } => false,
            Self::Power { is_scaled, .. } => is_scaled,
            Self::Tanh { .. } => true,
        }
    }

    /// The penalty on the latents of some tokens.
    pub(super) fn term(self, active: &Active<'_>) -> Result<PenaltyTerm, SaeError> {
        Ok(match self {
            Self::None => PenaltyTerm::default(),
            Self::Power {
                coefficient,
                p,
                is_norm,
                is_scaled,
                next_p,
            } => {
                let scaled = if is_scaled {
                    active.scaled()?
                } else {
                    active.acts.shallow_clone()
                };
                let (sum, at_acts) = power(active, &scaled, (p, is_norm))?;
                let powers = match next_p {
                    None => None,
                    Some(next_p) => {
                        let (next, _) = power(active, &scaled, (next_p, is_norm))?;
                        Some(Tensor::f_stack(&[&sum, &next], 0)?)
                    }
                };
                let at_acts = at_acts.f_mul_scalar(coefficient)?;
                let (at_acts, at_norms) = if is_scaled {
                    let (at_acts, at_norms) = active.chain(&at_acts)?;
                    (at_acts, Some(at_norms))
                } else {
                    (at_acts, None)
                };
                PenaltyTerm {
                    loss: Some(sum.f_mul_scalar(coefficient)?),
                    at_acts: Some(at_acts),
                    at_norms,
                    powers,
                    ..PenaltyTerm::default()
                }
            }
            Self::Tanh { coefficient, scale } => tanh(active, coefficient, scale)?,
            Self::Count { coefficient } => {
                let counts = active.counts()?;
                PenaltyTerm {
                    loss: Some(sum(&counts)?.f_mul_scalar(coefficient)?),
                    at_counts: Some(counts.f_full_like(coefficient)?),
                    ..PenaltyTerm::default()
                }
            }
            Self::Quadratic {
                coefficient,
                target,
            } => {
                let over = active.counts()?.f_sub_scalar(target)?;
                PenaltyTerm {
                    loss: Some(sum(&over.f_square()?)?.f_mul_scalar(2.0 * coefficient / target)?),
                    at_counts: Some(over.f_mul_scalar(4.0 * coefficient / target)?),
                    ..PenaltyTerm::default()
                }
            }
            Self::MeanQuadratic {
                coefficient,
                target,
                mean_l0,
            } => {
                let counts = active.counts()?;
                let over = mean_l0.f_div_scalar(target)?.f_sub_scalar(1.0)?;
                let n_tokens = counts.size()[0] as f64;
                let loss = over.f_square()?.f_to_kind(Kind::Double)?;
                let slope = over.f_mul_scalar(2.0 * coefficient / target)?;
                PenaltyTerm {
                    loss: Some(loss.f_mul_scalar(coefficient * n_tokens)?),
                    at_counts: Some(slope.f_expand_as(&counts)?),
                    ..PenaltyTerm::default()
                }
            }
        })
    }
}

impl Active<'_> {
    /// Active latents of each token: `[n_tokens]`, Float.
    fn counts(&self) -> Result<Tensor, TchError> {
        let ones = self.are_active.f_to_kind(Kind::Float)?;
        self.support.sums_by_token(&ones, self.norms.size()[0])
    }

    /// `f n`.
    fn scaled(&self) -> Result<Tensor, TchError> {
        self.acts.f_mul(&self.support.at_latents(self.norms)?)
    }

    /// What `at_scaled`, the gradient at `a = f n`, is at `f` and at `n`.
    fn chain(&self, at_scaled: &Tensor) -> Result<(Tensor, Tensor), TchError> {
        let at_acts = at_scaled.f_mul(&self.support.at_latents(self.norms)?)?;
        let at_norms = at_scaled.f_mul(self.acts)?;
        let at_norms = self
            .support
            .sums_by_latent(&at_norms, self.norms.size()[0])?;
        Ok((at_acts, at_norms))
    }
}

/// The sum of a power of `scaled`, or of its root by token, and the gradient of that.
fn power(
    active: &Active<'_>,
    scaled: &Tensor,
    (p, is_norm): (f64, bool),
) -> Result<(Tensor, Tensor), SaeError> {
    let is_active = active.are_active.f_to_kind(Kind::Float)?;
    // Of latents that are not active, whose slope may be infinite, nothing is taken.
    let safe = scaled.f_masked_fill(&active.are_active.f_logical_not()?, 1.0)?;
    let powers = safe.f_pow_tensor_scalar(p)?.f_mul(&is_active)?;
    let slopes = safe.f_pow_tensor_scalar(p - 1.0)?.f_mul(&is_active)?;
    if !is_norm {
        return Ok((sum(&powers)?, slopes.f_mul_scalar(p)?));
    }
    let sums = active
        .support
        .sums_by_token(&powers, active.norms.size()[0])?;
    let has_any = sums.f_gt(0.0)?.f_to_kind(Kind::Float)?;
    let sums = sums.f_add(&has_any.f_neg()?.f_add_scalar(1.0)?)?;
    let norms = sums.f_pow_tensor_scalar(1.0 / p)?.f_mul(&has_any)?;
    let outer = sums.f_pow_tensor_scalar(1.0 / p - 1.0)?;
    Ok((
        sum(&norms)?,
        slopes.f_mul(&active.support.at_tokens(&outer)?)?,
    ))
}

fn tanh(active: &Active<'_>, coefficient: f64, scale: f64) -> Result<PenaltyTerm, SaeError> {
    let scaled = active
        .acts
        .f_mul(&active.support.at_latents(active.norms)?)?;
    let tanh = scaled.f_mul_scalar(scale)?.f_tanh()?;
    let slopes = tanh.f_square()?.f_neg()?.f_add_scalar(1.0)?;
    let (at_acts, at_norms) = active.chain(&slopes.f_mul_scalar(coefficient * scale)?)?;
    Ok(PenaltyTerm {
        loss: Some(sum(&tanh)?.f_mul_scalar(coefficient)?),
        at_acts: Some(at_acts),
        at_norms: Some(at_norms),
        ..PenaltyTerm::default()
    })
}

fn sum(x: &Tensor) -> Result<Tensor, TchError> {
    x.f_sum(Kind::Double)
}
