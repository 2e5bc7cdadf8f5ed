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
            return least_of_all_ranks(&scores, n_wanted, (label, ranks));
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

/// Bits of a positive number that each round of the search looks at, from the highest on.
const ROUNDS: [u32; 3] = [11, 11, 10];

/// As [`BatchLatents::least_of`], of the scores of all ranks in each set: `[n_sets]`. What they send each other is how
/// many scores there are in each of some thousand ranges.
fn least_of_all_ranks(
    sets: &[Vec<&Tensor>],
    n: usize,
    (label, ranks): (&str, &dyn Ranks),
) -> Result<Tensor, TrainError> {
    let searches = sets.iter().map(|scores| BitSearch::new(scores, n));
    let mut searches = searches.collect::<Result<Vec<_>, _>>()?;
    let mut shift = u32::BITS;
    for n_bits in ROUNDS {
        shift -= n_bits;
        let counts = searches.iter().flat_map(|own| own.counts(shift, n_bits));
        let counts: Vec<i64> = counts.collect();
        let of_ranks = ranks.gather(&format!("scores of {label}"), &counts)?;
        let all = |idx: usize| of_ranks.iter().map(|counts| counts[idx]).sum::<i64>();
        let totals: Vec<i64> = (0..counts.len()).map(all).collect();
        for (search, totals) in searches.iter_mut().zip(totals.chunks(1 << n_bits)) {
            search.note(totals, n_bits);
        }
    }
    let least: Vec<f32> = searches.iter().map(BitSearch::found).collect();
    Ok(Tensor::from_slice(&least))
}

/// The search for the `n`-th largest of positive numbers, of which each rank has some.
struct BitSearch {
    /// Of the numbers here.
    bits: Vec<u32>,
    /// The highest bits of the number, as far as they are known.
    prefix: u32,
    /// It is the one of this place among those that begin so; 0: no rank has any.
    n_left: i64,
}

impl BitSearch {
    fn new(scores: &[&Tensor], n: usize) -> Result<Self, TrainError> {
        let mut bits = Vec::new();
        for scores in scores {
            let scores = Vec::<f32>::try_from(scores.f_to_device(Device::Cpu)?)?;
            let positive = scores.into_iter().filter(|score| *score > 0.0);
            bits.extend(positive.map(f32::to_bits));
        }
        Ok(Self {
            bits,
            prefix: 0,
            n_left: n as i64,
        })
    }

    /// How many of the numbers here begin as is known, by the next `n_bits`, after which `shift` are left.
    fn counts(&self, shift: u32, n_bits: u32) -> Vec<i64> {
        let mut counts = vec![0i64; 1 << n_bits];
        let mask = (1u32 << n_bits) - 1;
        let known = u64::from(self.prefix);
        for bits in &self.bits {
            if u64::from(*bits) >> (shift + n_bits) == known {
                counts[(bits >> shift & mask) as usize] += 1;
            }
        }
        counts
    }

    /// `totals`: those counts of all ranks.
    fn note(&mut self, totals: &[i64], n_bits: u32) {
        // Fewer than are wanted: the least of them.
        self.n_left = self.n_left.min(totals.iter().sum());
        if self.n_left == 0 {
            return;
        }
        let mut n_above = 0;
        let found = (0..totals.len()).rev().find(|idx| {
            n_above += totals[*idx];
            n_above >= self.n_left
        });
        let found = found.expect("there are as many");
        self.n_left -= n_above - totals[found];
        self.prefix = self.prefix << n_bits | found as u32;
    }

    /// Infinity if no rank has any.
    fn found(&self) -> f32 {
        if self.n_left == 0 {
            f32::INFINITY
        } else {
            f32::from_bits(self.prefix)
        }
    }
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
            let sets = [vec![&parts[0], &parts[1]], vec![&parts[1]], Vec::new()];
            let counted = least_of_all_ranks(&sets, n, ("x", ALONE)).unwrap();
            for (set, scores) in (0..).zip(&sets[..2]) {
                let sorted = BatchLatents::least_of(scores, n).unwrap();
                assert!(
                    counted.get(set).equal(&sorted),
                    "{n}: {counted:?} {sorted:?}"
                );
            }
            assert_eq!(counted.double_value(&[2]), f64::INFINITY);
        }
        let none = [Tensor::from_slice(&[-1.0f32, 0.0])];
        let least = least_of_all_ranks(&[vec![&none[0]]], 3, ("x", ALONE)).unwrap();
        assert_eq!(least.double_value(&[0]), f64::INFINITY);
    }
}
