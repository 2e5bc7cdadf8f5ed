//! Checkpoints within the loop: when one is due, after a resume, and at a stop.

use super::job_trainer::JobTrainer;
use super::{Outcome, StreamTrainer};
use crate::TrainError;
use crate::events::EventLog;
use crate::events::meter::Meter;
use crate::ranks::Ranks;
use crate::sae_trainer::Progress;
use plan::EventKind;

impl StreamTrainer<'_> {
    /// Checkpoints the `jobs` whose `save_every` is due.
    pub(super) fn save(&mut self, jobs: &[usize], n_steps: u64) -> Result<(), TrainError> {
        for &job_idx in jobs {
            let job = &mut self.jobs[job_idx];
            if job.kept_step == Some(job.step) && job.step < n_steps && !job.has_failed() {
                keep_state(job, self.events, n_steps, self.ranks)?;
            }
            if job.save_is_due(n_steps) && !job.has_failed() {
                checkpoint(job, self.events, n_steps, self.ranks)?;
            }
        }
        Ok(())
    }

    /// An earlier worker may have died between a job's last checkpoint and the event that reports it, so
    /// every restored job is reported again before anything else.
    pub(super) fn announce_restored(&mut self, n_steps: u64) -> Result<(), TrainError> {
        for job in &mut self.jobs {
            for message in job.take_notes() {
                self.events.write(EventKind::Note { message })?;
            }
            if let Some(base_job_id) = job.base.take() {
                self.events.write(EventKind::Extended {
                    job_id: job.job.job_id.clone(),
                    base_job_id,
                    step: job.step,
                })?;
            }
            if job.step > 0 {
                checkpoint(job, self.events, n_steps, self.ranks)?;
            }
        }
        Ok(())
    }

    /// Saves what was trained since the last time, and ends. The sums since the last report go into the
    /// state, so that reports are those of a run that was not stopped.
    pub(super) fn interrupt(
        &mut self,
        progress: Progress,
        mut meter: Meter,
    ) -> Result<Outcome, TrainError> {
        let Progress { step, n_steps } = progress;
        if meter.n_tokens > 0 {
            self.events.write(meter.read(step))?;
        }
        for job_idx in self.jobs_at(step).into_iter().filter(|_| step > 0) {
            checkpoint(&mut self.jobs[job_idx], self.events, n_steps, self.ranks)?;
        }
        self.events.write(EventKind::Interrupted { step })?;
        // When one process ends, launchers end the others: no process may end before all is saved.
        self.ranks.wait_for_all("saved before a stop")?;
        Ok(Outcome::Interrupted)
    }
}

/// Keeps the state for a longer training; as [`checkpoint`], which is not due.
fn keep_state(
    job: &mut JobTrainer,
    events: &mut EventLog,
    n_steps: u64,
    ranks: &dyn Ranks,
) -> Result<(), TrainError> {
    if !ranks.has_writer() && !job.owners.are_spread() {
        return Ok(());
    }
    events.sync()?;
    job.keep_state(n_steps, ranks)
}

/// What was reported until now must be on the disk before a state that is newer than it; then the
/// files, then the events about them, then what only a resume would have needed goes.
fn checkpoint(
    job: &mut JobTrainer,
    events: &mut EventLog,
    n_steps: u64,
    ranks: &dyn Ranks,
) -> Result<(), TrainError> {
    let is_final = job.step == n_steps;
    if let Some(verdict) = job.judge_weights(ranks, n_steps)? {
        return events.write(verdict);
    }
    if !ranks.has_writer() && !job.owners.are_spread() {
        return Ok(());
    }
    events.sync()?;
    // Where an undisturbed run would write, too, so that the best ones are the same.
    if job.save_is_due(n_steps) {
        job.save_best()?;
    }
    // A resume needs no state of a job that is done: until that is reported, it continues from an older one.
    if !is_final {
        job.save_state(n_steps, ranks)?;
    } else if job.kept_step == Some(n_steps) {
        job.keep_state(n_steps, ranks)?;
    }
    job.save_saes(ranks)?;
    if !ranks.has_writer() {
        return Ok(());
    }
    events.write(EventKind::Checkpoint {
        job_id: job.job.job_id.clone(),
        step: job.step,
        path: job.relative_dir.to_string_lossy().into_owned(),
        is_final,
    })?;
    events.sync()?;
    if is_final { job.remove_state() } else { Ok(()) }
}
