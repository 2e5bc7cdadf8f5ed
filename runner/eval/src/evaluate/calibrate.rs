//! The threshold of SAEs that chose their latents among those of whole batches in training: such that held-out tokens
//! have as many on average. It has none of the lag that an estimate made in training has.

use super::batch::Batch;
use super::replacement::select;
use super::{EvalRequest, Subject, load, no_token};
use crate::EvalError;
use crate::models::{Facts, Models};
use crate::ranks::Ranks;
use crate::sites::taps_of_inputs;
use sae::{Activation, BatchLatents, BatchSearch, Sae, least_score};
use std::ops::ControlFlow;
use tch::{Kind, Tensor};

/// What is wanted of an SAE's threshold.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Active latents of a token on average.
    pub k: f64,
    /// The threshold that training estimated, if the SAE may have another one by now.
    pub estimate: Option<f64>,
}

/// What was found for an SAE.
#[derive(Clone, Copy, Debug)]
pub struct Calibrated {
    /// Held-out tokens.
    pub n_tokens: u64,
    /// Their mean L0 with the threshold that training estimated.
    pub own_l0: f64,
    /// The threshold that gives as many latents as are wanted, or as near to that as there are positive ones.
    pub threshold: f64,
    /// The mean L0 that it gives.
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
    /// The largest pre-activations: all that may be wanted.
    scores: Vec<Tensor>,
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
        .map(|(subject, wanted)| Search::new(subject, *wanted));
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
    let found = searches.iter_mut().map(|search| search.finish(ranks));
    found.collect::<Result<_, _>>().map(Some)
}

/// How the thresholds of an SAE's latents relate to each other, 1 on average: `[num_latents]`. They differ if training was
/// on whitened activations.
///
/// # Errors
/// Too little memory.
pub fn threshold_factors(sae: &Sae) -> Result<Tensor, EvalError> {
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
    fn new(mut subject: Subject, Wanted { k, estimate }: Wanted) -> Result<Self, EvalError> {
        let own = &mut subject.sae;
        let weights = own.named_weights().into_iter();
        let mut open =
            own.with_weights(weights.map(|(_, weight)| weight.shallow_clone()).collect());
        let factors = threshold_factors(own)?;
        if let Some(estimate) = estimate {
            own.set_thresholds(factors.f_mul_scalar(estimate)?);
        }
        open.encoder_weight = open.encoder_weight.f_div(&factors.f_unsqueeze(1)?)?;
        open.encoder_bias = open.encoder_bias.f_div(&factors)?;
        open.threshold = None;
        open.cfg.activation = Activation::Relu;
        Ok(Self {
            n_own: Tensor::f_zeros([0i64; 0], (Kind::Double, own.b_dec.device()))?,
            open,
            k,
            n_tokens: 0,
            scores: Vec::new(),
            subject,
        })
    }

    /// Adds tokens, of which there are `most` at most.
    fn add(&mut self, x: &Tensor, most: u64) -> Result<(), EvalError> {
        self.n_tokens += x.size()[0].cast_unsigned();
        let own = self.subject.sae.encode(x)?.latent_acts;
        let _ = self.n_own.f_add_(&own.f_gt(0.0)?.f_sum(Kind::Double)?)?;
        let n_wanted = self.n_wanted(most) + 1;
        let search = BatchSearch {
            n_wanted,
            least: 0.0,
            rescales: false,
        };
        let latents = self.open.batch_latents(x, search)?;
        self.scores.push(latents.scores().shallow_clone());
        let all = Tensor::f_cat(&self.scores, 0)?;
        let n = (n_wanted as i64).min(all.size()[0]);
        self.scores = vec![all.f_topk(n, 0, true, false)?.0];
        Ok(())
    }

    fn n_wanted(&self, n_tokens: u64) -> usize {
        ((self.k * n_tokens as f64).round() as usize).max(1)
    }

    fn finish(&mut self, ranks: &dyn Ranks) -> Result<Calibrated, EvalError> {
        // Sync: one number.
        let n_own = self.n_own.f_double_value(&[])? as u64;
        let sums = ranks.sum_numbers("calibrated tokens", &[self.n_tokens, n_own])?;
        let n_own = sums[1];
        self.n_tokens = sums[0];
        if self.n_tokens == 0 {
            return Err(no_token().into());
        }
        let n_wanted = self.n_wanted(self.n_tokens);
        let least = self.least(n_wanted, ranks)?;
        let next = self.least(n_wanted + 1, ranks)?;
        // Between the last that is wanted and the next, if there is one.
        let threshold = if next < least {
            f64::midpoint(least, next)
        } else {
            0.0
        };
        let threshold = f64::from(threshold as f32);
        let n_active = match self.scores.first() {
            Some(scores) => scores
                .f_gt(threshold)?
                .f_sum(Kind::Double)?
                .f_double_value(&[])?,
            None => 0.0,
        };
        let n_active = ranks.sum_numbers("active latents", &[n_active as u64])?[0];
        let n_tokens = self.n_tokens as f64;
        Ok(Calibrated {
            n_tokens: self.n_tokens,
            own_l0: n_own as f64 / n_tokens,
            threshold,
            l0: n_active as f64 / n_tokens,
        })
    }

    /// The least of the `n` largest pre-activations of all ranks.
    fn least(&self, n: usize, ranks: &dyn Ranks) -> Result<f64, EvalError> {
        let scores: Vec<&Tensor> = self.scores.iter().collect();
        if ranks.shard().n_ranks == 1 {
            return Ok(BatchLatents::least_of(&scores, n)?.f_double_value(&[])?);
        }
        let gather = |counts: &[i64]| ranks.numbers("scores", counts);
        Ok(least_score(&scores, n, gather)?.into())
    }
}
