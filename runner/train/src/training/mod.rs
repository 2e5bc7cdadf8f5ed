//! The loop: a batch of tokens, one forward pass of the language model, every SAE on it.

pub(crate) mod centre;
pub(crate) mod end_to_end;
pub(crate) mod job_trainer;
pub(crate) mod output_loss;
pub(crate) mod update;

use crate::TrainError;
use crate::events::EventLog;
use crate::events::interval::{N_SUMS, Record, Report};
use crate::not_finite::{Fault, activations_of};
use crate::ranks::Ranks;
use crate::sae_trainer::{Progress, SaeTrainer};
use crate::stop::StopFlag;
use crate::training::job_trainer::JobTrainer;
use data::Batches;
use lm::{LanguageModel, Taps};
use plan::{EventKind, StreamKey};
use std::time::Instant;
use tch::{Device, Tensor};

/// The jobs of one stream on one forward pass.
pub(crate) struct StreamTrainer<'a> {
    pub(crate) key: StreamKey,
    pub(crate) device: Device,
    pub(crate) model: LanguageModel,
    pub(crate) taps: Taps,
    pub(crate) batches: Batches,
    pub(crate) jobs: Vec<JobTrainer>,
    pub(crate) events: &'a mut EventLog,
    pub(crate) stop: StopFlag,
    pub(crate) ranks: Ranks<'a>,
}

/// An SAE on whatever rank: the indices of its job, and of itself in the job.
type PlaceInJob = (usize, usize);

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Finished,
    Interrupted,
}

/// Wall time and tokens since the last progress event.
struct Meter {
    since: Instant,
    n_tokens: u64,
}

