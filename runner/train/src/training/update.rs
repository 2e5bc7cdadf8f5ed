//! One optimizer update of all jobs of a stream.

use crate::TrainError;
use crate::activations::variance::{Moments, TotalVariance};
use crate::activations::views::{View, Views};
use crate::ranks::Ranks;
use crate::ranks::exchange::{Exchange, Received};
use crate::ranks::reduction::Reduction;
use crate::sae_trainer::{Progress, SaeTrainer};
use crate::training::StreamTrainer;
use crate::training::end_to_end;
use crate::training::job_trainer::JobTrainer;
use crate::training::output_loss::{OutputLoss, TokenBatch};
use lm::Activations;
use plan::EventKind;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use tch::Tensor;

/// From which fresh SAEs take their biases.
const FIRST_PASS: PassIdx = (0, 0);

/// An SAE of this rank: the indices of its job, and of itself among those that the rank has of the job.
type SaeIdx = (usize, usize);

/// Total variances of an update and their tokens.
type Variances<K> = BTreeMap<K, (Tensor, u64)>;

/// A forward pass: the indices of the batch and of the pass over this rank's part of it.
type PassIdx = (usize, usize);

/// What the forward passes of an update add up to on this rank, beside what each SAE keeps.
struct Accumulated<'a, K> {
    moments: BTreeMap<K, TotalVariance>,
    /// Of activations that came from all ranks to this one.
    of_all: BTreeMap<K, TotalVariance>,
    /// Sums that are on their way to all ranks; none where this is the only one.
    reductions: Vec<(SaeIdx, Reduction<'a>)>,
    /// Positions of the loss on the model's output, by job, over all ranks.
    n_output: BTreeMap<usize, u64>,
}

/// Activations of a pass: this rank's, where it has a part of the pass, and those that came from all.
pub(crate) struct Sources<'a> {
    pub(crate) views: Option<Views<'a>>,
    pub(crate) received: Received,
}

impl Sources<'_> {
    pub(crate) fn get(
        &mut self,
        view: &View,
        is_of_all: bool,
    ) -> Result<Option<Tensor>, TrainError> {
        match (is_of_all, &mut self.views) {
            (true, _) => self.received.get(view).map(Some),
            (false, Some(views)) => views.get(view).map(Some),
            (false, None) => Ok(None),
        }
    }
}

impl<'a> StreamTrainer<'a> {
    /// One optimizer update of every job that stands at the step; gives their indices. A job that is
    /// ahead (its last checkpoint is newer than another's) waits until the others have caught up.
    /// `None`: a stop was asked for meanwhile, and the update is as if it had not been begun.
    pub(crate) fn update(&mut self, progress: Progress) -> Result<Option<Vec<usize>>, TrainError> {
        let trained = self.jobs_at(progress.step);
        for &job_idx in &trained {
            for sae in &mut self.jobs[job_idx].saes {
                sae.begin_update(progress.step)?;
            }
        }
        let output_loss = OutputLoss::of(self.key.loss_fn);
        let variances = match output_loss {
            None => self.at_hookpoints(&trained, progress)?,
            Some(loss_fn) => self.end_to_end(&trained, progress.step, loss_fn)?,
        };
        let Some(variances) = variances else {
            let saes = self.jobs.iter_mut().flat_map(|job| &mut job.saes);
            saes.for_each(SaeTrainer::abandon_update);
            return Ok(None);
        };
        for &job_idx in &trained {
            let job = &mut self.jobs[job_idx];
            for (sae_idx, sae) in job.saes.iter_mut().enumerate() {
                if !sae.is_updating() {
                    continue;
                }
                let (total_variance, n_tokens) = &variances[&(job_idx, sae_idx)];
                let denominator = output_loss.is_none().then_some(total_variance);
                sae.update(total_variance, denominator, *n_tokens, progress)?;
            }
            job.step += 1;
        }
        self.note_smaller_parts(&trained)?;
        Ok(Some(trained))
    }

