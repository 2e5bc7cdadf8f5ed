//! The threshold of SAEs that chose their latents among those of whole batches in training: such that held-out tokens
//! have as many on average. It has none of the lag that an estimate made in training has.

use super::batch::Batch;
use super::replacement::select;
use super::{EvalRequest, Subject, load, no_token};
use crate::EvalError;
use crate::models::{Facts, Models};
use crate::sites::taps_of_inputs;
use fault::Fault;
use sae::{Activation, BatchLatents, BatchSearch, Sae};
use std::ops::ControlFlow;
use tch::{Device, Kind, Tensor};

/// What is wanted of an SAE's threshold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Active latents of a token on average; at each hookpoint, if each has its own threshold.
    pub k: f64,
    /// The threshold that training estimated, or those of hookpoints, if the SAE may have others by now. Empty: it has
    /// them.
    pub estimate: Vec<f64>,
}

/// What was found for an SAE.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// Held-out tokens.
    pub n_tokens: u64,
    /// Their mean L0 with the threshold that training estimated. A latent counts if it is active at any hookpoint.
    pub own_l0: f64,
    /// The threshold that gives as many latents as are wanted, or as near to that as there are positive ones; the mean,
    /// if each hookpoint has its own.
    pub threshold: f64,
    /// The mean L0 that it gives.
    pub l0: f64,
    /// Of each hookpoint, if each has its own threshold.
    pub hookpoints: Vec<CalibratedHookpoint>,
}

/// What was found for a hookpoint that has its own threshold.
#[derive(Clone, Copy, Debug)]
pub struct CalibratedHookpoint {
    /// Mean number of latents that are active there with the threshold that training estimated.
    pub own_l0: f64,
    /// The threshold that gives the number that is wanted.
    pub threshold: f64,
    /// The mean number that it gives.
    pub l0: f64,
}

/// An SAE whose threshold is looked for.
struct Search {
    subject: Subject,
    /// The same without a threshold.
    open: Sae,
    /// Wanted of each token.
    k: f64,
    n_tokens: u64,
    n_own: Tensor,
    /// Of each hookpoint, if each has its own threshold: `[n_hookpoints]`.
    n_own_at: Option<Tensor>,
    /// For each threshold.
    sets: Vec<Largest>,
}

/// The largest pre-activations, or what else decides: all that may be wanted.
#[derive(Default)]
struct Largest {
    scores: Option<Tensor>,
    /// Where they are: `token * num_latents + latent`.
    places: Option<Tensor>,
}

