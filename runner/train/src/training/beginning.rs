//! What fresh SAEs take from the first tokens of training: how activations are scaled, and where biases begin.

use super::job_trainer::JobTrainer;
use super::{StreamTrainer, jobs_at};
use crate::TrainError;
use crate::activations::row_sum::RowSum;
use crate::activations::views::View;
use crate::ranks::exchange::Exchange;
use crate::sae_trainer::SaeTrainer;
use crate::sae_trainer::scaling::{Statistics, affine};
use fault::Fault;
use plan::NormalizeActivations;
use sae::Affine;
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

/// Activations, and whether they come from all ranks.
type Source = (bool, View);

/// What a scaling is estimated on: how, and on how many tokens.
type Estimate = (Source, (NormalizeActivations, u64));

/// What was seen of activations.
struct Seen {
    sum: Option<RowSum>,
    /// All of them, if a mean does not do.
    rows: Vec<Tensor>,
    is_kept: bool,
}

impl StreamTrainer<'_> {
    /// Before the first update: looks at tokens ahead, for those SAEs that need it. The passes are made again.
    /// `false`: a stop was asked for meanwhile, and nothing is as it was found.
    pub(super) fn look_at_beginning(
        &mut self,
        step: u64,
        n_steps: u64,
    ) -> Result<bool, TrainError> {
        if step > 0 {
            return Ok(true);
        }
        if !self.scale_activations(n_steps)? {
            return Ok(false);
        }
        self.centre_on_all_passes()?;
        Ok(true)
    }

    /// Estimates how activations are scaled, of each SAE on as many tokens as it asks for; `false`: it was stopped.
    fn scale_activations(&mut self, n_steps: u64) -> Result<bool, TrainError> {
        let Some(estimates) = self.sums_of_beginning(n_steps)? else {
            return Ok(false);
        };
        for sae in jobs_at(&mut self.jobs, 0).flat_map(|job| &mut job.saes) {
            let Some(wanted) = sae.wants_scaling() else {
                continue;
            };
            let of = |source: Source, width| -> Result<Affine, TrainError> {
                let sums = &estimates[&(source.clone(), wanted)];
                let n_hookpoints = source.1.hookpoints.len();
                affine(wanted.0, sums, (width, n_hookpoints))?
                    .ok_or_else(|| no_token(wanted.1).into())
            };
            let [input, output] = sources_of(sae);
            let [d_in, d_out] = sae.widths();
            let (input, output) = (of(input, d_in)?, of(output, d_out)?);
            sae.set_scaling(input, output);
        }
        Ok(true)
    }

    /// What the tokens add up to, of all ranks, that SAEs estimate scalings on. `None`: it was stopped.
    fn sums_of_beginning(
        &self,
        n_steps: u64,
    ) -> Result<Option<BTreeMap<Estimate, RowSum>>, TrainError> {
        let jobs = self.jobs.iter().filter(|job| job.is_at(0));
        let (saes, mut n_updates) = (jobs.clone().flat_map(|job| &job.saes), 0);
        let mut ours: BTreeMap<Estimate, Statistics> = BTreeMap::new();
        for job in jobs.clone().map(|job| &job.job.config) {
            if job.normalize_activations != NormalizeActivations::None {
                n_updates = n_updates.max(self.updates_of(job.norm_estimate_tokens, n_steps));
            }
        }
        for (estimate, _) in saes.clone().flat_map(estimates_of) {
            let ((_, view), (how, _)) = &estimate;
            let statistics = Statistics::new(*how, view.hookpoints.len());
            ours.insert(estimate, statistics);
        }
        let mut exchange = Exchange::new(self.ranks, jobs.flat_map(JobTrainer::routes));
        for step in 0..n_updates {
            let (ranks, is_asked) = (self.ranks, self.stop.is_set());
            let agreed = ranks.agree_to_stop("beginning", is_asked, &[])?;
            if agreed.is_none() || ranks.stops_at_once(is_asked) {
                return Ok(None);
            }
            for pass in self.stream.passes_of(step) {
                let forward = self.stream.forward(pass)?;
                let mut inputs = exchange.pass(forward.as_ref().map(|forward| forward.views()))?;
                for (((is_spread, view), (_, n_tokens)), statistics) in &mut ours {
                    if step >= self.updates_of(*n_tokens, n_steps) {
                        continue;
                    }
                    if let Some(x) = inputs.get(view, *is_spread)? {
                        statistics.add(&x)?;
                    }
                }
            }
        }
        let mut all = BTreeMap::new();
        for sae in saes {
            for (estimate, width) in estimates_of(sae) {
                if let Some(statistics) = ours.remove(&estimate) {
                    let ours = statistics.into_sums(width, sae.device())?;
                    all.insert(estimate, sae.its_ranks(self.ranks).sum_of_rows(&ours)?);
                }
            }
        }
        Ok(Some(all))
    }

    /// Updates that have `n_tokens` tokens, of `n_steps`.
    fn updates_of(&self, n_tokens: u64, n_steps: u64) -> u64 {
        let n_updates = n_tokens.div_ceil(self.stream.tokens_per_step());
        n_updates.clamp(1, n_steps)
    }

    /// Sets the biases of fresh SAEs if a rank takes its part of the first batch in several passes, so that they are the
    /// same in any number of ranks.
    fn centre_on_all_passes(&mut self) -> Result<(), TrainError> {
        if !self.stream.has_several_passes() {
            return Ok(());
        }
        let seen = self.first_batch()?;
        for sae in jobs_at(&mut self.jobs, 0).flat_map(|job| &mut job.saes) {
            let [x, target] = sources_of(sae);
            let (Some(x), Some(target)) = (seen.get(&x), seen.get(&target)) else {
                continue;
            };
            if sae.begins_by_rows() {
                let rows = |seen: &Seen| Tensor::f_cat(&seen.rows, 0);
                if !x.rows.is_empty() {
                    let (x, target) = sae.scaled(rows(x)?, rows(target)?)?;
                    sae.centre_on(&x, &target, self.ranks)?;
                }
            } else if let (Some(x), Some(target)) = (&x.sum, &target.sum) {
                sae.centre_on_sums(x, target, self.ranks)?;
            }
        }
        Ok(())
    }

    /// What SAEs take and give of the first batch.
    fn first_batch(&self) -> Result<BTreeMap<Source, Seen>, TrainError> {
        let jobs = self.jobs.iter().filter(|job| job.is_at(0));
        let mut exchange = Exchange::new(self.ranks, jobs.clone().flat_map(JobTrainer::routes));
        let mut seen: BTreeMap<Source, Seen> = BTreeMap::new();
        for sae in jobs.flat_map(|job| &job.saes) {
            for source in BTreeSet::from(sources_of(sae)) {
                let of_source = seen.entry(source).or_insert(Seen {
                    sum: None,
                    rows: Vec::new(),
                    is_kept: false,
                });
                of_source.is_kept |= sae.begins_by_rows();
            }
        }
        for pass in self.stream.passes_over_first_batch() {
            let forward = self.stream.forward(pass)?;
            let mut inputs = exchange.pass(forward.as_ref().map(|forward| forward.views()))?;
            for ((is_spread, view), seen) in &mut seen {
                let Some(x) = inputs.get(view, *is_spread)? else {
                    continue;
                };
                match &mut seen.sum {
                    Some(sum) => sum.add(&x)?,
                    None => seen.sum = Some(RowSum::of(&x)?),
                }
                if seen.is_kept {
                    seen.rows.push(x);
                }
            }
        }
        Ok(seen)
    }
}

/// What an SAE's scalings are estimated on, if that is still to be done, with the widths.
fn estimates_of(sae: &SaeTrainer) -> Vec<(Estimate, i64)> {
    let Some(wanted) = sae.wants_scaling() else {
        return Vec::new();
    };
    let sources = sources_of(sae).into_iter().zip(sae.widths());
    let estimate = |(source, width)| ((source, wanted), width);
    sources.map(estimate).collect()
}

fn no_token(n_tokens: u64) -> Fault {
    let message = format!(
        "none of the first {n_tokens} tokens counts, on which `normalize_activations` is estimated"
    );
    Fault::input(message)
        .with_hint("raise `norm_estimate_tokens`, or leave tokens out of `exclude_tokens`")
}

/// What an SAE takes and what it should give.
fn sources_of(sae: &SaeTrainer) -> [Source; 2] {
    let (x, target) = sae.views();
    [x, target].map(|view| (sae.is_spread, view.clone()))
}