    /// An update's sums with losses at the hookpoints. `None`: stopped.
    fn at_hookpoints(
        &mut self,
        trained: &[usize],
        progress: Progress,
    ) -> Result<Option<Variances<SaeIdx>>, TrainError> {
        let Some(mut accumulated) = self.accumulate(trained, progress)? else {
            return Ok(None);
        };
        let of_all = std::mem::take(&mut accumulated.of_all).into_iter();
        let of_all: Variances<View> = of_all
            .map(|(view, mut sum)| (view, sum.take()))
            .map(|(view, sum)| (view, (sum.squared_deviations, sum.n_tokens)))
            .collect();
        let Some(merged) = self.gather_update(accumulated, progress.step)? else {
            return Ok(None);
        };
        let of_sae = |(job_idx, sae_idx): SaeIdx| {
            let job = &self.jobs[job_idx];
            let (_, target) = job.views(&job.saes[sae_idx].spec);
            let (total_variance, n_tokens) = match job.owners.are_spread() {
                true => &of_all[&target],
                false => &merged[&target],
            };
            let entry = (total_variance.shallow_clone(), *n_tokens);
            ((job_idx, sae_idx), entry)
        };
        Ok(Some(
            self.saes_of(trained).into_iter().map(of_sae).collect(),
        ))
    }

    /// An update's sums with a loss on the model's output. `None`: stopped.
    fn end_to_end(
        &mut self,
        trained: &[usize],
        step: u64,
        loss_fn: OutputLoss,
    ) -> Result<Option<Variances<SaeIdx>>, TrainError> {
        match self.accumulate_end_to_end(trained, step, loss_fn)? {
            Some(accumulated) => self.gather_update(accumulated, step),
            None => Ok(None),
        }
    }

