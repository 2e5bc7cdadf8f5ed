//! The loop: a batch of tokens, one forward pass of the language model, every SAE on it.

mod activation_stream;
mod ahead;
pub(crate) mod base;
mod beginning;
mod cross_layer;
pub(crate) mod end_to_end;
pub(crate) mod job_trainer;
mod notes;
pub(crate) mod open;
pub(crate) mod output_loss;
mod report;
mod save;
#[cfg(test)]
mod second_model_tests;
mod sums;
mod update_end_to_end;

use crate::TrainError;
use crate::events::EventLog;
use crate::events::meter::Meter;
use crate::ranks::Ranks;
use crate::ranks::exchange::Exchange;
use crate::sae_trainer::Progress;
use crate::stop::StopFlag;
pub(crate) use activation_stream::ActivationStream;
pub(crate) use ahead::Ahead;
use cross_layer::CrossLayerUpdate;
use job_trainer::JobTrainer;
use output_loss::OutputLoss;
use plan::EventKind;
use sums::Sums;

/// The jobs of one stream on one forward pass.
pub(crate) struct StreamTrainer<'a> {
    /// Gone before the model that its pass runs through.
    pub(crate) ahead: Ahead,
    pub(crate) stream: ActivationStream,
    pub(crate) jobs: Vec<JobTrainer>,
    pub(crate) events: &'a mut EventLog,
    pub(crate) stop: StopFlag,
    pub(crate) ranks: &'a dyn Ranks,
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    Interrupted,
}

impl StreamTrainer<'_> {
    /// Trains every job to the end of the data, each from the step it is at.
    pub(crate) fn fit(&mut self) -> Result<Outcome, TrainError> {
        let n_steps = self.stream.n_steps()?;
        let steps = self.jobs.iter().map(|job| job.step);
        let first_step = steps.min().unwrap_or(n_steps);
        let tokens_per_step = self.stream.tokens_per_step();
        self.note_owners()?;
        self.announce_restored(n_steps)?;
        self.note_left_over(n_steps)?;
        self.events.write(EventKind::Ready {
            first_step,
            n_steps,
            tokens_per_step,
        })?;
        let mut meter = Meter::new();
        for step in first_step..n_steps {
            let progress = Progress { step, n_steps };
            if self.ranks.stops_at_once(self.stop.is_set()) {
                return self.interrupt(progress, meter);
            }
            if self.jobs.iter().all(JobTrainer::has_failed) {
                break;
            }
            let Some(trained) = self.update(progress)? else {
                return self.interrupt(progress, meter);
            };
            meter.n_tokens += tokens_per_step;
            self.report(&trained, progress, &mut meter)?;
            self.save(&trained, n_steps)?;
        }
        if let Some(message) = self.ranks.volume(n_steps - first_step) {
            self.events.write(EventKind::Note { message })?;
        }
        Ok(Outcome::Finished)
    }

    /// One optimizer update of every job that is at the step; gives their indices. A job that is
    /// ahead (its last checkpoint is newer than another's) waits until the others have caught up.
    /// `None`: a stop was asked for meanwhile, and the update is as if it had not been started.
    fn update(&mut self, progress: Progress) -> Result<Option<Vec<usize>>, TrainError> {
        let trained = self.jobs_at(progress.step);
        let is_finished = match OutputLoss::of(self.stream.key.loss_fn) {
            None => self.update_at_hookpoints(progress)?,
            Some(loss_fn) => self.update_end_to_end(progress, loss_fn)?,
        };
        if !is_finished {
            return Ok(None);
        }
        for &job_idx in &trained {
            self.jobs[job_idx].step += 1;
        }
        self.note_smaller_parts(&trained)?;
        Ok(Some(trained))
    }

    /// An update with losses at the hookpoints; `false`: it was stopped. With one pass and one process, each SAE
    /// is finished before the next one's gradients are made: the gradients of one SAE are in memory at a time.
    fn update_at_hookpoints(&mut self, progress: Progress) -> Result<bool, TrainError> {
        if !self.look_at_beginning(progress.step, progress.n_steps)? {
            return Ok(false);
        }
        let (stream, ahead, ranks) = (&self.stream, &mut self.ahead, self.ranks);
        let jobs = self.jobs.iter().filter(|job| job.is_at(progress.step));
        let mut exchange = Exchange::new(ranks, jobs.flat_map(JobTrainer::routes));
        let (mut sums, mut updates, mut layers) = (Sums::default(), Vec::new(), Vec::new());
        for job in jobs_at(&mut self.jobs, progress.step) {
            let started = job.start(progress)?;
            if started.job.config.cross_layer {
                layers.extend(CrossLayerUpdate::of_job(started, &mut sums.variances));
                continue;
            }
            let started = started.updates.into_iter();
            updates
                .extend(started.map(|update| (sums.variances.of_target(update.trainer), update)));
        }
        let passes = stream.passes_of(progress.step);
        let is_whole = passes.len() == 1 && ranks.sums_are_complete();
        for &pass in &passes {
            if ranks.stops_at_once(self.stop.is_set()) {
                return Ok(false);
            }
            let forward = ahead.forward(stream, pass)?;
            ahead.begin(stream, stream.pass_after(pass, progress.n_steps))?;
            let mut inputs = exchange.pass(forward.as_ref().map(|forward| forward.views()))?;
            for (variance, mut update) in std::mem::take(&mut updates) {
                if let Some((x, target)) = update.trainer.inputs(&mut inputs)? {
                    let moments = sums.variances.add(variance, pass, &target)?;
                    if stream.centres_on(pass) {
                        update.trainer.centre_on(&x, &target, ranks)?;
                    }
                    if is_whole {
                        update.finish_on((&x, &target), moments, progress)?;
                        continue;
                    }
                    update.add(&x, &target)?;
                }
                if Some(&pass) == passes.last() {
                    sums.push(variance, update.sum(ranks)?);
                } else {
                    updates.push((variance, update));
                }
            }
            for update in &mut layers {
                let centres = stream.centres_on(pass);
                update.add(&mut inputs, (pass, &mut sums.variances), (centres, ranks))?;
            }
        }
        for update in layers {
            update.sum(ranks, &mut sums)?;
        }
        sums.finish(ranks, self.stop.is_set(), progress)
    }

    /// The indices of the jobs that are at `step` and have not failed.
    fn jobs_at(&self, step: u64) -> Vec<usize> {
        let jobs = self.jobs.iter().enumerate();
        let jobs = jobs.filter(|(_, job)| job.is_at(step));
        jobs.map(|(job_idx, _)| job_idx).collect()
    }
}

/// The jobs that are at `step` and have not failed.
fn jobs_at(jobs: &mut [JobTrainer], step: u64) -> impl Iterator<Item = &mut JobTrainer> {
    jobs.iter_mut().filter(move |job| job.is_at(step))
}
