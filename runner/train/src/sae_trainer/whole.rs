//! What is decided on all tokens of an update before it has a gradient: the latents of BatchTopK, the mean L0, and what
//! is left over for dead latents. So none depends on how the update is cut into forward passes, parts and ranks.

use super::SaeTrainer;
use super::memory::in_parts_that_fit;
use crate::TrainError;
use crate::activations::row_sum::RowSum;
use crate::ranks::Ranks;
use plan::K;
use sae::{AuxK, BatchLatents, BatchSearch, Moments, Objective, TotalVariance};
use tch::{Device, Kind, Tensor};

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
    /// The least score that was chosen: scalar, Float; infinity if none was.
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
        let search = BatchSearch {
            n_wanted: n_in_update.map_or(usize::MAX, |n| wanted(k, n)),
            least: if is_all && n_parts == 1 {
                HINT * trainer.last_least
            } else {
                0.0
            },
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
            let least = self.least(n_wanted, (label, ranks))?;
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

    /// The least score of those that are chosen.
    fn least(
        &self,
        n_wanted: usize,
        (label, ranks): (&str, &dyn Ranks),
    ) -> Result<Tensor, TrainError> {
        let latents = self.parts.iter().filter_map(|part| part.latents.as_ref());
        let scores: Vec<&Tensor> = latents.map(BatchLatents::scores).collect();
        match ranks.number() {
            1 => Ok(BatchLatents::least_of(&scores, n_wanted)?),
            _ => least_of_all_ranks(&scores, n_wanted, (label, ranks)),
        }
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

/// Bits of a positive number that each round of the search looks at, from the highest on.
const ROUNDS: [u32; 3] = [11, 11, 10];

/// As [`BatchLatents::least_of`], of the scores of all ranks: what they send each other is how many scores there are in
/// each of some thousand ranges.
fn least_of_all_ranks(
    scores: &[&Tensor],
    n: usize,
    (label, ranks): (&str, &dyn Ranks),
) -> Result<Tensor, TrainError> {
    let mut bits: Vec<u32> = Vec::new();
    for scores in scores {
        let scores = Vec::<f32>::try_from(scores.f_to_device(Device::Cpu)?)?;
        bits.extend(
            scores
                .into_iter()
                .filter(|score| *score > 0.0)
                .map(f32::to_bits),
        );
    }
    let (mut prefix, mut n_left) = (0u32, n as i64);
    let mut shift = u32::BITS;
    for n_bits in ROUNDS {
        shift -= n_bits;
        let mut counts = vec![0i64; 1 << n_bits];
        let mask = (1u32 << n_bits) - 1;
        for bits in bits
            .iter()
            .filter(|bits| u64::from(**bits) >> (shift + n_bits) == u64::from(prefix))
        {
            counts[(bits >> shift & mask) as usize] += 1;
        }
        let of_ranks = ranks.gather(&format!("scores of {label}"), &counts)?;
        let all = |idx: usize| of_ranks.iter().map(|counts| counts[idx]).sum::<i64>();
        let totals: Vec<i64> = (0..counts.len()).map(all).collect();
        // Fewer than are wanted: the least of them.
        n_left = n_left.min(totals.iter().sum());
        if n_left == 0 {
            return Ok(Tensor::from(f32::INFINITY));
        }
        let mut n_above = 0;
        let found = (0..counts.len()).rev().find(|idx| {
            n_above += totals[*idx];
            n_above >= n_left
        });
        let found = found.expect("there are as many");
        n_left -= n_above - totals[found];
        prefix = prefix << n_bits | found as u32;
    }
    Ok(Tensor::from(f32::from_bits(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::ALONE;

    #[test]
    fn the_least_by_counting_is_that_by_sorting() {
        let numbers: Vec<f32> = (0..500).map(|idx| (idx as f32 * 1.7).sin() * 3.0).collect();
        let parts = [
            Tensor::from_slice(&numbers[..100]),
            Tensor::from_slice(&numbers[100..]),
        ];
        let n_positive = numbers.iter().filter(|number| **number > 0.0).count();
        for n in [1, 2, 57, n_positive, 400, 10_000] {
            let counted = least_of_all_ranks(&[&parts[0], &parts[1]], n, ("x", ALONE)).unwrap();
            let sorted = BatchLatents::least_of(&[&parts[0], &parts[1]], n).unwrap();
            assert!(counted.equal(&sorted), "{n}: {counted:?} {sorted:?}");
        }
        let none = [Tensor::from_slice(&[-1.0f32, 0.0])];
        let least = least_of_all_ranks(&[&none[0]], 3, ("x", ALONE)).unwrap();
        assert_eq!(least.double_value(&[]), f64::INFINITY);
    }
}
