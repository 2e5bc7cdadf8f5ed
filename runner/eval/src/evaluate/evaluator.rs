//! The two times over the sequences.

use super::Subject;
use super::batch::Batch;
use super::clean::{CleanPass, CleanTaps};
use super::predictions::{Predictions, cross_entropy_of};
use super::replacement::{ablated, select};
use super::splicing::{Clean, Splicing};
use super::totals::{FilteredHookpoint, Totals};
use crate::EvalError;
use crate::models::{AllTaps, Facts, Models};
use crate::ranks::Ranks;
use lm::rows;
use plan::EvalStats;
use sae::Moments;
use std::ops::ControlFlow;
use tch::{Kind, Tensor};
use tokens::EvalSequences;

/// Language models and the sequences to run them on.
#[derive(Debug)]
pub(super) struct Evaluator<'a> {
    models: &'a Models,
    facts: &'a Facts,
    sequences: &'a EvalSequences,
    batch_size: usize,
    ranks: &'a dyn Ranks,
}

type Report<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        (models, facts): (&'a Models, &'a Facts),
        (sequences, batch_size): (&'a EvalSequences, usize),
        ranks: &'a dyn Ranks,
    ) -> Self {
        Self {
            models,
            facts,
            sequences,
            batch_size: batch_size.max(1),
            ranks,
        }
    }

    /// The statistics of each SAE, and on how many tokens each of its latents fired, the same on all ranks; `None` if
    /// `report` breaks off on any of them.
    pub(super) fn run(
        &self,
        subjects: &[Subject],
        report: Report<'_>,
    ) -> Result<Option<Vec<(EvalStats, Tensor)>>, EvalError> {
        let mut totals = Totals::new(subjects, self.models.device())?;
        let n_sequences = self.sequences.n_sequences() as u64;
        let filters = totals.excluded();
        let taps = self.taps(&totals)?;
        for token_ids in self.rounds() {
            let is_asked = report(0, n_sequences).is_break();
            if self.ranks.any("evaluation ends", is_asked)? {
                return Ok(None);
            }
            let moments = match token_ids {
                Some(token_ids) => {
                    self.moments(&self.batch(&token_ids, &filters)?, &taps, &totals)?
                }
                None => totals.hookpoints.iter().map(|_| None).collect(),
            };
            totals.add_moments(moments, self.ranks)?;
        }
        let splicing = Splicing::new(subjects);
        let taps = splicing.taps(self.facts)?;
        let taps = CleanTaps::new((self.models, self.facts), taps, &totals)?;
        let mut n_done = 0;
        for token_ids in self.rounds() {
            let is_asked = report(n_done, n_sequences).is_break();
            if self.ranks.any("evaluation ends", is_asked)? {
                return Ok(None);
            }
            if let Some(token_ids) = token_ids {
                let batch = self.batch(&token_ids, &filters)?;
                self.add_predictions(&batch, (&splicing, &taps), &mut totals)?;
            }
            totals.end_round(self.ranks)?;
            n_done += (self.batch_size * self.ranks.shard().n_ranks) as u64;
        }
        totals.gather(self.ranks)?;
        Ok(Some(totals.read()?))
    }

    fn rounds(&self) -> impl Iterator<Item = Option<Vec<i64>>> {
        self.sequences.rounds(self.batch_size, self.ranks.shard())
    }

    fn taps(&self, totals: &Totals) -> Result<AllTaps, EvalError> {
        let hookpoints = totals.hookpoints.iter();
        let hookpoints: Vec<&str> = hookpoints.map(|filtered| &*filtered.hookpoint).collect();
        self.facts.taps(&hookpoints, &[])
    }

    fn batch(&self, token_ids: &[i64], filters: &[Vec<u32>]) -> Result<Batch, EvalError> {
        let ctx_len = self.sequences.ctx_len();
        Batch::new(token_ids, ctx_len, filters, self.models.device())
    }

    /// Mean and variance of the hookpoints' outputs; `None`: nothing counts.
    fn moments(
        &self,
        batch: &Batch,
        taps: &AllTaps,
        totals: &Totals,
    ) -> Result<Vec<Option<Moments>>, EvalError> {
        let activations = self.models.forward(&batch.input_ids, taps)?;
        let of_hookpoint = |filtered: &FilteredHookpoint| {
            let y = activations.get(&filtered.hookpoint);
            let y = rows(y.expect("every hookpoint is tapped"))?;
            let counting = batch.kept[filtered.filter_idx].rows(y.size()[0]);
            let y = select(&y, counting)?.f_to_kind(Kind::Float)?;
            let counts = y.size()[0] > 0;
            Ok(counts.then(|| Moments::of(&y)).transpose()?)
        };
        totals.hookpoints.iter().map(of_hookpoint).collect()
    }

    /// The clean pass once. From the blocks of the hookpoints on, one pass for each hookpoint without its output, and one
    /// with each SAE spliced in; several hookpoints of one dictionary at the same time.
    fn add_predictions(
        &self,
        batch: &Batch,
        (splicing, taps): (&Splicing<'_>, &CleanTaps),
        totals: &mut Totals,
    ) -> Result<(), EvalError> {
        let pass = CleanPass::run(self.models, batch, taps)?;
        let clean = pass.logits(taps)?;
        let clean = clean.iter().map(Predictions::new);
        let clean = clean.collect::<Result<Vec<_>, EvalError>>()?;
        for (filter, kept) in totals.filters.iter_mut().zip(&batch.kept) {
            for (ce, clean) in filter.ce_clean.iter_mut().zip(&clean) {
                let _ = ce.f_add_(&clean.cross_entropy(batch, kept)?)?;
            }
            filter.n_predicted += kept.n_predicted;
        }
        add_ablated(&pass, batch, totals)?;
        for splice in &mut totals.splices {
            let kept = &batch.kept[totals.ablations[splice.ablation_idx].filter_idx];
            let on = Clean { pass: &pass, kept };
            for (model_idx, logits) in splicing.logits(&on, &splice.saes, &mut totals.saes)? {
                let [kl, ce] = clean[model_idx].divergence(&logits, batch, kept)?;
                let _ = splice.kl.f_add_(&kl)?;
                let _ = splice.ce.f_add_(&ce)?;
            }
        }
        Ok(())
    }
}

fn add_ablated(pass: &CleanPass<'_>, batch: &Batch, totals: &mut Totals) -> Result<(), EvalError> {
    for ablation in &mut totals.ablations {
        let kept = &batch.kept[ablation.filter_idx];
        let hookpoints = ablation.hookpoints.iter();
        let hookpoints: Vec<_> = hookpoints.map(|index| &totals.hookpoints[*index]).collect();
        let means = hookpoints.iter().map(|filtered| filtered.moments.as_ref());
        // Without a token that counts there is no mean, and nothing to put it in.
        let Some(moments) = means.collect::<Option<Vec<_>>>() else {
            continue;
        };
        let names: Vec<&str> = hookpoints
            .iter()
            .map(|filtered| &*filtered.hookpoint)
            .collect();
        let ablate = |index: usize, pass: lm::ModulePass| ablated(pass, &moments[index].mean, kept);
        for (_, logits) in pass.logits_with(&names, ablate)? {
            let ce = cross_entropy_of(&logits, batch, kept)?;
            let _ = ablation.ce.f_add_(&ce)?;
        }
    }
    Ok(())
}
