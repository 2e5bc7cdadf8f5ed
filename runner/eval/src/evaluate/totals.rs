//! The sums of an evaluation: what SAEs share, and those of each.
//!
//! Ranks take the batches in rounds, one each. What a batch adds is summed by itself, and the batches of a round are added
//! in their order: so the sums are to the bit those of one process, wherever a batch gives the same bits.

use super::Subject;
use super::groups::groups;
use super::sums::{SaeSums, zero};
use crate::EvalError;
use crate::models::by_model;
use crate::ranks::Ranks;
use plan::EvalStats;
use sae::Moments;
use std::collections::BTreeSet;
use tch::{Device, Kind, Tensor};

/// All of them. Scalars that are Double are those of the round until [`Totals::gather`].
#[derive(Debug)]
pub(super) struct Totals {
    device: Device,
    /// The scalars, one after the other, which are views of it: `[n]`, Double.
    of_round: Tensor,
    /// Their sums over the rounds before, and all ranks.
    so_far: Tensor,
    /// The lists of tokens that do not count, each once.
    pub(super) filters: Vec<Filter>,
    /// Hookpoints, each once for a filter.
    pub(super) hookpoints: Vec<FilteredHookpoint>,
    /// Passes with means in place of outputs, each once.
    pub(super) ablations: Vec<Ablation>,
    /// Passes with SAEs' outputs there.
    pub(super) splices: Vec<Splice>,
    /// In the order of the SAEs.
    pub(super) saes: Vec<SaeSums>,
}

/// What depends on which tokens count.
#[derive(Debug)]
pub(super) struct Filter {
    /// Sorted.
    exclude_tokens: Vec<u32>,
    pub(super) n_predicted: u64,
    /// Of each model, scalars, Double.
    pub(super) ce_clean: [Tensor; 2],
}

/// A hookpoint with a filter.
#[derive(Debug)]
pub(super) struct FilteredHookpoint {
    pub(super) hookpoint: String,
    pub(super) filter_idx: usize,
    /// Of the outputs that count; `None` before the first.
    pub(super) moments: Option<Moments>,
}

/// Hookpoints whose outputs are their means at the same time.
#[derive(Debug)]
pub(super) struct Ablation {
    pub(super) filter_idx: usize,
    /// Indices of filtered hookpoints.
    pub(super) hookpoints: Vec<usize>,
    /// Whether it has hookpoints of each model.
    is_in_model: [bool; 2],
    /// Cross-entropy, scalar, Double.
    pub(super) ce: Tensor,
}

/// SAEs whose outputs are in the model at the same time.
#[derive(Debug)]
pub(super) struct Splice {
    /// Of the same hookpoints.
    pub(super) ablation_idx: usize,
    /// Indices of SAEs: one, or the layers of a cross-layer transcoder from the first on.
    pub(super) saes: Vec<usize>,
    /// Cross-entropy, scalar, Double.
    pub(super) ce: Tensor,
    /// Divergence from the clean distribution.
    pub(super) kl: Tensor,
}

impl Totals {
    /// Zeros.
    ///
    /// # Errors
    /// A cross-layer transcoder that lacks layers; too little memory.
    pub(super) fn new(subjects: &[Subject], device: Device) -> Result<Self, EvalError> {
        let nothing = Tensor::f_zeros([0], (Kind::Double, device))?;
        let mut totals = Self {
            device,
            of_round: nothing.shallow_clone(),
            so_far: nothing,
            filters: Vec::new(),
            hookpoints: Vec::new(),
            ablations: Vec::new(),
            splices: Vec::new(),
            saes: Vec::new(),
        };
        for subject in subjects {
            totals.saes.push(SaeSums::new(&subject.sae)?);
        }
        for saes in groups(subjects)? {
            let first = &subjects[saes[0]];
            let exclude: BTreeSet<u32> = first.spec.exclude_tokens.iter().copied().collect();
            let filter_idx = totals.filter_idx(exclude.into_iter().collect())?;
            let ablation_idx = totals.ablation_idx(&first.site.writes, filter_idx)?;
            totals.splices.push(Splice {
                ablation_idx,
                saes,
                ce: zero(device)?,
                kl: zero(device)?,
            });
        }
        totals.share_memory()?;
        Ok(totals)
    }

    /// Makes all scalars views of one tensor.
    fn share_memory(&mut self) -> Result<(), EvalError> {
        let n_scalars = self.scalars_mut().len() as i64;
        let of_round = Tensor::f_zeros([n_scalars], (Kind::Double, self.device))?;
        for (idx, scalar) in (0..).zip(self.scalars_mut()) {
            *scalar = of_round.f_get(idx)?;
        }
        self.so_far = of_round.f_zeros_like()?;
        self.of_round = of_round;
        Ok(())
    }

