//! What training minimises at one hookpoint: the squared error, and terms besides it, one small file each.
//!
//! All terms are sums over tokens; divided by the total variance of an update they are
//! `fvu + auxk_alpha * auxk + multi_topk / 8`.

mod auxk;
mod batch;
mod decoupled;
mod gated;
mod general;
mod hierarchical;
mod jump;
mod latents;
mod layers;
mod multi_topk;
mod penalty;
mod pre_act;
mod room;

use crate::gradient::{Part, Reaches};
use crate::{Gate, Gradients, Sae, SaeError};
use tch::{Kind, Tensor};

pub use auxk::AuxK;
pub use batch::{BatchLatents, BatchSearch};
pub use jump::Jump;
pub use layers::LayerPass;
pub use penalty::Penalty;
pub use pre_act::PreActLoss;
pub use room::room_for;

/// What is minimised.
#[derive(Clone, Copy, Debug)]
pub struct Objective<'a> {
    /// Active latents of a token.
    pub k: usize,
    /// Let dead latents predict what the others leave over.
    pub auxk: Option<AuxK<'a>>,
    /// Add the error of the reconstruction from the `4 * k` largest latents, or all if there are
    /// fewer.
    pub multi_topk: bool,
    /// [`Sae::rounded_encoder`], to find the latents by; `None`: the encoder itself.
    pub rounded_encoder: Option<&'a Tensor>,
    /// Reconstructions from the first latents alone, and from all, whose squared errors are added up (Matryoshka SAEs,
    /// Bussmann et al. 2025, arXiv:2503.17547); the ends rise to the number of latents. Empty: from all.
    pub nesting: &'a [Level],
    /// A reconstruction from each token's 1, 2, ..., k largest latents, and the mean of their squared errors.
    pub is_hierarchical: bool,
    /// Latents that were chosen among those of all tokens of the update; `None`: as the SAE chooses them.
    pub chosen: Option<&'a BatchLatents>,
    /// Whether pre-activations times the norms of the decoder's rows decide between latents.
    pub rescales: bool,
    /// On active latents.
    pub penalty: Penalty<'a>,
    /// How thresholds are trained.
    pub jump: Jump,
    /// For how many latents of a token, on average, a list of those near thresholds has room on a GPU: [`room_for`].
    /// `None`: none is made there.
    pub room: Option<usize>,
    /// Raises pre-activations below thresholds.
    pub pre_act_loss: Option<PreActLoss<'a>>,
    /// Whether a gated SAE's second reconstruction leaves the decoder alone, as in its paper.
    pub gate_is_detached: bool,
}

/// A reconstruction from the first latents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// It is made of the latents below this one.
    pub end: usize,
    /// Weight of its squared error.
    pub weight: f64,
}

impl Level {
    /// All latents.
    pub(crate) fn all(num_latents: usize) -> Self {
        Self {
            end: num_latents,
            weight: 1.0,
        }
    }
}

/// The terms of the loss: scalars, Double; without their weights.
#[derive(Debug)]
pub struct Losses {
    /// `sum |sae_out - target|^2`.
    pub squared_error: Tensor,
    /// `min(n_dead / (d_out / 2), 1)` times the squared error of the dead latents' prediction;
    /// `None` if it is not part of the loss, or no latent may be dead.
    pub auxk: Option<Tensor>,
    /// The squared error of `4 * k` latents.
    pub multi_topk: Option<Tensor>,
    /// The weighted sum of the squared errors of all nested reconstructions, that of all latents among them.
    pub nested: Option<Tensor>,
    /// The penalties on latents, with their coefficients.
    pub sparsity: Option<Tensor>,
    /// Of [`Penalty::Power`], the sums with the power and the next one: `[2]`.
    pub powers: Option<Tensor>,
    /// On a device, how many latents of tokens were near thresholds: scalar, Double.
    pub near: Option<Tensor>,
}

/// What [`Sae::backward`] gives; all on the input's device, nothing is waited for.
#[derive(Debug)]
pub struct Backward {
    /// Gradients of the weighted sum of the terms.
    pub gradients: Gradients,
    /// The terms.
    pub losses: Losses,
    /// How many tokens each latent fired on: `[num_latents]`, Float. "Fired" is activation > 0.
    pub fire_counts: Tensor,
}

impl Backward {
    /// All-zero sums for `sae`, of no token.
    ///
    /// # Errors
    /// Too little memory.
    pub fn zeros(sae: &Sae) -> Result<Self, SaeError> {
        let zero = Tensor::f_zeros([0i64; 0], (Kind::Double, sae.b_dec.device()))?;
        Ok(Self {
            gradients: Gradients {
                encoder_weight: sae.encoder_weight.f_zeros_like()?,
                encoder_bias: sae.encoder_bias.f_zeros_like()?,
                w_dec: sae.w_dec.f_zeros_like()?,
                b_dec: sae.b_dec.f_zeros_like()?,
                w_skip: sae.w_skip.as_ref().map(Tensor::f_zeros_like).transpose()?,
                threshold: sae
                    .threshold
                    .as_ref()
                    .map(Tensor::f_zeros_like)
                    .transpose()?,
                gate: match &sae.gate {
                    None => None,
                    Some(gate) => Some(Gate {
                        b_mag: gate.b_mag.f_zeros_like()?,
                        r_mag: gate.r_mag.f_zeros_like()?,
                    }),
                },
            },
            losses: Losses::squared_error(zero),
            fire_counts: sae.encoder_bias.f_zeros_like()?,
        })
    }

