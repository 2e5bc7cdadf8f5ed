//! One job in training: its SAEs, how far they are, and their folders.

use crate::TrainError;
use crate::activations::views::View;
use crate::checkpoint::best::Best;
use crate::checkpoint::state::{self, Restored, State};
use crate::early_end::EarlyEnd;
use crate::events::health::{Health, WeightSums, weight_sums};
use crate::events::interval::Record;
use crate::ranks::owners::Owners;
use crate::ranks::{ALONE, Ranks};
use crate::sae_trainer::{Progress, SaeCounts, SaeTrainer, Update};
use fault::{Fault, message_chain};
use plan::OrderJob;
use plan::runs_layout::KEPT;
use plan::{EventKind, Job, SaeSpec};
use sae::{sync_dir, write_file};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tch::Device;

/// One job in training.
#[derive(Debug)]
pub(crate) struct JobTrainer {
    pub(crate) job: Job,
    /// Its folder, relative to the runs folder.
    pub(crate) relative_dir: PathBuf,
    /// Those of its SAEs that this rank has, in the job's order.
    pub(crate) saes: Vec<SaeTrainer>,
    pub(crate) owners: Owners,
    /// Optimizer updates done.
    pub(crate) step: u64,
    /// Names of the GPU kernels that it is trained with; `None`: that was not chosen yet.
    pub(crate) kernels: Option<Vec<String>>,
    dir: PathBuf,
    state_dir: PathBuf,
    best: Best,
    health: Health,
    /// What to tell about its state.
    pub(super) notes: Vec<String>,
    /// The job that it continues from, until that is reported.
    pub(super) base: Option<String>,
    /// After which update it keeps its state.
    pub(super) kept_step: Option<u64>,
    /// Sequences of an epoch, if that is known.
    pub(super) n_examples: Option<u64>,
}

/// Updates of a job's SAEs, in their order.
pub(crate) struct JobUpdate<'a> {
    pub(crate) job: &'a Job,
    pub(crate) updates: Vec<Update<'a>>,
}

impl JobTrainer {
    /// The job as its newest state left it, or fresh.
    pub(crate) fn open(
        order: &OrderJob,
        runs_dir: &Path,
        device: Device,
        owners: Owners,
    ) -> Result<Self, TrainError> {
        let job = order.job.clone();
        let state_dir = runs_dir.join(&order.state_dir);
        let all = job.saes.iter().enumerate();
        let here: Vec<_> = all.filter(|(idx, _)| owners.are_here(*idx)).collect();
        let new_saes = |finetune: Option<&Path>| -> Result<Vec<_>, TrainError> {
            let saes = here.iter();
            let new = |spec| -> Result<_, TrainError> {
                let mut sae = SaeTrainer::new(&job, spec, finetune, device)?;
                sae.is_spread = owners.are_spread();
                Ok(sae)
            };
            saes.map(|(_, spec)| new(spec)).collect()
        };
        let mut saes = new_saes(None)?;
        let elsewhere = elsewhere(&job, &owners);
        let of_job = (job.job_id.as_str(), elsewhere.as_slice());
        let restored = state::restore(&state_dir, of_job, &mut saes, device)?;
        if let (None, Some(finetune)) = (&restored, order.finetune_dir.as_deref()) {
            saes = new_saes(Some(finetune))?;
        }
        let mut best = Best::new(runs_dir.join(&order.best_dir));
        let mut health = Health::new(&job.config);
        let mut notes = Vec::new();
        let n_others = job.config.batches_per_pass();
        if let Some(Restored { state, .. }) = &restored
            && state.n_ranks != n_others
        {
            return Err(mixed_ranks(&job.name, state.n_ranks, n_others).into());
        }
        let mut kernels = None;
        let step = restored.map_or(0, |Restored { state, damaged }| {
            let note = |error: &TrainError| {
                let (why, step) = (message_chain(error), state.step);
                format!("{why}; `{}` continues from step {step}", job.name)
            };
            notes.extend(damaged.iter().map(note));
            best.restore(state.best);
            health.restore(state.remarks);
            kernels = state.kernels;
            state.step
        });
        Ok(Self {
            health,
            relative_dir: order.dir.clone(),
            dir: runs_dir.join(&order.dir),
            state_dir,
            job,
            saes,
            owners,
            step,
            kernels,
            best,
            notes,
            base: None,
            kept_step: None,
            n_examples: None,
        })
    }

