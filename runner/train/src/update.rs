//! One optimizer update of all jobs of a stream.

use crate::TrainError;
use crate::end_to_end;
use crate::job_trainer::JobTrainer;
use crate::output_loss::{OutputLoss, TokenBatch};
use crate::sae_trainer::{Progress, SaeTrainer};
use crate::stream_trainer::StreamTrainer;
use crate::variance::TotalVariance;
use crate::views::{View, Views};
use plan::EventKind;
use std::collections::{BTreeMap, BTreeSet};
use tch::Tensor;

/// An SAE: the indices of its job and of itself in the job.
type SaeIdx = (usize, usize);

/// Total variances of an update and their tokens, by SAE.
type Variances = BTreeMap<SaeIdx, (Tensor, u64)>;

impl StreamTrainer<'_> {
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
            None => self.accumulate(&trained, progress.step)?,
            Some(loss_fn) => self.accumulate_end_to_end(&trained, progress.step, loss_fn)?,
        };
        let Some(variances) = variances else {
            let saes = self.jobs.iter_mut().flat_map(|job| &mut job.saes);
            saes.for_each(SaeTrainer::abandon_update);
            return Ok(None);
        };
        for &job_idx in &trained {
            let job = &mut self.jobs[job_idx];
            for (sae_idx, sae) in job.saes.iter_mut().enumerate() {
                let (total_variance, n_tokens) = &variances[&(job_idx, sae_idx)];
                let denominator = output_loss.is_none().then_some(total_variance);
                sae.update(total_variance, denominator, *n_tokens, progress)?;
            }
            job.step += 1;
        }
        self.note_smaller_parts(&trained)?;
        Ok(Some(trained))
    }

    /// The forward passes of an update and, on each one's activations, every SAE. `None`: stopped.
    fn accumulate(
        &mut self,
        trained: &[usize],
        step: u64,
    ) -> Result<Option<Variances>, TrainError> {
        let mut variances: BTreeMap<View, TotalVariance> = BTreeMap::new();
        for part in self.parts_of(step) {
            if self.stop.is_set() {
                return Ok(None);
            }
            let (token_ids, input_ids) = self.tokens(part)?;
            let activations = self.model.forward(&input_ids, &self.taps)?;
            let mut views = Views::new(&activations, &token_ids);
            let mut seen = BTreeSet::new();
            for &job_idx in trained {
                let job = &mut self.jobs[job_idx];
                for sae_idx in 0..job.saes.len() {
                    let target_view = job.target_view(sae_idx);
                    let x = views.get(&job.input_view(sae_idx))?;
                    let target = views.get(&target_view)?;
                    if seen.insert(target_view.clone()) {
                        variances.entry(target_view).or_default().add(&target)?;
                    }
                    let sae = &mut job.saes[sae_idx];
                    if part == 0 {
                        sae.centre_on(&x, &target)?;
                    }
                    sae.accumulate(&x, &target)?;
                }
            }
        }
        let taken = variances
            .into_iter()
            .map(|(view, mut sum)| (view, sum.take()));
        let by_view: BTreeMap<View, (Tensor, u64)> = taken.collect();
        let mut variances = Variances::new();
        for (job_idx, sae_idx) in self.saes_of(trained) {
            let (total_variance, n_tokens) = &by_view[&self.jobs[job_idx].target_view(sae_idx)];
            let entry = (total_variance.shallow_clone(), *n_tokens);
            variances.insert((job_idx, sae_idx), entry);
        }
        Ok(Some(variances))
    }

    /// The forward passes of an update with a loss on the model's output: for every job and seed its
    /// own, with all its SAEs in the model. `None`: stopped.
    fn accumulate_end_to_end(
        &mut self,
        trained: &[usize],
        step: u64,
        loss_fn: OutputLoss,
    ) -> Result<Option<Variances>, TrainError> {
        let mut variances: BTreeMap<SaeIdx, TotalVariance> = BTreeMap::new();
        for &job_idx in trained {
            let n_output = self.n_output(&self.jobs[job_idx], step, loss_fn);
            for part in self.parts_of(step) {
                if self.stop.is_set() {
                    return Ok(None);
                }
                let (token_ids, input_ids) = self.tokens(part)?;
                let job = &mut self.jobs[job_idx];
                let exclude_tokens = job.job.config.exclude_tokens.clone();
                let batch = TokenBatch {
                    input_ids: &input_ids,
                    token_ids: &token_ids,
                    exclude_tokens: &exclude_tokens,
                };
                for together in job.saes_by_seed() {
                    let mut saes = job.choose(&together);
                    let loss = end_to_end::accumulate(
                        &self.model,
                        &mut saes,
                        &batch,
                        loss_fn,
                        n_output,
                        part == 0,
                    )?;
                    let n_here = loss_fn.n_positions(&token_ids, self.key.ctx_len, &exclude_tokens);
                    for ((sae_idx, sae), target) in together.iter().zip(saes).zip(&loss.targets) {
                        sae.add_output_loss(&loss.sum, n_here);
                        let of_sae = variances.entry((job_idx, *sae_idx)).or_default();
                        of_sae.add(target)?;
                    }
                }
            }
        }
        let taken = variances
            .into_iter()
            .map(|(sae, mut sum)| (sae, sum.take()));
        Ok(Some(taken.collect()))
    }

    /// Positions that the loss on the model's output is a mean over in an update of `job`.
    fn n_output(&self, job: &JobTrainer, step: u64, loss_fn: OutputLoss) -> u64 {
        let of_part = |part| {
            let token_ids = self.batches.batch(part);
            loss_fn.n_positions(&token_ids, self.key.ctx_len, &job.job.config.exclude_tokens)
        };
        self.parts_of(step).map(of_part).sum::<u64>().max(1)
    }

    /// The batches of an update.
    fn parts_of(&self, step: u64) -> std::ops::Range<usize> {
        let first = step as usize * self.key.grad_acc_steps;
        first..first + self.key.grad_acc_steps
    }

    /// The token ids of a batch, here and as `[batch_size, ctx_len]` on the device.
    fn tokens(&self, batch_idx: usize) -> Result<(Vec<i64>, Tensor), TrainError> {
        let shape = [self.key.batch_size as i64, self.key.ctx_len as i64];
        let token_ids = self.batches.batch(batch_idx);
        let input_ids = Tensor::f_from_slice(&token_ids)?.f_view(shape)?;
        Ok((token_ids, input_ids.f_to_device(self.device)?))
    }

    fn saes_of(&self, jobs: &[usize]) -> Vec<SaeIdx> {
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