    /// Adds another part of the same batch.
    ///
    /// # Errors
    /// Too little memory.
    pub fn add(&mut self, part: &Self) -> Result<(), SaeError> {
        self.gradients.add(&part.gradients)?;
        self.losses.add(&part.losses)?;
        let _ = self.fire_counts.f_add_(&part.fire_counts)?;
        Ok(())
    }
}

impl Losses {
    /// Without other terms.
    pub fn squared_error(squared_error: Tensor) -> Self {
        Self {
            squared_error,
            auxk: None,
            multi_topk: None,
            nested: None,
            sparsity: None,
            powers: None,
            near: None,
        }
    }

    /// Adds another part of the same batch.
    ///
    /// # Errors
    /// Too little memory.
    pub fn add(&mut self, part: &Self) -> Result<(), SaeError> {
        let _ = self.squared_error.f_add_(&part.squared_error)?;
        for (sum, part) in [
            (&mut self.auxk, &part.auxk),
            (&mut self.multi_topk, &part.multi_topk),
            (&mut self.nested, &part.nested),
            (&mut self.sparsity, &part.sparsity),
            (&mut self.powers, &part.powers),
            (&mut self.near, &part.near),
        ] {
            if let (Some(sum), Some(part)) = (sum, part) {
                let _ = sum.f_add_(part)?;
            }
        }
        Ok(())
    }
}

impl Objective<'_> {
    /// The squared error alone, with `k` active latents.
    pub fn squared_error(k: usize) -> Self {
        Self {
            k,
            auxk: None,
            multi_topk: false,
            rounded_encoder: None,
            nesting: &[],
            is_hierarchical: false,
            chosen: None,
            rescales: false,
            penalty: Penalty::None,
            jump: Jump::default(),
            room: None,
            pre_act_loss: None,
            gate_is_detached: true,
        }
    }

    /// Whether no term besides has gradients of the decoder's rows: AuxK has no term if no latent may be dead.
    pub(crate) fn is_squared_error(&self) -> bool {
        let has_auxk = self.auxk.is_some_and(|term| term.candidates.size()[0] > 0);
        !has_auxk && !self.multi_topk && self.pre_act_loss.is_none() && !self.penalty.is_on_rows()
    }
}

impl Sae {
    /// Whether latents are chosen by token, and there is one reconstruction of them.
    pub(crate) fn is_plain(&self, objective: &Objective<'_>) -> bool {
        let is_chosen_by_token = objective.chosen.is_none() && !objective.rescales;
        let is_nested = !objective.nesting.is_empty() || objective.is_hierarchical;
        self.cfg.activation.has_k() && is_chosen_by_token && !is_nested
    }

    /// Forward and backward pass on `x`: `[n_tokens, d_in]`, with `target`: `[n_tokens, d_out]`,
    /// which an autoencoder's input is itself; Float.
    ///
    /// # Errors
    /// Other shapes, or too little memory.
    pub fn backward(
        &self,
        x: &Tensor,
        target: &Tensor,
        objective: &Objective<'_>,
    ) -> Result<Backward, SaeError> {
        self.check_target(target)?;
        if !self.is_plain(objective) {
            return self.general_backward((x, target), objective);
        }
        if let Some(backward) = self.sparse_backward(x, target, objective)? {
            return backward.dense();
        }
        let (pass, pre_acts) =
            self.pass_with_pre_acts(x, objective.k, objective.rounded_encoder)?;
        let error = pass.sae_out.f_sub(target)?;
        let part = Part {
            encoded: &pass.encoded,
            grad_out: &error.f_mul_scalar(2.0)?,
            reaches: Reaches::Positive,
            is_whole: true,
        };
        let mut gradients = self.part_gradients(pass.input(), &part)?.gradients;
        let fire_counts = self.fire_counts(&pass.encoded)?;
        let mut auxk = None;
        if let Some(term) = objective.auxk {
            let term = self.auxk(pass.input(), &error, (term, &fire_counts), |dead| {
                pre_acts.of(dead)
            })?;
            auxk = term.map(|term| term.add_to(&mut gradients)).transpose()?;
        }
        let mut multi_topk = None;
        if objective.multi_topk {
            let term = self.multi_topk(&pass, &pre_acts, target, objective.k)?;
            multi_topk = Some(term.add_to(&mut gradients)?);
        }
        Ok(Backward {
            gradients,
            losses: Losses {
                auxk,
                multi_topk,
                ..Losses::squared_error(sum_of_squares(&error)?)
            },
            fire_counts,
        })
    }
}

/// A term of the loss besides the squared error. A further one is a file with a function that gives it.
struct Term {
    /// With its weight.
    gradients: Gradients,
    /// Without its weight.
    loss: Tensor,
}

impl Term {
    fn add_to(self, gradients: &mut Gradients) -> Result<Tensor, SaeError> {
        gradients.add(&self.gradients)?;
        Ok(self.loss)
    }
}

/// In Double: single squares of large activations fit no 16 bit, and their sum no 32.
fn sum_of_squares(x: &Tensor) -> Result<Tensor, SaeError> {
    Ok(x.f_square()?.f_sum(Kind::Double)?)
}

#[cfg(test)]
mod decoupled_tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod tests;