/// Looks for the thresholds with which the SAEs of `request` have as many active latents as is `wanted` of each. `None`:
/// `report`, which gets the number of sequences done and that of all, stopped it.
///
/// # Errors
/// As [`super::evaluate`].
pub fn calibrate(
    request: &EvalRequest,
    wanted: &[Wanted],
    report: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Option<Vec<Calibrated>>, EvalError> {
    let device = lm::parse_device(&request.model.device)?;
    let _no_grad = tch::no_grad_guard();
    let facts = Facts::read(&request.model)?;
    let subjects = load(&request.saes, &facts, device)?;
    let sites: Vec<_> = subjects.iter().map(|subject| &subject.site).collect();
    let taps = taps_of_inputs(&facts, &sites)?;
    let models = Models::load(&request.model, Some(&taps), device)?;
    let searches = subjects
        .into_iter()
        .zip(wanted)
        .map(|(subject, wanted)| Search::new(subject, wanted));
    let mut searches = searches.collect::<Result<Vec<_>, _>>()?;
    let filters: Vec<Vec<u32>> = searches
        .iter()
        .map(|search| search.subject.spec.exclude_tokens.clone())
        .collect();
    let (sequences, n_sequences) = (&request.sequences, request.sequences.n_sequences() as u64);
    let most = n_sequences * sequences.ctx_len() as u64;
    let mut n_done = 0;
    for token_ids in sequences.batches(request.batch_size.max(1)) {
        if report(n_done, n_sequences).is_break() {
            return Ok(None);
        }
        let batch = Batch::new(&token_ids, sequences.ctx_len(), &filters, device)?;
        let activations = models.forward(&batch.input_ids, &taps)?;
        for (search, kept) in searches.iter_mut().zip(&batch.kept) {
            let x = search.subject.site.input(&activations)?;
            let x = select(&x, kept.rows(x.size()[0]))?.f_to_kind(Kind::Float)?;
            search.add(&x, most)?;
        }
        n_done += batch.input_ids.size()[0] as u64;
    }
    let found = searches.iter().map(Search::finish);
    found.collect::<Result<_, _>>().map(Some)
}

/// The thresholds of an SAE's latents that are these on average; those of its hookpoints, if each has its own.
///
/// # Errors
/// Too little memory.
pub fn thresholds_of(sae: &Sae, thresholds: &[f64]) -> Result<Tensor, EvalError> {
    if sae.cfg.is_decoupled() {
        // By numbers: a tensor of them would have to be sent to the device.
        let options = (Kind::Float, sae.encoder_bias.device());
        let each = thresholds
            .iter()
            .map(|own| Tensor::f_full([1], *own, options));
        return Ok(Tensor::f_cat(&each.collect::<Result<Vec<_>, _>>()?, 0)?);
    }
    let [threshold] = thresholds else {
        let message = "an SAE with one threshold was given another number of them";
        return Err(Fault::internal(message).into());
    };
    Ok(threshold_factors(sae)?.f_mul_scalar(*threshold)?)
}

/// How the thresholds of an SAE's latents relate to each other, 1 on average: `[num_latents]`. They differ if training was
/// on whitened activations.
fn threshold_factors(sae: &Sae) -> Result<Tensor, EvalError> {
    let ones = sae.encoder_bias.f_ones_like()?;
    let Some(threshold) = &sae.threshold else {
        return Ok(ones);
    };
    // In Double the mean of equal numbers is that number.
    let mean = threshold.f_mean(Kind::Double)?;
    let factors = threshold.f_div(&mean.f_to_kind(Kind::Float)?)?;
    // Thresholds that are all 0 say nothing.
    let are_known = factors
        .f_isfinite()?
        .f_logical_and(&factors.f_gt(0.0)?)?
        .f_all()?;
    Ok(factors.f_where_self(&are_known, &ones)?)
}

impl Search {
    fn new(mut subject: Subject, Wanted { k, estimate }: &Wanted) -> Result<Self, EvalError> {
        let own = &mut subject.sae;
        let weights = own.named_weights().into_iter();
        let mut open =
            own.with_weights(weights.map(|(_, weight)| weight.shallow_clone()).collect());
        if !own.cfg.is_decoupled() {
            let factors = threshold_factors(own)?;
            open.encoder_weight = open.encoder_weight.f_div(&factors.f_unsqueeze(1)?)?;
            open.encoder_bias = open.encoder_bias.f_div(&factors)?;
        }
        if !estimate.is_empty() {
            own.set_thresholds(thresholds_of(own, estimate)?);
        }
        open.threshold = None;
        open.cfg.activation = Activation::Relu;
        let n_sets = own.cfg.n_active_sets();
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Double, own.b_dec.device()));
        let n_own_at = own.cfg.is_decoupled().then(|| zeros(&[n_sets as i64]));
        Ok(Self {
            n_own: zeros(&[])?,
            n_own_at: n_own_at.transpose()?,
            sets: (0..n_sets).map(|_| Largest::default()).collect(),
            open,
            k: *k,
            n_tokens: 0,
            subject,
        })
    }

    /// Adds tokens, of which there are `most` at most.
    fn add(&mut self, x: &Tensor, most: u64) -> Result<(), EvalError> {
        let own = self.subject.sae.encode(x)?;
        let n_own = own.latent_acts.f_gt(0.0)?.f_sum(Kind::Double)?;
        let _ = self.n_own.f_add_(&n_own)?;
        if let (Some(sum), Some(counts)) = (
            &mut self.n_own_at,
            self.subject.sae.active_at_hookpoints(&own)?,
        ) {
            let _ = sum.f_add_(&counts)?;
        }
        let n_wanted = self.n_wanted(most) + 1;
        let search = BatchSearch {
            n_wanted,
            least: &[],
            rescales: false,
        };
        let latents = self.open.batch_latents(x, search)?;
        let num_latents = self.open.num_latents();
        let first_place = self.n_tokens as i64 * num_latents as i64;
        for (idx, set) in self.sets.iter_mut().enumerate() {
            let places = latents.places(idx, num_latents)?;
            let places = places.f_add_scalar(first_place)?;
            set.add(latents.scores(idx), &places, n_wanted as i64)?;
        }
        self.n_tokens += x.size()[0].cast_unsigned();
        Ok(())
    }

    fn n_wanted(&self, n_tokens: u64) -> usize {
        ((self.k * n_tokens as f64).round() as usize).max(1)
    }

    fn finish(&self) -> Result<Calibrated, EvalError> {
        if self.n_tokens == 0 {
            return Err(no_token().into());
        }
        let n_wanted = self.n_wanted(self.n_tokens);
        let thresholds = self.sets.iter().map(|set| set.threshold(n_wanted));
        let thresholds: Vec<f64> = thresholds.collect::<Result<_, _>>()?;
        let above = self.sets.iter().zip(&thresholds);
        let above = above.map(|(set, threshold)| set.above(*threshold));
        let above: Vec<Tensor> = above.collect::<Result<_, _>>()?;
        let of_any = match &above[..] {
            [above] => above.shallow_clone(),
            all => {
                let (sorted, _) = Tensor::f_cat(all, 0)?.f_sort(0, false)?;
                sorted.f_unique_consecutive(false, false, 0)?.0
            }
        };
        let n_tokens = self.n_tokens as f64;
        let mut hookpoints = Vec::new();
        if let Some(n_own) = &self.n_own_at {
            let n_own = Vec::<f64>::try_from(n_own)?;
            let of_each = n_own.into_iter().zip(&thresholds).zip(&above);
            let found = of_each.map(|((n_own, threshold), above)| CalibratedHookpoint {
                own_l0: n_own / n_tokens,
                threshold: *threshold,
                l0: above.size()[0] as f64 / n_tokens,
            });
            hookpoints = found.collect();
        }
        Ok(Calibrated {
            n_tokens: self.n_tokens,
            own_l0: self.n_own.f_double_value(&[])? / n_tokens,
            threshold: thresholds.iter().sum::<f64>() / thresholds.len() as f64,
            l0: of_any.size()[0] as f64 / n_tokens,
            hookpoints,
        })
    }
}

