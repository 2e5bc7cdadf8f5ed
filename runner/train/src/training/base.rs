//! A job that continues from a state of another, which differs only in how long it is trained.

use super::job_trainer::{JobTrainer, elsewhere};
use crate::TrainError;
use crate::checkpoint::state::{self, State};
use plan::{BaseJob, TrainConfig, n_shared_updates};
use std::path::Path;
use tch::Device;

/// How long a training is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Length {
    /// Optimizer updates.
    pub(crate) n_steps: u64,
    /// Sequences of an epoch.
    pub(crate) n_examples: u64,
}

impl Length {
    /// Whether the updates up to a state of a job with these settings were on the sequences that this training begins
    /// with. Trainings on different numbers of examples have those of the first epoch in common, up to the smaller number.
    fn begins_with(self, state: &State, config: &TrainConfig) -> bool {
        let of_step = config.batches_per_pass() * config.batch_size * config.grad_acc_steps;
        let n_seen = state.step.saturating_mul(of_step as u64);
        let n_others = state.n_examples;
        n_others == Some(self.n_examples)
            || n_seen <= self.n_examples.min(n_others.unwrap_or(u64::MAX))
    }
}

impl JobTrainer {
    /// Brings a job that is fresh to the newest state of `bases` whose updates are also the first ones of a training of
    /// `length`. Which SAEs are the best so far is not known then, so a job that keeps those begins at the start.
    pub(super) fn begin_from(
        &mut self,
        bases: &[BaseJob],
        (runs_dir, device): (&Path, Device),
        length: Length,
    ) -> Result<(), TrainError> {
        let n_steps = length.n_steps;
        self.kept_step = self.job.config.kept_step(n_steps);
        self.n_examples = Some(length.n_examples);
        if self.step > 0 || self.job.config.save_best {
            return Ok(());
        }
        let config = &self.job.config;
        let is_usable = |base: &BaseJob, state: &State| {
            let n_shared = |n| n_shared_updates(config, n, n_steps);
            state.job_id == base.job_id
                && state.n_ranks == config.batches_per_pass()
                && length.begins_with(state, config)
                && state.n_steps.is_some_and(|n| state.step <= n_shared(n))
        };
        let mut newest: Option<(u64, &BaseJob)> = None;
        for base in bases {
            let dir = runs_dir.join(&base.kept_dir);
            let step = state::kept(&dir)?.filter(|state| is_usable(base, state));
            newest = newest.max(step.map(|state| (state.step, base)));
        }
        let Some((_, base)) = newest else {
            return Ok(());
        };
        let elsewhere = elsewhere(&self.job, &self.owners);
        let of_base = (base.job_id.as_str(), elsewhere.as_slice());
        let dir = runs_dir.join(&base.kept_dir);
        if let Some(restored) = state::restore(&dir, of_base, &mut self.saes, device)? {
            self.step = restored.state.step;
            self.notes.push(format!(
                "`{}` continues from step {} of job {}",
                self.job.name, self.step, base.job_id
            ));
            self.kernels = restored.state.kernels;
            self.base = Some(base.job_id.clone());
        }
        Ok(())
    }
}
