//! One job in training: its SAEs, how far they are, and their folders.

use crate::OrderJob;
use crate::sae_trainer::SaeTrainer;
use crate::{TrainError, state};
use plan::Job;
use sae::{sync_dir, write_file};
use std::path::{Path, PathBuf};
use tch::Device;

/// One job in training.
#[derive(Debug)]
pub(crate) struct JobTrainer {
    pub(crate) job: Job,
    /// Its folder, relative to the runs folder.
    pub(crate) relative_dir: PathBuf,
    pub(crate) saes: Vec<SaeTrainer>,
    /// Optimizer updates done.
    pub(crate) step: u64,
    dir: PathBuf,
    state_dir: PathBuf,
}

impl JobTrainer {
    /// The job as its newest state left it, or fresh.
    pub(crate) fn open(
        order: &OrderJob,
        runs_dir: &Path,
        device: Device,
    ) -> Result<Self, TrainError> {
        let job = order.job.clone();
        let new_sae = |spec| SaeTrainer::new(&job, spec, device);
        let mut saes = job
            .saes
            .iter()
            .map(new_sae)
            .collect::<Result<Vec<_>, _>>()?;
        let state_dir = runs_dir.join(&order.state_dir);
        let step = state::restore(&state_dir, &job.job_id, &mut saes, device)?.unwrap_or(0);
        let (relative_dir, dir) = (order.dir.clone(), runs_dir.join(&order.dir));
        Ok(Self {
            job,
            relative_dir,
            saes,
            step,
            dir,
            state_dir,
        })
    }

    /// Writes what a resume needs, then the SAEs as others load them.
    pub(crate) fn save(&self) -> Result<(), TrainError> {
        state::save(&self.state_dir, &self.job.job_id, self.step, &self.saes)?;
        for trainer in &self.saes {
            trainer
                .averaged()?
                .save_to_disk(&self.dir.join(&trainer.spec.name))?;
        }
        let config = serde_json::to_vec_pretty(&self.job.config).expect("plain fields serialise");
        write_file(&self.dir.join("config.json"), &config)?;
        Ok(sync_dir(&self.dir)?)
    }

    /// Removes what only a resume needs; the job is done.
    pub(crate) fn remove_state(&self) -> Result<(), TrainError> {
        state::remove(&self.state_dir)
    }

    /// Whether a checkpoint is due after the step it stands at.
    pub(crate) fn save_is_due(&self, n_steps: u64) -> bool {
        self.step == n_steps || self.step.is_multiple_of(self.job.config.save_every)
    }

    /// Whether statistics are due after the step it stands at; a checkpoint reports too, since the
    /// running sums do not outlive the process.
    pub(crate) fn report_is_due(&self, n_steps: u64) -> bool {
        self.save_is_due(n_steps) || self.step.is_multiple_of(self.job.config.log_every)
    }
}
