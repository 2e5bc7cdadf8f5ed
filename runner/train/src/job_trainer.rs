//! One job in training: its SAEs, how far they are, and their folders.

use crate::OrderJob;
use crate::best::Best;
use crate::health::{Health, weight_sums};
use crate::ranks::Ranks;
use crate::sae_trainer::SaeTrainer;
use crate::state::{Restored, State};
use crate::views::{Side, View};
use crate::{TrainError, message_chain, state};
use plan::{EventKind, Job, SaeStats};
use sae::{sync_dir, write_file};
use std::collections::BTreeMap;
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
    /// Ranks that it was begun with, which decide on its batches; `None`: it is fresh.
    pub(crate) n_ranks: Option<usize>,
    dir: PathBuf,
    state_dir: PathBuf,
    best: Best,
    health: Health,
    /// What to tell about its state.
    notes: Vec<String>,
}

impl JobTrainer {
    /// The job as its newest state left it, or fresh.
    pub(crate) fn open(
        order: &OrderJob,
        runs_dir: &Path,
        device: Device,
    ) -> Result<Self, TrainError> {
        let job = order.job.clone();
        let state_dir = runs_dir.join(&order.state_dir);
        let new_saes = |finetune: Option<&Path>| -> Result<Vec<_>, TrainError> {
            let saes = job.saes.iter();
            saes.map(|spec| SaeTrainer::new(&job, spec, finetune, device))
                .collect()
        };
        let mut saes = new_saes(None)?;
        let restored = state::restore(&state_dir, &job.job_id, &mut saes, device)?;
        if let (None, Some(finetune)) = (&restored, order.finetune_dir.as_deref()) {
            saes = new_saes(Some(finetune))?;
        }
        let mut best = Best::new(runs_dir.join(&order.best_dir));
        let mut notes = Vec::new();
        let n_ranks = restored.as_ref().map(|restored| restored.state.n_ranks);
        let step = restored.map_or(0, |Restored { state, damaged }| {
            let note = |error: &TrainError| {
                let (why, step) = (message_chain(error), state.step);
                format!("{why}; `{}` goes on from update {step}", job.name)
            };
            notes.extend(damaged.iter().map(note));
            best.restore(state.best);
            state.step
        });
        Ok(Self {
            health: Health::new(&job.config),
            relative_dir: order.dir.clone(),
            dir: runs_dir.join(&order.dir),
            state_dir,
            job,
            saes,
            step,
            n_ranks,
            best,
            notes,
        })
    }

    /// Writes those SAEs that are the best so far, what a resume needs, and then the SAEs as others
    /// load them. `is_due`: whether an undisturbed run would write here too, so that the best one is
    /// the same.
    pub(crate) fn save(&mut self, is_due: bool) -> Result<(), TrainError> {
        if is_due && self.job.config.save_best {
            for trainer in &self.saes {
                let name = &trainer.spec.name;
                self.best.save_if_lowest(name, &trainer.published()?)?;
            }
        }
        let state = State {
            job_id: self.job.job_id.clone(),
            step: self.step,
            n_ranks: self.n_ranks.unwrap_or(1),
            best: self.best.state().clone(),
            saes: self.saes.iter().map(|sae| sae.counts(self.step)).collect(),
        };
        let n_kept = self.job.config.save_total_limit;
        state::save(&self.state_dir, &state, &self.saes, n_kept)?;
        for trainer in &self.saes {
            let dir = self.dir.join(&trainer.spec.name);
            trainer.published()?.save_to_disk(&dir)?;
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

    /// What is to be told about its state; once.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Whether it is trained no further.
    pub(crate) fn has_failed(&self) -> bool {
        self.health.has_failed()
    }

    /// Why it is trained no further.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.health.failure()
    }

    /// Takes the statistics of an SAE since its last report; a verdict where something is wrong with
    /// them.
    pub(crate) fn judge(
        &mut self,
        sae_idx: usize,
        stats: &SaeStats,
        gradients_are_finite: bool,
    ) -> Option<EventKind> {
        let name = &self.saes[sae_idx].spec.name;
        self.best.add(name, stats);
        let verdict = self
            .health
            .judge(name, stats, gradients_are_finite, self.step)?;
        Some(verdict.event(&self.job.job_id, self.step))
    }

    /// A verdict where a weight or what an optimizer remembers is not finite.
    /// The weights of all ranks are the same, to the bit.
    pub(crate) fn judge_weights(
        &mut self,
        ranks: Ranks<'_>,
    ) -> Result<Option<EventKind>, TrainError> {
        for trainer in &self.saes {
            let sums = weight_sums(trainer)?;
            if ranks.are_several() {
                let what = format!("SAE `{}` in `{}`", trainer.spec.name, self.job.name);
                ranks.must_agree(&what, &sums.bits())?;
            }
            if let Some(tensor) = sums.first_not_finite() {
                let verdict = self.health.fail(&trainer.spec.name, &tensor);
                return Ok(Some(verdict.event(&self.job.job_id, self.step)));
            }
        }
        Ok(None)
    }

    /// What an SAE's input is.
    pub(crate) fn input_view(&self, sae_idx: usize) -> View {
        let side = match self.job.config.transcode {
            true => Side::Input,
            false => Side::Output,
        };
        self.view(sae_idx, side)
    }

    /// What an SAE's output should be.
    pub(crate) fn target_view(&self, sae_idx: usize) -> View {
        self.view(sae_idx, Side::Output)
    }

    fn view(&self, sae_idx: usize, side: Side) -> View {
        View {
            hookpoint: self.saes[sae_idx].spec.hookpoint.clone(),
            side,
            exclude_tokens: self.job.config.exclude_tokens.clone(),
        }
    }

    /// The indices of the SAEs that can stand in the model at the same time, one for a hookpoint:
    /// those of each seed.
    pub(crate) fn saes_by_seed(&self) -> Vec<Vec<usize>> {
        let mut by_seed: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (sae_idx, sae) in self.saes.iter().enumerate() {
            by_seed.entry(sae.spec.seed).or_default().push(sae_idx);
        }
        by_seed.into_values().collect()
    }

    /// The SAEs of the indices `chosen`, which are in order.
    pub(crate) fn choose(&mut self, chosen: &[usize]) -> Vec<&mut SaeTrainer> {
        let saes = self.saes.iter_mut().enumerate();
        let saes = saes.filter(|(sae_idx, _)| chosen.contains(sae_idx));
        saes.map(|(_, sae)| sae).collect()
    }
}
