//! What fresh SAEs take from the first tokens of training: how activations are scaled, and where biases begin.

use super::activation_stream::PassIdx;
use super::job_trainer::JobTrainer;
use super::{StreamTrainer, jobs_at};
use crate::TrainError;
use crate::activations::row_sum::RowSum;
use crate::activations::views::View;
use crate::ranks::exchange::Exchange;
use crate::sae_trainer::SaeTrainer;
use crate::sae_trainer::scaling::{Statistics, affine};
use plan::NormalizeActivations;
use sae::Affine;
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

/// Activations, and whether they come from all ranks.
type Source = (bool, View);

/// What was seen of activations.
struct Seen {
    sum: Option<RowSum>,
    /// All of them, if a mean does not do.
    rows: Vec<Tensor>,
    is_kept: bool,
}

impl StreamTrainer<'_> {
    /// Before the first update: looks at tokens ahead, for those SAEs that need it. The passes are made once more.
    pub(super) fn look_at_beginning(&mut self, step: u64, n_steps: u64) -> Result<(), TrainError> {
        if step > 0 {
            return Ok(());
        }
        self.scale_activations(n_steps)?;
        self.centre_on_all_passes()
    }

    /// Estimates how activations are scaled.
    fn scale_activations(&mut self, n_steps: u64) -> Result<(), TrainError> {
        let wanted = |sae: &SaeTrainer| sae.wants_scaling().map(|(how, _)| how);
        let mut sources: BTreeMap<(Source, NormalizeActivations), Statistics> = BTreeMap::new();
        let jobs = self.jobs.iter().filter(|job| job.is_at(0));
        let saes: Vec<&SaeTrainer> = jobs.clone().flat_map(|job| &job.saes).collect();
        for sae in &saes {
            for (source, how) in sources_of(sae).into_iter().zip([wanted(sae); 2]) {
                if let Some(how) = how {
                    sources.insert((source, how), Statistics::new(how));
                }
            }
        }
        let configs = jobs.clone().map(|job| &job.job.config);
        let scaled =
            configs.filter(|config| config.normalize_activations != NormalizeActivations::None);
        let Some(n_tokens) = scaled.map(|config| config.norm_estimate_tokens).max() else {
            return Ok(());
        };
        let mut exchange = Exchange::new(self.ranks, jobs.flat_map(JobTrainer::routes));
        let n_updates = n_tokens
            .div_ceil(self.stream.tokens_per_step())
            .clamp(1, n_steps);
        let passes: Vec<PassIdx> = (0..n_updates)
            .flat_map(|step| self.stream.passes_of(step))
            .collect();
        for pass in passes {
            let forward = self.stream.forward(pass)?;
            let mut inputs = exchange.pass(forward.as_ref().map(|forward| forward.views()))?;
            for (((is_spread, view), _), statistics) in &mut sources {
                if let Some(x) = inputs.get(view, *is_spread)? {
                    statistics.add(&x)?;
                }
            }
        }
        let mut found: BTreeMap<(Source, NormalizeActivations), RowSum> = BTreeMap::new();
        for sae in saes {
            let Some(how) = wanted(sae) else { continue };
            for (source, width) in sources_of(sae).into_iter().zip(sae.widths()) {
                if let Some(statistics) = sources.remove(&(source.clone(), how)) {
                    let ours = statistics.into_sums(width, sae.device())?;
                    let all = sae.its_ranks(self.ranks).sum_of_rows(&ours)?;
                    found.insert((source, how), all);
                }
            }
        }
        for sae in jobs_at(&mut self.jobs, 0).flat_map(|job| &mut job.saes) {
            let Some((how, _)) = sae.wants_scaling() else {
                continue;
            };
            let [input, output] = sources_of(sae);
            let [d_in, d_out] = sae.widths();
            let of = |source: Source, width| -> Result<Option<Affine>, TrainError> {
                affine(how, &found[&(source, how)], width)
            };
            if let (Some(input), Some(output)) = (of(input, d_in)?, of(output, d_out)?) {
                sae.set_scaling(input, output);
            }
        }
        Ok(())
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

/// What an SAE takes and what it should give.
fn sources_of(sae: &SaeTrainer) -> [Source; 2] {
    let (x, target) = sae.views();
    [x, target].map(|view| (sae.is_spread, view.clone()))
}