impl Largest {
    /// Adds scores, and keeps the `n` largest.
    fn add(&mut self, scores: &Tensor, places: &Tensor, n: i64) -> Result<(), EvalError> {
        let with = |known: &Option<Tensor>, new: &Tensor| match known {
            None => Ok(new.shallow_clone()),
            Some(known) => Tensor::f_cat(&[known, new], 0),
        };
        let scores = with(&self.scores, scores)?;
        let (scores, kept) = scores.f_topk(n.min(scores.size()[0]), 0, true, false)?;
        self.places = Some(with(&self.places, places)?.f_take(&kept)?);
        self.scores = Some(scores);
        Ok(())
    }

    /// Between the last that is wanted and the next. If both are equal, as numbers of a short type are now and then, it
    /// leaves out those, or has all of them if there are no larger ones. 0 if there are no more than are wanted.
    fn threshold(&self, n_wanted: usize) -> Result<f64, EvalError> {
        let scores: Vec<&Tensor> = self.scores.iter().collect();
        let least = BatchLatents::least_of(&scores, n_wanted)?.f_double_value(&[])?;
        let next = BatchLatents::least_of(&scores, n_wanted + 1)?.f_double_value(&[])?;
        if next < least {
            return Ok(f64::from(f64::midpoint(least, next) as f32));
        }
        let n_above = |bound| Ok::<_, EvalError>(self.above(bound)?.size()[0].cast_unsigned());
        if n_above(0.0)? <= n_wanted as u64 {
            return Ok(0.0);
        }
        let least = least as f32;
        let has_larger = n_above(f64::from(least))? > 0;
        Ok(f64::from(if has_larger {
            least
        } else {
            least.next_down()
        }))
    }

    /// The places of those above the threshold: `[n]`, Int64.
    fn above(&self, threshold: f64) -> Result<Tensor, EvalError> {
        let (Some(scores), Some(places)) = (&self.scores, &self.places) else {
            return Ok(Tensor::f_empty([0], (Kind::Int64, Device::Cpu))?);
        };
        Ok(places.f_masked_select(&scores.f_gt(threshold)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The threshold for `n_wanted` of these scores, and how many are above it.
    fn found(scores: &[f32], n_wanted: usize) -> (f64, i64) {
        let places = Tensor::arange(scores.len() as i64, (Kind::Int64, Device::Cpu));
        let mut set = Largest::default();
        let n_kept = n_wanted as i64 + 1;
        set.add(&Tensor::from_slice(scores), &places, n_kept)
            .unwrap();
        let threshold = set.threshold(n_wanted).unwrap();
        (threshold, set.above(threshold).unwrap().size()[0])
    }

    #[test]
    fn a_threshold_is_between_what_is_wanted_and_the_rest() {
        assert_eq!(found(&[1.0, 5.0, 4.0, 3.0, 2.0], 3), (2.5, 3));
        assert_eq!(found(&[5.0, 4.0], 3), (0.0, 2), "there are no more");
        assert_eq!(found(&[5.0, 4.0, 3.0], 3), (0.0, 3));
    }

    #[test]
    fn equal_scores_are_left_out_or_all_taken() {
        assert_eq!(found(&[5.0, 3.0, 4.0, 3.0, 3.0, 1.0], 3), (3.0, 2));
        let (threshold, n_above) = found(&[2.0, 2.0, 2.0, 1.0], 2);
        assert_eq!((threshold as f32, n_above), (2.0_f32.next_down(), 3));
    }
}