    /// The forward passes of an update and, on each one's activations, every SAE. Where there is one pass and
    /// nobody to agree with, an SAE is updated at once, before the next one's gradients are made: so those
    /// of one SAE stand in memory at a time. `None`: stopped.
    fn accumulate(
        &mut self,
        trained: &[usize],
        progress: Progress,
    ) -> Result<Option<Accumulated<'a, View>>, TrainError> {
        let mut accumulated = Accumulated::default();
        let routes = trained.iter().flat_map(|&job| self.jobs[job].routes());
        let mut exchange = Exchange::new(self.ranks, routes);
        let passes = self.passes_of(progress.step, self.batches.most_passes());
        let has_one_pass = self.batches.most_passes() == 1;
        if progress.step == 0 && !has_one_pass {
            self.centre_on_all_passes(trained)?;
        }
        let is_whole = passes.len() == 1 && !self.ranks.are_several();
        for &pass in &passes {
            if self.is_stopped_alone() {
                return Ok(None);
            }
            let forward = self.forward(pass)?;
            let views = forward.as_ref();
            let views = views.map(|(token_ids, activations)| Views::new(activations, token_ids));
            let received = exchange.pass(views.as_ref())?;
            let mut sources = Sources { views, received };
            let mut seen = BTreeSet::new();
            for (job_idx, sae_idx) in self.saes_of(trained) {
                let job = &mut self.jobs[job_idx];
                let is_spread = job.owners.are_spread();
                let (input, target) = job.views(&job.saes[sae_idx].spec);
                if let Some(x) = sources.get(&input, is_spread)?
                    && let Some(y) = sources.get(&target, is_spread)?
                {
                    let moments = accumulated.moments_of(target.clone(), is_spread);
                    if seen.insert((is_spread, target)) {
                        moments.add(&y)?;
                    }
                    if pass == FIRST_PASS && has_one_pass {
                        let ranks = job.ranks(self.ranks);
                        job.saes[sae_idx].centre_on(&x, &y, ranks)?;
                    }
                    let sae = &mut job.saes[sae_idx];
                    match is_whole {
                        true => sae.update_at_once(&x, &y, moments.so_far(), progress)?,
                        false => sae.accumulate(&x, &y)?,
                    }
                }
                if Some(&pass) == passes.last() {
                    accumulated.begin_sum(job, (job_idx, sae_idx), self.ranks)?;
                }
            }
        }
        Ok(Some(accumulated))
    }

    /// A forward pass with its token ids; `None`: this rank's part of the batch is used up.
    pub(crate) fn forward(
        &self,
        (batch_idx, pass_idx): PassIdx,
    ) -> Result<Option<(Vec<i64>, Activations)>, TrainError> {
        if pass_idx >= self.batches.n_passes() {
            return Ok(None);
        }
        let (token_ids, input_ids) = self.tokens((batch_idx, pass_idx))?;
        let activations = self.model.forward(&input_ids, &self.taps)?;
        Ok(Some((token_ids, activations)))
    }

    /// The forward passes of an update with a loss on the model's output: for every job and seed its
    /// own, with all its SAEs in the model. `None`: stopped.
    fn accumulate_end_to_end(
        &mut self,
        trained: &[usize],
        step: u64,
        loss_fn: OutputLoss,
    ) -> Result<Option<Accumulated<'a, SaeIdx>>, TrainError> {
        let mut accumulated = Accumulated {
            n_output: self.n_output(trained, step, loss_fn)?,
            ..Accumulated::default()
        };
        for &job_idx in trained {
            for pass in self.passes_of(step, self.batches.n_passes()) {
                if self.is_stopped_alone() {
                    return Ok(None);
                }
                self.pass_end_to_end(job_idx, pass, loss_fn, &mut accumulated)?;
            }
            for sae_idx in 0..self.jobs[job_idx].saes.len() {
                let job = &mut self.jobs[job_idx];
                accumulated.begin_sum(job, (job_idx, sae_idx), self.ranks)?;
            }
        }
        Ok(Some(accumulated))
    }

    /// One forward pass of a job, and back, for every seed.
    fn pass_end_to_end(
        &mut self,
        job_idx: usize,
        pass: PassIdx,
        loss_fn: OutputLoss,
        accumulated: &mut Accumulated<'a, SaeIdx>,
    ) -> Result<(), TrainError> {
        let (token_ids, input_ids) = self.tokens(pass)?;
        let n_output = accumulated.n_output[&job_idx].max(1);
        let job = &mut self.jobs[job_idx];
        let exclude_tokens = job.job.config.exclude_tokens.clone();
        let batch = TokenBatch {
            input_ids: &input_ids,
            token_ids: &token_ids,
            exclude_tokens: &exclude_tokens,
        };
        let how = end_to_end::How {
            loss_fn,
            n_output,
            centre: (pass == FIRST_PASS).then_some(self.ranks),
        };
        for together in job.saes_by_seed() {
            let mut saes = job.choose(&together);
            let loss = end_to_end::accumulate(&self.model, &mut saes, &batch, &how)?;
            let n_here = loss_fn.n_positions(&token_ids, self.key.ctx_len, &exclude_tokens);
            for ((sae_idx, sae), target) in together.iter().zip(saes).zip(&loss.targets) {
                sae.add_output_loss(&loss.sum, n_here);
                let of_sae = accumulated.moments.entry((job_idx, *sae_idx));
                of_sae.or_default().add(target)?;
            }
        }
        Ok(())
    }

    /// The total variances of all ranks' tokens and their numbers; and what SAEs sum is summed by then.
    /// `None`: a rank was asked to stop.
    fn gather_update<K: Ord + Debug>(
        &mut self,
        accumulated: Accumulated<'a, K>,
        step: u64,
    ) -> Result<Option<Variances<K>>, TrainError> {
        let Accumulated {
            moments,
            reductions,
            n_output,
            ..
        } = accumulated;
        let moments = moments.into_iter().map(|(key, mut sum)| (key, sum.take()));
        let moments: Vec<(K, Moments)> = moments.collect();
        let stop = self.ranks.are_several() && self.stop.is_set();
        let mut numbers = vec![i64::from(stop)];
        numbers.extend(moments.iter().map(|(_, moments)| moments.n_tokens as i64));
        let of_ranks = self
            .ranks
            .gather(&format!("counts of update {step}"), &numbers)?;
        let mut variances = BTreeMap::new();
        for (place, (key, ours)) in moments.into_iter().enumerate() {
            let n_tokens: Vec<u64> = of_ranks
                .iter()
                .map(|numbers| numbers[1 + place] as u64)
                .collect();
            let merged =
                self.ranks
                    .merge_moments(&format!("moments of {key:?}"), ours, &n_tokens)?;
            variances.insert(key, (merged.squared_deviations, n_tokens.iter().sum()));
        }
        for ((job_idx, sae_idx), reduction) in reductions {
            let n_output = n_output.get(&job_idx).copied().unwrap_or(0);
            self.jobs[job_idx].saes[sae_idx].end_sum(reduction, n_output)?;
        }
        let is_stopped = of_ranks.iter().any(|numbers| numbers[0] != 0);
        Ok((!is_stopped).then_some(variances))
    }

    /// Positions that the loss on the model's output is a mean over in an update, by job.
    fn n_output(
        &self,
        trained: &[usize],
        step: u64,
        loss_fn: OutputLoss,
    ) -> Result<BTreeMap<usize, u64>, TrainError> {
        let of_job = |&job_idx: &usize| {
            let exclude_tokens = &self.jobs[job_idx].job.config.exclude_tokens;
            let of_pass = |(batch_idx, pass_idx)| {
                let token_ids = self.batches.pass(batch_idx, pass_idx);
                loss_fn.n_positions(&token_ids, self.key.ctx_len, exclude_tokens)
            };
            let passes = self.passes_of(step, self.batches.n_passes());
            passes.into_iter().map(of_pass).sum::<u64>() as i64
        };
        let ours: Vec<i64> = trained.iter().map(of_job).collect();
        let of_ranks = self
            .ranks
            .gather(&format!("positions of update {step}"), &ours)?;
        let of_all = trained.iter().enumerate().map(|(place, &job_idx)| {
            let n_output: i64 = of_ranks.iter().map(|ours| ours[place]).sum();
            (job_idx, n_output as u64)
        });
        Ok(of_all.collect())
    }

    /// Whether the model without SAEs gives finite logits for tokens of the update behind `step` of them.
    pub(crate) fn model_is_finite_at(&self, step: u64) -> Result<bool, TrainError> {
        let passes = self.passes_of(step, self.batches.n_passes());
        let Some(&pass) = passes.first() else {
            return Ok(true);
        };
        let (_, input_ids) = self.tokens(pass)?;
        let logits = self.model.logits(&input_ids)?;
        Ok(bool::try_from(logits.f_isfinite()?.f_all()?)?)
    }

    /// Several ranks agree on a stop once an update; one alone need not wait for its end.
    fn is_stopped_alone(&self) -> bool {
        !self.ranks.are_several() && self.stop.is_set()
    }

    /// The forward passes of an update, with `n_passes` over each batch.
    fn passes_of(&self, step: u64, n_passes: usize) -> Vec<PassIdx> {
        let first = step as usize * self.key.grad_acc_steps;
        let batches = first..first + self.key.grad_acc_steps;
        let of_batch = |batch_idx| (0..n_passes).map(move |pass| (batch_idx, pass));
        batches.flat_map(of_batch).collect()
    }

    /// The token ids of a pass, here and as `[n_sequences, ctx_len]` on the device.
    fn tokens(&self, (batch_idx, pass_idx): PassIdx) -> Result<(Vec<i64>, Tensor), TrainError> {
        let token_ids = self.batches.pass(batch_idx, pass_idx);
        let input_ids = Tensor::f_from_slice(&token_ids)?.f_view([-1, self.key.ctx_len as i64])?;
        Ok((token_ids, input_ids.f_to_device(self.device)?))
    }

    pub(crate) fn saes_of(&self, jobs: &[usize]) -> Vec<SaeIdx> {
        let of_job = |&job_idx: &usize| {
            let n_saes = self.jobs[job_idx].saes.len();
            (0..n_saes).map(move |sae_idx| (job_idx, sae_idx))
        };
        jobs.iter().flat_map(of_job).collect()
    }

    /// Says where memory ran out and batches are cut into smaller parts from now on.
    fn note_smaller_parts(&mut self, jobs: &[usize]) -> Result<(), TrainError> {
        for (job_idx, sae_idx) in self.saes_of(jobs) {
            let job = &mut self.jobs[job_idx];
            let name = job.job.name.clone();
            let sae = &mut job.saes[sae_idx];
            if let Some(n_parts) = sae.take_smaller_parts() {
                let sae = &sae.spec.name;
                let message = format!(
                    "memory ran out for `{sae}` of `{name}`: batches are cut into {n_parts} parts"
                );
                self.events.write(EventKind::Note { message })?;
            }
        }
        Ok(())
    }
}

impl<K> Default for Accumulated<'_, K> {
    fn default() -> Self {
        Self {
            moments: BTreeMap::new(),
            of_all: BTreeMap::new(),
            reductions: Vec::new(),
            n_output: BTreeMap::new(),
        }
    }
}

impl<'a, K> Accumulated<'a, K> {
    fn moments_of(&mut self, key: K, is_of_all: bool) -> &mut TotalVariance
    where
        K: Ord,
    {
        let moments = match is_of_all {
            true => &mut self.of_all,
            false => &mut self.moments,
        };
        moments.entry(key).or_default()
    }

    /// Begins to sum what an SAE has of the update: other SAEs compute meanwhile.
    fn begin_sum(
        &mut self,
        job: &mut JobTrainer,
        (job_idx, sae_idx): SaeIdx,
        ranks: Ranks<'a>,
    ) -> Result<(), TrainError> {
        let ranks = job.ranks(ranks);
        if !ranks.are_several() {
            return Ok(());
        }
        let sae = &mut job.saes[sae_idx];
        let name = format!("`{}` of job {}", sae.spec.name, job.job.job_id);
        let reduction = sae.begin_sum(ranks, &name)?;
        self.reductions.push(((job_idx, sae_idx), reduction));
        Ok(())
    }
}
