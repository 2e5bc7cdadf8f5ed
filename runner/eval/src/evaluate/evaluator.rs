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
    places: Vec<Place>,
    /// For each SAE, with the index of its place.
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
struct Place {
    hookpoint: String,
    filter_idx: usize,
    /// Of the outputs that count; `None` where none has come yet.
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

    /// The statistics of each SAE, and on how many tokens each of its latents fired; `None` where
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
            places: Vec::new(),
            saes: Vec::new(),
        };
        for Subject { spec, sae } in subjects {
            let exclude: BTreeSet<u32> = spec.exclude_tokens.iter().copied().collect();
            let filter_idx = sums.filter_idx(exclude.into_iter().collect())?;
            let place_idx = sums.place_idx(&spec.hookpoint, filter_idx)?;
            sums.saes.push((place_idx, SaeSums::new(sae)?));
        }
        Ok(sums)
    }

    fn taps(&self, sums: &Sums) -> Result<Taps, EvalError> {
        let hookpoints: Vec<_> = sums.places.iter().map(|place| &place.hookpoint).collect();
        Ok(Taps::new(self.model.facts(), &hookpoints)?)
    }

    fn batch(&self, token_ids: &[i64], filters: &[Vec<u32>]) -> Result<Batch, EvalError> {
        let ctx_len = self.sequences.ctx_len();
        Batch::new(token_ids, ctx_len, filters, self.model.device())
    }

    /// Mean and variance of the hookpoints' outputs.
    fn add_moments(&self, batch: &Batch, taps: &Taps, sums: &mut Sums) -> Result<(), EvalError> {
        let activations = self.model.forward(&batch.input_ids, taps)?;
        for place in &mut sums.places {
            let y = activations.get(&place.hookpoint);
            let y = rows_of(y.expect("every hookpoint is tapped"))?;
            let rows = batch.kept[place.filter_idx].rows(y.size()[0]);
            let y = select(&y, rows)?.f_to_kind(Kind::Float)?;
            if y.size()[0] == 0 {
                continue;
            }
            let moments = Moments::of(&y)?;
            place.moments = Some(match place.moments.take() {
                None => moments,
                Some(sum) => sum.merge(&moments)?,
            });
        }
        Ok(())
    }

    /// The clean pass, one for each place without its output, one for each SAE in its place.
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
        for place in &mut sums.places {
            self.add_ablated(batch, place)?;
        }
        for (subject, (place_idx, of_sae)) in subjects.iter().zip(&mut sums.saes) {
            let place = &sums.places[*place_idx];
            let kept = &batch.kept[place.filter_idx];
            let splice = |pass: lm::ModulePass| spliced(pass, &subject.sae, kept, of_sae);
            let logits = logits(self.model, &batch.input_ids, &place.hookpoint, splice)?;
            let [kl, ce] = clean.divergence(&logits, batch, kept)?;
            let _ = of_sae.kl.f_add_(&kl)?;
            let _ = of_sae.ce.f_add_(&ce)?;
        }
        Ok(())
    }

    fn add_ablated(&self, batch: &Batch, place: &mut Place) -> Result<(), EvalError> {
        let kept = &batch.kept[place.filter_idx];
        // Without a token that counts there is no mean, and nothing to put it in.
        let Some(moments) = &place.moments else {
            return Ok(());
        };
        let ablate = |pass: lm::ModulePass| ablated(pass, &moments.mean, kept);
        let logits = logits(self.model, &batch.input_ids, &place.hookpoint, ablate)?;
        let ce = cross_entropy_of(&logits, batch, kept)?;
        let _ = place.ce_ablated.f_add_(&ce)?;
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

    fn place_idx(&mut self, hookpoint: &str, filter_idx: usize) -> Result<usize, EvalError> {
        let is_it = |place: &Place| place.hookpoint == hookpoint && place.filter_idx == filter_idx;
        if let Some(index) = self.places.iter().position(is_it) {
            return Ok(index);
        }
        self.places.push(Place {
            hookpoint: hookpoint.to_owned(),
            filter_idx,
            moments: None,
            ce_ablated: zero(self.device)?,
        });
        Ok(self.places.len() - 1)
    }

    /// Brings the sums to the host.
    fn read(self) -> Result<Vec<(EvalStats, Tensor)>, EvalError> {
        if self.saes.is_empty() {
            return Ok(Vec::new());
        }
        let on_device = self.saes.iter().map(|(place_idx, of_sae)| {
            let place = &self.places[*place_idx];
            self.stacked(place, of_sae)
        });
        let on_device = on_device.collect::<Result<Vec<_>, _>>()?;
        // Sync: the only wait for the device, for all SAEs at once.
        let sums = Vec::<f64>::try_from(Tensor::f_cat(&on_device, 0)?)?;
        let n_predicted = |place_idx: usize| {
            let filter_idx = self.places[place_idx].filter_idx;
            self.filters[filter_idx].n_predicted
        };
        let saes = self.saes.iter().zip(sums.chunks(8));
        let of_sae = |((place_idx, of_sae), sums): (&(usize, SaeSums), &[f64])| {
            let stats = stats_from(of_sae.n_tokens, n_predicted(*place_idx), sums);
            (stats, of_sae.fire_counts.shallow_clone())
        };
        Ok(saes.map(of_sae).collect())
    }

    /// All sums of an SAE: `[8]`, Double.
    fn stacked(&self, place: &Place, of_sae: &SaeSums) -> Result<Tensor, EvalError> {
        let [l0, n_dead] = of_sae.l0_and_dead()?;
        let variance = match &place.moments {
            Some(moments) => moments.squared_deviations.shallow_clone(),
            None => zero(self.device)?,
        };
        let sums = [
            &of_sae.squared_error,
            &variance,
            &l0,
            &n_dead,
            &self.filters[place.filter_idx].ce_clean,
            &of_sae.ce,
            &place.ce_ablated,
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