    fn scalars_mut(&mut self) -> Vec<&mut Tensor> {
        let clean = self.filters.iter_mut();
        let clean = clean.flat_map(|filter| &mut filter.ce_clean);
        let ablated = self.ablations.iter_mut().map(|ablation| &mut ablation.ce);
        let spliced = self.splices.iter_mut();
        let spliced = spliced.flat_map(|splice| [&mut splice.ce, &mut splice.kl]);
        let errors = self.saes.iter_mut().map(|sae| &mut sae.squared_error);
        clean.chain(ablated).chain(spliced).chain(errors).collect()
    }

    /// Adds this rank's moments of each hookpoint, and those of all others.
    ///
    /// # Errors
    /// A rank that is gone, or too little memory.
    pub(super) fn add_moments(
        &mut self,
        ours: Vec<Option<Moments>>,
        ranks: &dyn Ranks,
    ) -> Result<(), EvalError> {
        let sizes = ours.iter().flat_map(|moments| match moments {
            Some(moments) => [moments.n_tokens.cast_signed(), moments.mean.size()[0]],
            None => [0, 0],
        });
        let sizes = ranks.numbers("moments of a round", &sizes.collect::<Vec<_>>())?;
        for (idx, (filtered, ours)) in self.hookpoints.iter_mut().zip(ours).enumerate() {
            let width = sizes.iter().map(|sizes| sizes[2 * idx + 1]).max();
            let width = width.unwrap_or(0);
            if width == 0 {
                continue;
            }
            let flat = match &ours {
                Some(moments) => {
                    let variance = moments.squared_deviations.f_view(1)?;
                    Tensor::f_cat(&[&variance, &moments.mean], 0)?
                }
                None => Tensor::f_zeros([1 + width], (Kind::Double, self.device))?,
            };
            let of_ranks = ranks.gather(&format!("moments of {width}"), &flat)?;
            for (flat, sizes) in of_ranks.iter().zip(&sizes) {
                let n_tokens = sizes[2 * idx].cast_unsigned();
                filtered.add(flat, n_tokens)?;
            }
        }
        Ok(())
    }

    /// Adds the sums of this rank's batch and those of all others.
    ///
    /// # Errors
    /// A rank that is gone, or too little memory.
    pub(super) fn end_round(&mut self, ranks: &dyn Ranks) -> Result<(), EvalError> {
        for of_rank in ranks.gather("sums of a round", &self.of_round)? {
            let _ = self.so_far.f_add_(&of_rank)?;
        }
        let _ = self.of_round.f_zero_()?;
        Ok(())
    }

    /// Ends the last round: the sums are those of all rounds and ranks from now on.
    ///
    /// # Errors
    /// A rank that is gone, or too little memory.
    pub(super) fn gather(&mut self, ranks: &dyn Ranks) -> Result<(), EvalError> {
        self.of_round.f_copy_(&self.so_far)?;
        let filters = self.filters.iter_mut();
        let counts = filters.map(|filter| &mut filter.n_predicted);
        let counts = counts.chain(self.saes.iter_mut().map(|sae| &mut sae.n_tokens));
        let counts: Vec<&mut u64> = counts.collect();
        let ours: Vec<u64> = counts.iter().map(|count| **count).collect();
        let sums = ranks.sum_numbers("numbers of tokens", &ours)?;
        for (count, sum) in counts.into_iter().zip(sums) {
            *count = sum;
        }
        for sae in &mut self.saes {
            // Whole numbers: no order of addition changes them.
            let name = format!("fire counts of {}", sae.fire_counts.size()[0]);
            sae.fire_counts = ranks.sum(&name, &sae.fire_counts)?;
        }
        Ok(())
    }

    fn filter_idx(&mut self, exclude_tokens: Vec<u32>) -> Result<usize, EvalError> {
        let is_it = |filter: &Filter| filter.exclude_tokens == exclude_tokens;
        if let Some(index) = self.filters.iter().position(is_it) {
            return Ok(index);
        }
        self.filters.push(Filter {
            exclude_tokens,
            n_predicted: 0,
            ce_clean: [zero(self.device)?, zero(self.device)?],
        });
        Ok(self.filters.len() - 1)
    }

    fn ablation_idx(&mut self, names: &[String], filter_idx: usize) -> Result<usize, EvalError> {
        let hookpoints: Vec<usize> = names
            .iter()
            .map(|name| self.hookpoint_idx(name, filter_idx))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let is_it = |other: &Ablation| other.hookpoints == hookpoints;
        if let Some(index) = self.ablations.iter().position(is_it) {
            return Ok(index);
        }
        self.ablations.push(Ablation {
            filter_idx,
            hookpoints,
            is_in_model: by_model(&names).map(|own| !own.is_empty()),
            ce: zero(self.device)?,
        });
        Ok(self.ablations.len() - 1)
    }