impl StreamTrainer<'_> {
    /// Trains every job to the end of the data, from where each one stands.
    pub(crate) fn fit(&mut self) -> Result<Outcome, TrainError> {
        let n_steps = self.n_steps();
        if n_steps == 0 {
            return Err(self.too_little_data());
        }
        let steps = self.jobs.iter().map(|job| job.step);
        let first_step = steps.min().unwrap_or(n_steps);
        let tokens_per_step = self.tokens_per_step();
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
            if !self.ranks.are_several() && self.stop.is_set() {
                return self.interrupt(step, meter);
            }
            if self.jobs.iter().all(JobTrainer::has_failed) {
                break;
            }
            let Some(trained) = self.update(Progress { step, n_steps })? else {
                return self.interrupt(step, meter);
            };
            meter.n_tokens += tokens_per_step;
            self.report(&trained, step + 1, &mut meter, |job| {
                job.report_is_due(n_steps)
            })?;
            self.save(&trained, n_steps)?;
        }
        if let Some(message) = self.ranks.volume(n_steps - first_step) {
            self.events.write(EventKind::Note { message })?;
        }
        Ok(Outcome::Finished)
    }

    /// Optimizer updates in the data; what is left of a last, incomplete one is not trained on.
    fn n_steps(&self) -> u64 {
        (self.batches.n_batches() / self.key.grad_acc_steps) as u64
    }

    /// Says how many sequences are not trained on because they make no whole update.
    fn note_left_over(&mut self, n_steps: u64) -> Result<(), TrainError> {
        let per_step = self.batches.batch_size() * self.key.grad_acc_steps;
        let n_left_over = self.batches.n_selected() - n_steps as usize * per_step;
        if n_left_over == 0 {
            return Ok(());
        }
        let message = format!(
            "the last {n_left_over} of {} sequences are left out: an update takes {per_step}",
            self.batches.n_selected()
        );
        self.events.write(EventKind::Note { message })
    }

    /// Says how many SAEs are on each rank, where not all are on all.
    fn note_owners(&mut self) -> Result<(), TrainError> {
        let owners = self.jobs.iter().flat_map(|job| {
            let n_saes = job.job.saes.len();
            (0..n_saes).filter_map(|sae_idx| job.owners.of(sae_idx))
        });
        let mut n_saes = vec![0; self.ranks.number()];
        owners.for_each(|rank| n_saes[rank] += 1);
        let (least, most) = (n_saes.iter().min(), n_saes.iter().max());
        let (Some(least), Some(most @ 1..)) = (least, most) else {
            return Ok(());
        };
        let n_ranks = n_saes.len();
        let message = format!("each SAE is on one of {n_ranks} ranks, {least} to {most} on each");
        self.events.write(EventKind::Note { message })
    }

    fn too_little_data(&self) -> TrainError {
        TrainError::TooLittleData {
            grad_acc_steps: self.key.grad_acc_steps,
            batch_size: self.batches.batch_size(),
            n_batches: self.batches.n_batches(),
        }
    }

    /// The indices of the jobs that stand at `step` and have not failed.
    pub(crate) fn jobs_at(&self, step: u64) -> Vec<usize> {
        let is_here = |job_idx: &usize| {
            let job = &self.jobs[*job_idx];
            job.step == step && !job.has_failed()
        };
        (0..self.jobs.len()).filter(is_here).collect()
    }

    fn tokens_per_step(&self) -> u64 {
        (self.batches.batch_size() * self.key.grad_acc_steps * self.key.ctx_len) as u64
    }

    /// Writes the statistics of those of the jobs, which stand at `step`, that are due.
    fn report(
        &mut self,
        jobs: &[usize],
        step: u64,
        meter: &mut Meter,
        is_due: impl Fn(&JobTrainer) -> bool,
    ) -> Result<(), TrainError> {
        let due = jobs.iter().copied();
        let due: Vec<usize> = due.filter(|&job_idx| is_due(&self.jobs[job_idx])).collect();
        let records = self.take_records(&due)?;
        if records.is_empty() {
            return Ok(());
        }
        for ((job_idx, sae_idx), record) in records {
            let job = &self.jobs[job_idx];
            self.events.write(EventKind::Metric {
                job_id: job.job.job_id.clone(),
                sae: job.job.saes[sae_idx].name.clone(),
                step,
                stats: record.stats(),
            })?;
            let of_model = self.fault_of_model((job_idx, sae_idx), &record, step)?;
            let job = &mut self.jobs[job_idx];
            let verdict = match of_model {
                Some(fault) => Some(job.fail(sae_idx, fault)),
                None => job.judge(sae_idx, &record),
            };
            if let Some(verdict) = verdict {
                self.events.write(verdict)?;
            }
        }
        self.events.write(meter.read(step))
    }

    /// What is wrong with the language model, where an SAE's statistics up to `step` are not finite because
    /// of it. The sum over the activations is among what a report reads anyway.
    fn fault_of_model(
        &self,
        (job_idx, sae_idx): PlaceInJob,
        record: &Record,
        step: u64,
    ) -> Result<Option<Fault>, TrainError> {
        let (job, stats) = (&self.jobs[job_idx], record.stats());
        let is_finite = stats.total_variance.is_finite() && stats.output_loss.is_finite();
        if job.has_failed() || is_finite {
            return Ok(None);
        }
        let what = match self.key.loss_fn.is_end_to_end() {
            false => activations_of(&job.job.saes[sae_idx].hookpoint),
            // With other SAEs in the model, the activations may be theirs.
            true if self.model_is_finite_at(step - 1)? => return Ok(None),
            true => "the logits of the language model".into(),
        };
        Fault::of_model(&self.model, what).map(Some)
    }

    /// Takes the statistics of all SAEs of some jobs, on whatever rank they are; those without a token are
    /// left out.
    fn take_records(&mut self, jobs: &[usize]) -> Result<Vec<(PlaceInJob, Record)>, TrainError> {
        let mut reports: Vec<(PlaceInJob, Option<usize>, Option<Report>)> = Vec::new();
        for &job_idx in jobs {
            for (sae_idx, (owner, sae)) in self.jobs[job_idx].all_saes().enumerate() {
                let report = sae.map(SaeTrainer::take_report).transpose()?.flatten();
                reports.push(((job_idx, sae_idx), owner, report));
            }
        }
        let sums: Vec<&Tensor> = reports
            .iter()
            .filter_map(|(.., report)| Some(&report.as_ref()?.sums))
            .collect();
        let sums = match sums.is_empty() {
            true => Vec::new(),
            // Sync: the only wait for the device in the loop, for all SAEs at once.
            false => Vec::<f64>::try_from(Tensor::f_cat(&sums, 0)?)?,
        };
        let mut sums = sums.chunks(N_SUMS);
        let mut record = |report: &Report| Some(report.record(sums.next()?));
        let rows = reports.iter().map(|(_, owner, report)| {
            let record = report.as_ref().and_then(&mut record);
            (*owner, record.unwrap_or_default().to_numbers())
        });
        let rows = self.ranks.share("statistics of SAEs", rows.collect())?;
        let records = rows.into_iter().map(Record::of_numbers);
        let places = reports.into_iter().map(|(place, ..)| place);
        let records = places.zip(records);
        Ok(records.filter(|(_, record)| !record.is_empty()).collect())
    }

    /// Checkpoints those of the jobs that are due.
    fn save(&mut self, jobs: &[usize], n_steps: u64) -> Result<(), TrainError> {
        for &job_idx in jobs {
            let job = &mut self.jobs[job_idx];
            if job.save_is_due(n_steps) && !job.has_failed() {
                checkpoint(job, self.events, n_steps, self.ranks)?;
            }
        }
        Ok(())
    }

    /// An earlier worker may have died between a job's last checkpoint and the news of it, so every
    /// job that was restored is told of again before anything else.
    fn announce_restored(&mut self, n_steps: u64) -> Result<(), TrainError> {
        for job in &mut self.jobs {
            for message in job.take_notes() {
                self.events.write(EventKind::Note { message })?;
            }
            if job.step > 0 {
                checkpoint(job, self.events, n_steps, self.ranks)?;
            }
        }
        Ok(())
    }

    /// Saves what was trained since the last time, and ends. The sums since the last report go into the
    /// state, so that reports are those of a run that was not stopped.
    fn interrupt(&mut self, step: u64, mut meter: Meter) -> Result<Outcome, TrainError> {
        let n_steps = self.n_steps();
        if meter.n_tokens > 0 {
            self.events.write(meter.read(step))?;
        }
        for job_idx in self.jobs_at(step).into_iter().filter(|_| step > 0) {
            checkpoint(&mut self.jobs[job_idx], self.events, n_steps, self.ranks)?;
        }
        self.events.write(EventKind::Interrupted { step })?;
        // Where one process ends, launchers end the others: none may go before all is saved.
        self.ranks.wait_for_all("saved before a stop")?;
        Ok(Outcome::Interrupted)
    }
}

impl Meter {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            n_tokens: 0,
        }
    }

    /// The speed since the last reading.
    fn read(&mut self, step: u64) -> EventKind {
        let Self { since, n_tokens } = std::mem::replace(self, Self::new());
        let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        EventKind::Progress {
            step,
            n_tokens,
            elapsed_ms,
        }
    }
}

/// What was reported until now must be on the disk before a state that is newer than it; then the
/// files, then the news of them, then what only a resume would have needed goes.
fn checkpoint(
    job: &mut JobTrainer,
    events: &mut EventLog,
    n_steps: u64,
    ranks: Ranks<'_>,
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
    // A resume needs no state of a job that is done: until the news of that, it goes on from an older one.
    if !is_final {
        job.save_state(ranks)?;
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
