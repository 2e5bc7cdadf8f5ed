//! The two times over the sequences.

use super::Subject;
use super::batch::Batch;
use super::predictions::{Predictions, cross_entropy_of};
use super::replacement::{ablated, logits, rows_of, select, spliced};
use super::sums::{SaeSums, zero};
use crate::EvalError;
use lm::{LanguageModel, Taps};
use plan::EvalStats;
use sae::Moments;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use tch::{Device, Kind, Tensor};
use tokens::EvalSequences;

/// A language model and the sequences to run it on.
#[derive(Debug)]
pub(super) struct Evaluator<'a> {
    model: &'a LanguageModel,
    sequences: &'a EvalSequences,
    batch_size: usize,
}

/// Sums that SAEs share, and those of each.
#[derive(Debug)]
struct Sums {
    device: Device,
    /// The lists of tokens that do not count, each once.
    filters: Vec<Filter>,
    /// Hookpoints, each once for a filter.
    hookpoints: Vec<FilteredHookpoint>,
    /// For each SAE, with the index of its filtered hookpoint.
    saes: Vec<(usize, SaeSums)>,
}

/// What depends on which tokens count.
#[derive(Debug)]
struct Filter {
    /// Sorted.
    exclude_tokens: Vec<u32>,
    n_predicted: u64,
    /// Scalar, Double.
    ce_clean: Tensor,
}

/// A hookpoint with a filter.
#[derive(Debug)]
struct FilteredHookpoint {
    hookpoint: String,
    filter_idx: usize,
    /// Of the outputs that count; `None` before the first.
    moments: Option<Moments>,
    /// Scalar, Double.
    ce_ablated: Tensor,
}

type Report<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        model: &'a LanguageModel,
        sequences: &'a EvalSequences,
        batch_size: usize,
    ) -> Self {
        Self {
            model,
            sequences,
            batch_size: batch_size.max(1),
        }
    }

    /// The statistics of each SAE, and on how many tokens each of its latents fired; `None` if
    /// `report` breaks off.
    pub(super) fn run(
        &self,
        subjects: &[Subject],
        report: Report<'_>,
    ) -> Result<Option<Vec<(EvalStats, Tensor)>>, EvalError> {
        let mut sums = self.sums(subjects)?;
        let n_sequences = self.sequences.n_sequences() as u64;
        let filters = sums.filters.iter();
        let filters: Vec<_> = filters
            .map(|filter| filter.exclude_tokens.clone())
            .collect();
        let taps = self.taps(&sums)?;
        for token_ids in self.sequences.batches(self.batch_size) {
            if report(0, n_sequences).is_break() {
                return Ok(None);
            }
            self.add_moments(&self.batch(&token_ids, &filters)?, &taps, &mut sums)?;
        }
        let mut n_done = 0;
        for token_ids in self.sequences.batches(self.batch_size) {
            if report(n_done, n_sequences).is_break() {
                return Ok(None);
            }
            let batch = self.batch(&token_ids, &filters)?;
            self.add_predictions(&batch, subjects, &mut sums)?;
            n_done += batch.input_ids.size()[0] as u64;
        }
        Ok(Some(sums.read()?))
    }

    fn sums(&self, subjects: &[Subject]) -> Result<Sums, EvalError> {
        let mut sums = Sums {
            device: self.model.device(),
            filters: Vec::new(),
            hookpoints: Vec::new(),
            saes: Vec::new(),
        };
        for Subject { spec, sae } in subjects {
            let exclude: BTreeSet<u32> = spec.exclude_tokens.iter().copied().collect();
            let filter_idx = sums.filter_idx(exclude.into_iter().collect())?;
            let hookpoint_idx = sums.hookpoint_idx(&spec.hookpoint, filter_idx)?;
            sums.saes.push((hookpoint_idx, SaeSums::new(sae)?));
        }
        Ok(sums)
    }

    fn taps(&self, sums: &Sums) -> Result<Taps, EvalError> {
        let hookpoints: Vec<_> = sums
            .hookpoints
            .iter()
            .map(|filtered| &filtered.hookpoint)
            .collect();
        Ok(Taps::new(self.model.facts(), &hookpoints)?)
    }

    fn batch(&self, token_ids: &[i64], filters: &[Vec<u32>]) -> Result<Batch, EvalError> {
        let ctx_len = self.sequences.ctx_len();
        Batch::new(token_ids, ctx_len, filters, self.model.device())
    }

    /// Mean and variance of the hookpoints' outputs.
    fn add_moments(&self, batch: &Batch, taps: &Taps, sums: &mut Sums) -> Result<(), EvalError> {
        let activations = self.model.forward(&batch.input_ids, taps)?;
        for filtered in &mut sums.hookpoints {
            let y = activations.get(&filtered.hookpoint);
            let y = rows_of(y.expect("every hookpoint is tapped"))?;
            let rows = batch.kept[filtered.filter_idx].rows(y.size()[0]);
            let y = select(&y, rows)?.f_to_kind(Kind::Float)?;
            if y.size()[0] == 0 {
                continue;
            }
            let moments = Moments::of(&y)?;
            filtered.moments = Some(match filtered.moments.take() {
                None => moments,
                Some(sum) => sum.merge(&moments)?,
            });
        }
        Ok(())
    }

    /// The clean pass, one for each hookpoint without its output, one with each SAE spliced in.
    fn add_predictions(
        &self,
        batch: &Batch,
        subjects: &[Subject],
        sums: &mut Sums,
    ) -> Result<(), EvalError> {
        let clean = Predictions::new(&self.model.logits(&batch.input_ids)?)?;
        for (filter, kept) in sums.filters.iter_mut().zip(&batch.kept) {
            let _ = filter.ce_clean.f_add_(&clean.cross_entropy(batch, kept)?)?;
            filter.n_predicted += kept.n_predicted;
        }
        for filtered in &mut sums.hookpoints {
            self.add_ablated(batch, filtered)?;
        }
        for (subject, (hookpoint_idx, of_sae)) in subjects.iter().zip(&mut sums.saes) {
            let filtered = &sums.hookpoints[*hookpoint_idx];
            let kept = &batch.kept[filtered.filter_idx];
            let splice = |pass: lm::ModulePass| spliced(pass, &subject.sae, kept, of_sae);
            let logits = logits(self.model, &batch.input_ids, &filtered.hookpoint, splice)?;
            let [kl, ce] = clean.divergence(&logits, batch, kept)?;
            let _ = of_sae.kl.f_add_(&kl)?;
            let _ = of_sae.ce.f_add_(&ce)?;
        }
        Ok(())
    }

    fn add_ablated(
        &self,
        batch: &Batch,
        filtered: &mut FilteredHookpoint,
    ) -> Result<(), EvalError> {
        let kept = &batch.kept[filtered.filter_idx];
        // Without a token that counts there is no mean, and nothing to put it in.
        let Some(moments) = &filtered.moments else {
            return Ok(());
        };
        let ablate = |pass: lm::ModulePass| ablated(pass, &moments.mean, kept);
        let logits = logits(self.model, &batch.input_ids, &filtered.hookpoint, ablate)?;
        let ce = cross_entropy_of(&logits, batch, kept)?;
        let _ = filtered.ce_ablated.f_add_(&ce)?;
        Ok(())
    }
}