    /// All SAEs of the job: the one rank that has each, if it is one, and those that this rank has.
    pub(crate) fn all_saes(
        &mut self,
    ) -> impl Iterator<Item = (Option<usize>, Option<&mut SaeTrainer>)> {
        let owners = &self.owners;
        let mut here = self.saes.iter_mut();
        (0..self.job.saes.len()).map(move |sae_idx| {
            let sae = owners.are_here(sae_idx).then(|| here.next()).flatten();
            (owners.of(sae_idx), sae)
        })
    }

    /// Whether it is at `step` and is trained further.
    pub(crate) fn is_at(&self, step: u64) -> bool {
        self.step == step && !self.has_failed()
    }

    /// Starts the next update of each SAE here.
    pub(crate) fn start(&mut self, progress: Progress) -> Result<JobUpdate<'_>, TrainError> {
        let updates = self.saes.iter_mut().map(|sae| sae.start(progress));
        Ok(JobUpdate {
            job: &self.job,
            updates: updates.collect::<Result<_, _>>()?,
        })
    }

    /// Writes what a resume needs. If SAEs are spread over `ranks`, each writes its own.
    pub(crate) fn save_state(&mut self, n_steps: u64, ranks: &dyn Ranks) -> Result<(), TrainError> {
        let state = self.state(n_steps, ranks)?;
        let n_kept = self.job.config.save_total_limit;
        let saes = (self.saes.as_slice(), n_kept);
        state::save(&self.state_dir, &state, saes, self.writers(ranks))
    }

    /// As [`JobTrainer::save_state`], for a longer training.
    pub(super) fn keep_state(&mut self, n_steps: u64, ranks: &dyn Ranks) -> Result<(), TrainError> {
        let state = self.state(n_steps, ranks)?;
        let dir = self.state_dir.join(KEPT);
        let saes = (self.saes.as_slice(), 1);
        state::save(&dir, &state, saes, self.writers(ranks))
    }

    fn state(&mut self, n_steps: u64, ranks: &dyn Ranks) -> Result<State, TrainError> {
        let ranks = self.writers(ranks);
        Ok(State {
            job_id: self.job.job_id.clone(),
            step: self.step,
            n_steps: Some(n_steps),
            n_examples: self.n_examples,
            n_ranks: self.job.config.batches_per_pass(),
            best: self.best.state().clone(),
            remarks: self.health.remarks().clone(),
            kernels: self.kernels.clone(),
            saes: self.counts(ranks)?,
        })
    }

    /// Writes the SAEs as others load them; as [`JobTrainer::save_state`].
    pub(crate) fn save_saes(&mut self, ranks: &dyn Ranks) -> Result<(), TrainError> {
        for trainer in &self.saes {
            let dir = self.dir.join(&trainer.spec.name);
            trainer.save_published(&dir)?;
        }
        let ranks = self.writers(ranks);
        ranks.wait_for_all("SAEs of a checkpoint")?;
        if !ranks.has_writer() {
            return Ok(());
        }
        let config = serde_json::to_vec_pretty(&self.job.config).expect("plain fields serialise");
        write_file(&self.dir.join("config.json"), &config)?;
        Ok(sync_dir(&self.dir)?)
    }

    /// The ranks that write its files.
    fn writers<'a>(&self, ranks: &'a dyn Ranks) -> &'a dyn Ranks {
        if self.owners.are_spread() {
            ranks
        } else {
            ALONE
        }
    }

    /// Writes those SAEs that are the best so far. Before the state, which says which ones those are.
    /// All ranks know which ones are the best; who has one writes it.
    pub(crate) fn save_best(&mut self) -> Result<(), TrainError> {
        if !self.job.config.save_best {
            return Ok(());
        }
        let names = self.job.saes.iter().map(|spec| spec.name.as_str());
        let best = &mut self.best;
        let lowest: BTreeSet<&str> = names.filter(|name| best.is_lowest(name)).collect();
        for trainer in &self.saes {
            let name = trainer.spec.name.as_str();
            if lowest.contains(name) {
                trainer.save_published(&self.best.dir_of(name))?;
            }
        }
        Ok(())
    }

    /// The counts of all its SAEs, by name.
    fn counts(&mut self, ranks: &dyn Ranks) -> Result<BTreeMap<String, SaeCounts>, TrainError> {
        let step = self.step;
        let rows = self.all_saes().map(|(owner, sae)| {
            let counts = sae.map(|sae| sae.counts(step).to_numbers());
            (owner, counts.unwrap_or_default())
        });
        let rows = rows.collect();
        let counts = ranks.share("counts of SAEs", rows)?.into_iter();
        let names = self.job.saes.iter().map(|spec| spec.name.clone());
        Ok(names.zip(counts.map(SaeCounts::of_numbers)).collect())
    }

    /// Removes what only a resume needs; the job is done.
    pub(crate) fn remove_state(&self) -> Result<(), TrainError> {
        state::remove(&self.state_dir)
    }

    /// Whether a checkpoint is due after the step it is at.
    pub(crate) fn save_is_due(&self, n_steps: u64) -> bool {
        self.step == n_steps || self.step.is_multiple_of(self.job.config.save_every)
    }

    /// Whether statistics are due after the step it is at; a checkpoint reports too, for the loss that
    /// decides whether it is the best one.
    pub(crate) fn report_is_due(&self, n_steps: u64) -> bool {
        self.save_is_due(n_steps) || self.step.is_multiple_of(self.job.config.log_every)
    }

    /// What has to be reported about its state; each note is given once.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Whether it is trained no further.
    pub(crate) fn has_failed(&self) -> bool {
        self.health.has_failed()
    }

    /// Why it is trained no further.
    pub(crate) fn failure(&self) -> Option<&EarlyEnd> {
        self.health.failure()
    }

    /// Takes the statistics of an SAE since its last report; a verdict if something is wrong with
    /// them.
    pub(crate) fn judge(&mut self, sae_idx: usize, record: &Record) -> Option<EventKind> {
        let (name, stats) = (&self.job.saes[sae_idx].name, record.stats());
        self.best.add(name, &stats);
        let are_finite = record.gradients_are_finite();
        let verdict = self.health.judge(name, &stats, are_finite, self.step)?;
        Some(verdict.event(&self.job.job_id, self.step))
    }

    /// The end of the job because of one of its SAEs.
    pub(crate) fn fail(&mut self, sae_idx: usize, fault: EarlyEnd) -> EventKind {
        let name = &self.job.saes[sae_idx].name;
        let verdict = self.health.fail(name, fault);
        verdict.event(&self.job.job_id, self.step)
    }

    /// A verdict if a weight or what an optimizer remembers is not finite, or if nothing was trained
    /// in all of the `n_steps` updates. The weights of an SAE that all ranks have are the same, to the bit.
    pub(crate) fn judge_weights(
        &mut self,
        ranks: &dyn Ranks,
        n_steps: u64,
    ) -> Result<Option<EventKind>, TrainError> {
        let bad = if self.owners.are_spread() {
            self.first_bad_of_all(ranks, n_steps)?
        } else {
            self.first_bad(ranks, n_steps)?
        };
        Ok(bad.map(|(sae_idx, fault)| self.fail(sae_idx, fault)))
    }

    /// The first SAE here with a fault: its index in the job, and which.
    fn first_bad(
        &self,
        ranks: &dyn Ranks,
        n_steps: u64,
    ) -> Result<Option<(usize, EarlyEnd)>, TrainError> {
        let all = self.job.saes.iter().enumerate();
        let here = all.filter(|(sae_idx, _)| self.owners.are_here(*sae_idx));
        for ((sae_idx, _), trainer) in here.zip(&self.saes) {
            let sums = weight_sums(&trainer.sae, &trainer.optimizer)?;
            let what = format!("SAE `{}` in `{}`", trainer.spec.name, self.job.name);
            ranks.must_agree(&what, &sums.bits())?;
            if let Some(fault) = self.fault_of(trainer, sums, n_steps)? {
                return Ok(Some((sae_idx, fault)));
            }
        }
        Ok(None)
    }

    fn fault_of(
        &self,
        trainer: &SaeTrainer,
        sums: WeightSums,
        n_steps: u64,
    ) -> Result<Option<EarlyEnd>, TrainError> {
        if self.step == n_steps && !trainer.was_trained() {
            return Ok(Some(EarlyEnd::nothing_trained(
                &self.job.config.exclude_tokens,
            )));
        }
        let Some(tensor) = sums.first_not_finite() else {
            return Ok(None);
        };
        // If it was stopped before a report showed this.
        Ok(Some(if trainer.interval.activations_are_finite()? {
            EarlyEnd::of_training(&tensor)
        } else {
            EarlyEnd::of_activations(&trainer.spec.hookpoint)
        }))
    }

    /// The first of those that any rank found among its own.
    fn first_bad_of_all(
        &self,
        ranks: &dyn Ranks,
        n_steps: u64,
    ) -> Result<Option<(usize, EarlyEnd)>, TrainError> {
        let ours = self.first_bad(ALONE, n_steps)?;
        let sae_idx = ours
            .as_ref()
            .map_or(i64::MAX, |(sae_idx, _)| *sae_idx as i64);
        let of_ranks = ranks.gather("SAEs with a fault", &[sae_idx])?;
        let of_ranks = of_ranks.iter().map(|found| found[0]).enumerate();
        let Some((rank, sae_idx)) = of_ranks
            .min_by_key(|(_, sae_idx)| *sae_idx)
            .filter(|(_, sae_idx)| *sae_idx < i64::MAX)
        else {
            return Ok(None);
        };
        let fault = ours.map_or(String::new(), |(_, fault)| {
            serde_json::to_string(&fault).expect("plain fields serialise")
        });
        let faults = ranks.gather_text("what is wrong", &fault)?;
        let fault = serde_json::from_str(&faults[rank]);
        let fault = fault.unwrap_or_else(|_| EarlyEnd::of_training("a number"));
        Ok(Some((sae_idx as usize, fault)))
    }

    /// Which rank takes which activations, if each of its SAEs is on one.
    pub(crate) fn routes(&self) -> Vec<(usize, View)> {
        let of_sae = |(sae_idx, spec): (usize, &SaeSpec)| {
            let rank = self.owners.of(sae_idx)?;
            let (input, target) = View::of_sae(&self.job.config, spec);
            Some([(rank, input), (rank, target)])
        };
        let saes = self.job.saes.iter().enumerate();
        saes.filter_map(of_sae).flatten().collect()
    }
}

/// Names of the SAEs of `job` that other ranks have.
pub(super) fn elsewhere<'a>(job: &'a Job, owners: &Owners) -> Vec<&'a str> {
    let all = job.saes.iter().enumerate();
    let elsewhere = all.filter(|(sae_idx, _)| !owners.are_here(*sae_idx));
    elsewhere.map(|(_, sae)| sae.name.as_str()).collect()
}

/// Jobs of a stream that were begun with different numbers of ranks.
fn mixed_ranks(job: &str, n_ranks: usize, n_others: usize) -> Fault {
    let message =
        format!("`{job}` was begun with {n_ranks} ranks, other jobs of its stream with {n_others}");
    Fault::input(message).with_hint(
        "a job keeps the batches it was begun with: train them in separate sweeps, or again with `--fresh`",
    )
}
