//! What is decided on all tokens of an update before it has a gradient: the latents of BatchTopK, the mean L0, and what
//! is left over for dead latents. So none depends on how the update is cut into forward passes, parts and ranks.

use super::SaeTrainer;
use super::memory::in_parts_that_fit;
use crate::TrainError;
use crate::activations::row_sum::RowSum;
use crate::ranks::Ranks;
use plan::K;
use sae::{AuxK, BatchLatents, BatchSearch, Moments, Objective, TotalVariance, least_scores};
use tch::{Kind, Tensor};

/// The next update's least score is looked for from this part of the last one's on.
const HINT: f32 = 0.9;

/// Parts of an update that wait for the others.
#[derive(Debug, Default)]
pub(super) struct Held {
    parts: Vec<HeldPart>,
}

/// Tokens, with what is known of them.
#[derive(Debug)]
pub(crate) struct HeldPart {
    pub(crate) x: Tensor,
    pub(crate) target: Tensor,
    /// If latents are chosen among those of all tokens.
    pub(crate) latents: Option<BatchLatents>,
}

/// What was decided.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// The least score that was chosen: Float, a scalar, or one for each hookpoint; infinity if none was.
    pub(super) least: Option<Tensor>,
    /// Scalar, Float.
    pub(super) mean_l0: Option<Tensor>,
    /// On how many tokens each latent fired: `[num_latents]`.
    pub(super) fire_counts: Option<Tensor>,
    /// [`AuxK::scale_of_residual`]: scalar, Double.
    pub(super) residual_scale: Option<Tensor>,
}

impl Held {
    /// Takes tokens of an update, of which there are `n_in_update` at most; `None`: that is not known.
    pub(super) fn add(
        &mut self,
        trainer: &mut SaeTrainer,
        (x, target): (&Tensor, &Tensor),
        (k, n_in_update): (f64, Option<u64>),
    ) -> Result<(), TrainError> {
        let n_tokens = x.size()[0];
        let is_all = self.parts.is_empty() && n_in_update == Some(n_tokens.cast_unsigned());
        let mut n_parts = trainer.micro_acc_steps;
        let hints: Vec<f32> = if is_all && n_parts == 1 {
            trainer
                .last_least
                .iter()
                .map(|least| HINT * least)
                .collect()
        } else {
            Vec::new()
        };
        let search = BatchSearch {
            n_wanted: n_in_update.map_or(usize::MAX, |n| wanted(k, n)),
            least: &hints,
            rescales: trainer.kind.rescales,
        };
        let (sae, parts) = (&trainer.sae, &mut self.parts);
        let chooses = trainer.kind.is_of_batch();
        in_parts_that_fit(n_tokens, &mut n_parts, |first, n| {
            let x = x.f_narrow(0, first, n)?;
            let latents = chooses.then(|| sae.batch_latents(&x, search)).transpose()?;
            parts.push(HeldPart {
                target: target.f_narrow(0, first, n)?,
                x,
                latents,
            });
            Ok(())
        })?;
        trainer.micro_acc_steps = n_parts;
        Ok(())
    }

    /// Decides for the tokens of all ranks, `k` latents for each; gives the parts with the latents that were chosen.
    pub(super) fn decide(
        mut self,
        trainer: &SaeTrainer,
        k: K,
        ranks: &dyn Ranks,
    ) -> Result<(Decided, Vec<HeldPart>), TrainError> {
        let label = &trainer.label;
        let ours: i64 = self.parts.iter().map(|part| part.x.size()[0]).sum();
        let of_ranks = ranks.gather(&format!("tokens of {label}"), &[ours])?;
        let of_ranks: Vec<u64> = of_ranks.iter().map(|n| n[0].cast_unsigned()).collect();
        let n_tokens: u64 = of_ranks.iter().sum();
        let mut decided = Decided::default();
        if n_tokens == 0 {
            return Ok((decided, Vec::new()));
        }
        if trainer.kind.is_of_batch() {
            let n_wanted = wanted(k.mean(), n_tokens);
            let n_sets = trainer.sae.cfg.n_active_sets();
            let least = self.least((n_sets, n_wanted), (label, ranks))?;
            let least = if trainer.sae.cfg.is_decoupled() {
                least
            } else {
                least.f_squeeze()?
            };
            let least = least.f_to_device(trainer.sae.b_dec.device())?;
            for part in &mut self.parts {
                let latents = part.latents.take();
                part.latents = latents
                    .map(|latents| latents.at_least(&least))
                    .transpose()?;
            }
            decided.least = Some(least);
        }
        let is_in_one = self.parts.len() == 1 && ranks.number() == 1;
        let needs_residual = trainer.needs_residual() && !is_in_one;
        if needs_residual || trainer.kind.needs_mean_l0() {
            let (fire_counts, residual) = self.outcome(trainer, k)?;
            let ours = RowSum {
                sum: fire_counts,
                n_rows: 1,
            };
            let fire_counts = ranks.sum_of_rows(&ours)?.sum;
            if needs_residual {
                let name = format!("residual of {label}");
                let residual = ranks.merge_moments(&name, residual, &of_ranks)?;
                decided.residual_scale = Some(AuxK::scale_of_residual(&residual)?);
            }
            let mean_l0 = fire_counts
                .f_sum(Kind::Double)?
                .f_div_scalar(n_tokens as f64)?;
            decided.mean_l0 = Some(mean_l0.f_to_kind(Kind::Float)?);
            decided.fire_counts = Some(fire_counts);
        }
        Ok((decided, self.parts))
    }

    /// The least score of those that are chosen, in each set: `[n_sets]`.
    fn least(
        &self,
        (n_sets, n_wanted): (usize, usize),
        (label, ranks): (&str, &dyn Ranks),
    ) -> Result<Tensor, TrainError> {
        let of_set = |set: usize| {
            let latents = self.parts.iter().filter_map(|part| part.latents.as_ref());
            latents.map(|latents| latents.scores(set)).collect()
        };
        let scores: Vec<Vec<&Tensor>> = (0..n_sets).map(of_set).collect();
        if ranks.number() > 1 {
            let name = format!("scores of {label}");
            let least = least_scores(&scores, n_wanted, |counts| ranks.gather(&name, counts))?;
            return Ok(Tensor::from_slice(&least));
        }
        let least = scores
            .iter()
            .map(|scores| BatchLatents::least_of(scores, n_wanted));
        Ok(Tensor::f_stack(&least.collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// On how many tokens here each latent fires: `[num_latents]`, Double; and the moments of the errors.
    fn outcome(&self, trainer: &SaeTrainer, k: K) -> Result<(Tensor, Moments), TrainError> {
        let (sae, kind) = (&trainer.sae, &trainer.kind);
        let mut sum = sae.encoder_bias.f_zeros_like()?.f_to_kind(Kind::Double)?;
        let mut errors = TotalVariance::default();
        errors.add(&sae.b_dec.f_unsqueeze(0)?.f_narrow(0, 0, 0)?)?;
        for HeldPart { x, target, latents } in &self.parts {
            let objective = Objective {
                chosen: latents.as_ref(),
                rescales: kind.rescales,
                is_hierarchical: kind.is_hierarchical,
                jump: kind.jump,
                ..Objective::squared_error(k.count())
            };
            let (error, fire_counts) = sae.error_and_fire_counts((x, target), &objective)?;
            sum = sum.f_add(&fire_counts)?;
            errors.add(&error)?;
        }
        Ok((sum, errors.into_moments()))
    }
}

/// Latents of `n_tokens` tokens together.
fn wanted(k: f64, n_tokens: u64) -> usize {
    ((k * n_tokens as f64) as usize).max(1)
}