impl Sums {
    fn filter_idx(&mut self, exclude_tokens: Vec<u32>) -> Result<usize, EvalError> {
        let is_it = |filter: &Filter| filter.exclude_tokens == exclude_tokens;
        if let Some(index) = self.filters.iter().position(is_it) {
            return Ok(index);
        }
        self.filters.push(Filter {
            exclude_tokens,
            n_predicted: 0,
            ce_clean: zero(self.device)?,
        });
        Ok(self.filters.len() - 1)
    }

    fn hookpoint_idx(&mut self, hookpoint: &str, filter_idx: usize) -> Result<usize, EvalError> {
        let is_it = |filtered: &FilteredHookpoint| {
            filtered.hookpoint == hookpoint && filtered.filter_idx == filter_idx
        };
        if let Some(index) = self.hookpoints.iter().position(is_it) {
            return Ok(index);
        }
        self.hookpoints.push(FilteredHookpoint {
            hookpoint: hookpoint.to_owned(),
            filter_idx,
            moments: None,
            ce_ablated: zero(self.device)?,
        });
        Ok(self.hookpoints.len() - 1)
    }

    /// Brings the sums to the host.
    fn read(self) -> Result<Vec<(EvalStats, Tensor)>, EvalError> {
        if self.saes.is_empty() {
            return Ok(Vec::new());
        }
        let on_device = self.saes.iter().map(|(hookpoint_idx, of_sae)| {
            let filtered = &self.hookpoints[*hookpoint_idx];
            self.stacked(filtered, of_sae)
        });
        let on_device = on_device.collect::<Result<Vec<_>, _>>()?;
        // Sync: the only wait for the device, for all SAEs at once.
        let sums = Vec::<f64>::try_from(Tensor::f_cat(&on_device, 0)?)?;
        let n_predicted = |hookpoint_idx: usize| {
            let filter_idx = self.hookpoints[hookpoint_idx].filter_idx;
            self.filters[filter_idx].n_predicted
        };
        let saes = self.saes.iter().zip(sums.chunks(8));
        let of_sae = |((hookpoint_idx, of_sae), sums): (&(usize, SaeSums), &[f64])| {
            let stats = stats_from(of_sae.n_tokens, n_predicted(*hookpoint_idx), sums);
            (stats, of_sae.fire_counts.shallow_clone())
        };
        Ok(saes.map(of_sae).collect())
    }

    /// All sums of an SAE: `[8]`, Double.
    fn stacked(&self, filtered: &FilteredHookpoint, of_sae: &SaeSums) -> Result<Tensor, EvalError> {
        let [l0, n_dead] = of_sae.l0_and_dead()?;
        let variance = match &filtered.moments {
            Some(moments) => moments.squared_deviations.shallow_clone(),
            None => zero(self.device)?,
        };
        let sums = [
            &of_sae.squared_error,
            &variance,
            &l0,
            &n_dead,
            &self.filters[filtered.filter_idx].ce_clean,
            &of_sae.ce,
            &filtered.ce_ablated,
            &of_sae.kl,
        ];
        Ok(Tensor::f_stack(&sums, 0)?)
    }
}

/// `sums`: in the order of [`Sums::stacked`].
fn stats_from(n_tokens: u64, n_predicted: u64, sums: &[f64]) -> EvalStats {
    EvalStats {
        n_tokens,
        squared_error: sums[0],
        total_variance: sums[1],
        l0: sums[2],
        n_dead: sums[3] as u64,
        n_predicted,
        ce_clean: sums[4],
        ce_spliced: sums[5],
        ce_ablated: sums[6],
        kl: sums[7],
    }
}
