//! The threshold of SAEs that chose their latents among those of whole batches in training: such that held-out tokens
//! have as many on average. It has none of the lag that an estimate made in training has.

use super::batch::Batch;
use super::replacement::select;
use super::{EvalRequest, Subject, load, no_token};
use crate::EvalError;
use crate::models::{Facts, Models};
use crate::ranks::Ranks;
use crate::sites::taps_of_inputs;
use fault::Fault;
use sae::{Activation, BatchLatents, BatchSearch, Sae, least_scores};
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

/// Looks for the thresholds with which the SAEs of `request` have as many active latents as is `wanted` of each, on all
/// `ranks`: they are the same on each, and to the bit those of one process wherever a batch gives the same bits. `None`:
/// `report`, which gets the number of sequences done and that of all, stopped it on one.
///
/// # Errors
/// As [`super::evaluate`].
pub fn calibrate(
    request: &EvalRequest,
    wanted: &[Wanted],
    ranks: &dyn Ranks,
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
    let batch_size = request.batch_size.max(1);
    let mut n_done = 0;
    for token_ids in sequences.rounds(batch_size, ranks.shard()) {
        let is_asked = report(n_done, n_sequences).is_break();
        if ranks.any("calibration ends", is_asked)? {
            return Ok(None);
        }
        n_done += (batch_size * ranks.shard().n_ranks) as u64;
        let Some(token_ids) = token_ids else { continue };
        let batch = Batch::new(&token_ids, sequences.ctx_len(), &filters, device)?;
        let activations = models.forward(&batch.input_ids, &taps)?;
        for (search, kept) in searches.iter_mut().zip(&batch.kept) {
            let x = search.subject.site.input(&activations)?;
            let x = select(&x, kept.rows(x.size()[0]))?.f_to_kind(Kind::Float)?;
            search.add(&x, most)?;
        }
    }
    let found = searches.iter().map(|search| search.finish(ranks));
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

    fn finish(&self, ranks: &dyn Ranks) -> Result<Calibrated, EvalError> {
        let n_tokens = ranks.sum_numbers("calibrated tokens", &[self.n_tokens])?[0];
        if n_tokens == 0 {
            return Err(no_token().into());
        }
        let n_wanted = self.n_wanted(n_tokens);
        let thresholds = thresholds(&self.sets, n_wanted, ranks)?;
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
        // A token is on one rank: numbers of active latents add up.
        let mut counts = vec![self.n_own.f_double_value(&[])? as u64];
        counts.push(of_any.size()[0].cast_unsigned());
        if let Some(n_own) = &self.n_own_at {
            let n_own = Vec::<f64>::try_from(n_own)?;
            for (n_own, above) in n_own.into_iter().zip(&above) {
                counts.extend([n_own as u64, above.size()[0].cast_unsigned()]);
            }
        }
        let counts = ranks.sum_numbers("active latents", &counts)?;
        let a_token = |count: u64| count as f64 / n_tokens as f64;
        let of_hookpoints = counts[2..].chunks(2).zip(&thresholds);
        let hookpoints = of_hookpoints.map(|(counts, threshold)| CalibratedHookpoint {
            own_l0: a_token(counts[0]),
            threshold: *threshold,
            l0: a_token(counts[1]),
        });
        Ok(Calibrated {
            n_tokens,
            own_l0: a_token(counts[0]),
            threshold: thresholds.iter().sum::<f64>() / thresholds.len() as f64,
            l0: a_token(counts[1]),
            hookpoints: hookpoints.collect(),
        })
    }
}

/// Of each set, between the last score that is wanted and the next of all `ranks`. If both are equal, as numbers of a
/// short type are now and then, it leaves out those, or has all of them if there are no larger ones. 0 if there are no
/// more than are wanted.
fn thresholds(sets: &[Largest], n_wanted: usize, ranks: &dyn Ranks) -> Result<Vec<f64>, EvalError> {
    let least = least_of(sets, n_wanted, ranks)?;
    let next = least_of(sets, n_wanted + 1, ranks)?;
    let mut counts = vec![0; 2 * sets.len()];
    // All ranks find the same, so they agree on whether to count.
    if least.iter().zip(&next).any(|(least, next)| next >= least) {
        for ((set, least), counts) in sets.iter().zip(&least).zip(counts.chunks_mut(2)) {
            counts.copy_from_slice(&[set.n_above(0.0)?, set.n_above(*least)?]);
        }
        counts = ranks.sum_numbers("scores above bounds", &counts)?;
    }
    let sets = least.into_iter().zip(next).zip(counts.chunks(2));
    let threshold = |((least, next), counts): ((f64, f64), &[u64])| {
        let (n_positive, n_larger) = (counts[0], counts[1]);
        if next < least {
            f64::from(f64::midpoint(least, next) as f32)
        } else if n_positive <= n_wanted as u64 {
            0.0
        } else if n_larger > 0 {
            least
        } else {
            f64::from((least as f32).next_down())
        }
    };
    Ok(sets.map(threshold).collect())
}

/// The least of the `n` largest scores of all ranks, for each set.
fn least_of(sets: &[Largest], n: usize, ranks: &dyn Ranks) -> Result<Vec<f64>, EvalError> {
    let sets = sets.iter().map(|set| set.scores.iter().collect());
    let sets: Vec<Vec<&Tensor>> = sets.collect();
    if ranks.shard().n_ranks == 1 {
        let least = sets.iter().map(|scores| {
            let least = BatchLatents::least_of(scores, n)?;
            Ok(least.f_double_value(&[])?)
        });
        return least.collect();
    }
    let gather = |counts: &[i64]| ranks.numbers("scores", counts);
    let least = least_scores(&sets, n, gather)?.into_iter();
    Ok(least.map(f64::from).collect())
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

    /// How many are above a bound, which may be more than is known if all that are kept are.
    fn n_above(&self, bound: f64) -> Result<u64, EvalError> {
        Ok(self.above(bound)?.size()[0].cast_unsigned())
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
    use crate::thread_ranks::on_ranks;

    /// The threshold for `n_wanted` of these scores, and how many are above it: the same on any number of ranks.
    fn found(scores: &[f32], n_wanted: usize) -> (f64, u64) {
        let of_ranks = [1, 2, 3].map(|n_ranks| {
            let found = on_ranks(n_ranks, |ranks| {
                let own = scores.iter().skip(ranks.shard().rank).step_by(n_ranks);
                let own: Vec<f32> = own.copied().collect();
                let places = Tensor::arange(own.len() as i64, (Kind::Int64, Device::Cpu));
                let mut set = Largest::default();
                let n_kept = n_wanted as i64 + 1;
                set.add(&Tensor::from_slice(&own), &places, n_kept).unwrap();
                let threshold = thresholds(std::slice::from_ref(&set), n_wanted, ranks).unwrap()[0];
                (threshold, set.n_above(threshold).unwrap())
            });
            let n_above = found.iter().map(|(_, n_above)| n_above).sum();
            assert!(found.iter().all(|(threshold, _)| *threshold == found[0].0));
            (found[0].0, n_above)
        });
        assert!(
            of_ranks.iter().all(|found| *found == of_ranks[0]),
            "{of_ranks:?}"
        );
        of_ranks[0]
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
