//! An update with a loss on the model's output: for every job and seed its own forward passes, with all its
//! SAEs in the model.

use super::activation_stream::{ActivationStream, PassIdx};
use super::job_trainer::JobUpdate;
use super::output_loss::{OutputLoss, TokenBatch};
use super::sums::{Sums, VarianceIdx, Variances};
use super::{StreamTrainer, end_to_end, jobs_at};
use crate::TrainError;
use crate::ranks::Ranks;
use crate::sae_trainer::{Progress, Update};
use plan::Job;
use std::collections::BTreeMap;

/// What the passes of a job's update have in common.
struct JobPasses<'a> {
    stream: &'a ActivationStream,
    ranks: &'a dyn Ranks,
    job: &'a Job,
    loss_fn: OutputLoss,
    /// Positions that the loss is a mean over in the update, on all ranks.
    n_output: u64,
}

impl StreamTrainer<'_> {
    /// An update with a loss on the model's output; `false`: it was stopped.
    pub(super) fn update_end_to_end(
        &mut self,
        progress: Progress,
        loss_fn: OutputLoss,
    ) -> Result<bool, TrainError> {
        let jobs = jobs_at(&mut self.jobs, progress.step).map(|job| job.start(progress));
        let jobs: Vec<JobUpdate<'_>> = jobs.collect::<Result<_, _>>()?;
        let (stream, ranks) = (&self.stream, self.ranks);
        let passes = stream.passes_here(progress.step);
        let of_job = |job: &JobUpdate<'_>| n_output(stream, &passes, job.job, loss_fn) as i64;
        let ours: Vec<i64> = jobs.iter().map(of_job).collect();
        let what = format!("positions of update {}", progress.step);
        let of_ranks = ranks.gather(&what, &ours)?;
        let mut sums = Sums::default();
        for (idx, JobUpdate { job, updates }) in jobs.into_iter().enumerate() {
            let n_output = of_ranks.iter().map(|of_jobs| of_jobs[idx] as u64).sum();
            let updates = updates.into_iter();
            let mut updates: Vec<_> = updates
                .map(|update| (sums.variances.of_sae(update.trainer), update))
                .collect();
            let job_passes = JobPasses {
                stream,
                ranks,
                job,
                loss_fn,
                n_output,
            };
            for &pass in &passes {
                if ranks.stops_at_once(self.stop.is_set()) {
                    return Ok(false);
                }
                job_passes.add(pass, &mut updates, &mut sums.variances)?;
            }
            for (variance, update) in updates {
                sums.push_end_to_end(variance, update.sum(ranks)?, n_output);
            }
        }
        sums.finish(ranks, self.stop.is_set(), progress)
    }
}

impl JobPasses<'_> {
    /// One forward pass and back, for every seed.
    fn add(
        &self,
        pass: PassIdx,
        updates: &mut [(VarianceIdx, Update<'_>)],
        variances: &mut Variances,
    ) -> Result<(), TrainError> {
        let (token_ids, input_ids) = self.stream.tokens(pass)?;
        let exclude_tokens = &self.job.config.exclude_tokens;
        let batch = TokenBatch {
            input_ids: &input_ids,
            token_ids: &token_ids,
            exclude_tokens,
        };
        let how = end_to_end::How {
            loss_fn: self.loss_fn,
            n_output: self.n_output.max(1),
            centre: (pass == PassIdx::FIRST).then_some(self.ranks),
        };
        let ctx_len = self.stream.key.ctx_len;
        let n_here = self
            .loss_fn
            .n_positions(&token_ids, ctx_len, exclude_tokens);
        for (indices, mut updates) in by_seed(updates) {
            let loss = end_to_end::accumulate(&self.stream.model, &mut updates, &batch, &how)?;
            for ((idx, update), target) in indices.into_iter().zip(updates).zip(&loss.targets) {
                update.add_output_loss(&loss.sum, n_here);
                variances.add(idx, pass, target)?;
            }
        }
        Ok(())
    }
}

/// SAEs that can be in the model at the same time, one for a hookpoint: those of each seed.
type OfSeed<'a, 'b> = (Vec<VarianceIdx>, Vec<&'a mut Update<'b>>);

fn by_seed<'a, 'b>(
    updates: &'a mut [(VarianceIdx, Update<'b>)],
) -> impl Iterator<Item = OfSeed<'a, 'b>> {
    let mut by_seed: BTreeMap<i64, OfSeed<'a, 'b>> = BTreeMap::new();
    for (idx, update) in updates {
        let of_seed = by_seed.entry(update.trainer.spec.seed).or_default();
        of_seed.0.push(*idx);
        of_seed.1.push(update);
    }
    by_seed.into_values()
}

/// Positions of this rank that the loss is a mean over in an update of the passes.
fn n_output(stream: &ActivationStream, passes: &[PassIdx], job: &Job, loss_fn: OutputLoss) -> u64 {
    let of_pass = |&pass: &PassIdx| {
        let token_ids = stream.token_ids(pass);
        loss_fn.n_positions(&token_ids, stream.key.ctx_len, &job.config.exclude_tokens)
    };
    passes.iter().map(of_pass).sum()
}