    fn hookpoint_idx(&mut self, hookpoint: &str, filter_idx: usize) -> usize {
        let is_it = |filtered: &FilteredHookpoint| {
            filtered.hookpoint == hookpoint && filtered.filter_idx == filter_idx
        };
        if let Some(index) = self.hookpoints.iter().position(is_it) {
            return index;
        }
        self.hookpoints.push(FilteredHookpoint {
            hookpoint: hookpoint.to_owned(),
            filter_idx,
            moments: None,
        });
        self.hookpoints.len() - 1
    }

    /// The lists of tokens that do not count.
    pub(super) fn excluded(&self) -> Vec<Vec<u32>> {
        let filters = self.filters.iter();
        filters
            .map(|filter| filter.exclude_tokens.clone())
            .collect()
    }

    /// Brings the sums to the host: the statistics of each SAE, and on how many tokens each of its latents fired.
    pub(super) fn read(self) -> Result<Vec<(EvalStats, Tensor)>, EvalError> {
        if self.saes.is_empty() {
            return Ok(Vec::new());
        }
        let splices: Vec<&Splice> = (0..self.saes.len())
            .map(|sae_idx| self.splice_of(sae_idx))
            .collect();
        let on_device = splices.iter().enumerate();
        let on_device = on_device.map(|(sae_idx, splice)| self.stacked(sae_idx, splice));
        let on_device = on_device.collect::<Result<Vec<_>, _>>()?;
        // Sync: the only wait for the device, for all SAEs at once.
        let sums = Vec::<f64>::try_from(Tensor::f_cat(&on_device, 0)?)?;
        let of_sae = |((of_sae, splice), sums): ((&SaeSums, &Splice), &[f64])| {
            let ablation = &self.ablations[splice.ablation_idx];
            let n_models = ablation.is_in_model.iter().filter(|is_in| **is_in).count();
            let n_predicted = self.filters[ablation.filter_idx].n_predicted * n_models as u64;
            let stats = stats_from(of_sae.n_tokens, n_predicted, sums);
            (stats, of_sae.fire_counts.shallow_clone())
        };
        let saes = self.saes.iter().zip(splices).zip(sums.chunks(8));
        Ok(saes.map(of_sae).collect())
    }

    fn splice_of(&self, sae_idx: usize) -> &Splice {
        let found = self
            .splices
            .iter()
            .find(|splice| splice.saes.contains(&sae_idx));
        found.expect("every SAE is in a group")
    }

    /// All sums of an SAE: `[8]`, Double.
    fn stacked(&self, sae_idx: usize, splice: &Splice) -> Result<Tensor, EvalError> {
        let of_sae = &self.saes[sae_idx];
        let ablation = &self.ablations[splice.ablation_idx];
        let [l0, n_dead] = of_sae.l0_and_dead()?;
        let variance = self.variance(sae_idx, splice)?;
        let sums = [
            &of_sae.squared_error,
            &variance,
            &l0,
            &n_dead,
            &self.ce_clean(ablation)?,
            &splice.ce,
            &ablation.ce,
            &splice.kl,
        ];
        Ok(Tensor::f_stack(&sums, 0)?)
    }

    /// The cross-entropy of the models that have its hookpoints.
    fn ce_clean(&self, ablation: &Ablation) -> Result<Tensor, EvalError> {
        let of_models = &self.filters[ablation.filter_idx].ce_clean;
        let mut sum = zero(self.device)?;
        for (ce, is_in) in of_models.iter().zip(ablation.is_in_model) {
            if is_in {
                sum = sum.f_add(ce)?;
            }
        }
        Ok(sum)
    }

    /// The total variance of what the SAE reconstructs: at all its hookpoints, or of a layer at its own.
    fn variance(&self, sae_idx: usize, splice: &Splice) -> Result<Tensor, EvalError> {
        let hookpoints = &self.ablations[splice.ablation_idx].hookpoints[..];
        let own = match &splice.saes[..] {
            [_] => hookpoints,
            layers => {
                let layer = layers.iter().position(|other| *other == sae_idx);
                &hookpoints[layer.expect("it is one of them")..][..1]
            }
        };
        let mut sum = zero(self.device)?;
        for index in own {
            if let Some(moments) = &self.hookpoints[*index].moments {
                sum = sum.f_add(&moments.squared_deviations)?;
            }
        }
        Ok(sum)
    }
}

impl FilteredHookpoint {
    /// Adds moments of `n_tokens` tokens: variance and mean, `[1 + width]`, Double.
    fn add(&mut self, flat: &Tensor, n_tokens: u64) -> Result<(), EvalError> {
        if n_tokens == 0 {
            return Ok(());
        }
        let part = Moments {
            n_tokens,
            squared_deviations: flat.f_get(0)?,
            mean: flat.f_narrow(0, 1, flat.size()[0] - 1)?,
        };
        self.moments = Some(match self.moments.take() {
            None => part,
            Some(sum) => sum.merge(&part)?,
        });
        Ok(())
    }
}

/// `sums`: in the order of [`Totals::stacked`].
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
