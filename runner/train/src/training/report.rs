//! Statistics of SAEs, as events.

use super::StreamTrainer;
use crate::TrainError;
use crate::early_end::EarlyEnd;
use crate::events::interval::{N_SUMS, Record, Report};
use crate::events::meter::Meter;
use crate::sae_trainer::{Progress, SaeTrainer};
use lm::activations_of;
use plan::EventKind;
use tch::Tensor;

/// An SAE on whatever rank: the indices of its job, and of itself in the job.
#[derive(Clone, Copy, Debug)]
struct SaeIdx {
    job_idx: usize,
    sae_idx: usize,
}

impl StreamTrainer<'_> {
    /// Reports the `jobs` whose `log_every` is due after the update.
    pub(super) fn report(
        &mut self,
        jobs: &[usize],
        progress: Progress,
        meter: &mut Meter,
    ) -> Result<(), TrainError> {
        let step = progress.step + 1;
        let is_due = |job_idx: &usize| self.jobs[*job_idx].report_is_due(progress.n_steps);
        let due: Vec<usize> = jobs.iter().copied().filter(is_due).collect();
        let records = self.take_records(&due)?;
        if records.is_empty() {
            return Ok(());
        }
        for (sae, record) in records {
            let SaeIdx { job_idx, sae_idx } = sae;
            let job = &self.jobs[job_idx];
            self.events.write(EventKind::Metric {
                job_id: job.job.job_id.clone(),
                sae: job.job.saes[sae_idx].name.clone(),
                step,
                stats: record.stats(),
            })?;
            let of_model = self.fault_of_model(sae, &record, step)?;
            let job = &mut self.jobs[job_idx];
            if let Some((_, Some(sae))) = job.all_saes().nth(sae_idx) {
                sae.note_record(&record);
            }
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

    /// What is wrong with the language model, if an SAE's statistics up to `step` are not finite because
    /// of that. The sum over the activations is among what a report reads anyway.
    fn fault_of_model(
        &self,
        SaeIdx { job_idx, sae_idx }: SaeIdx,
        record: &Record,
        step: u64,
    ) -> Result<Option<EarlyEnd>, TrainError> {
        let (job, stats) = (&self.jobs[job_idx], record.stats());
        let is_finite = stats.total_variance.is_finite() && stats.output_loss.is_finite();
        if job.has_failed() || is_finite {
            return Ok(None);
        }
        let what = if !self.stream.key.loss_fn.is_end_to_end() {
            activations_of(&job.job.saes[sae_idx].hookpoint)
        } else if self.stream.model_is_finite_at(step - 1)? {
            // With other SAEs in the model, the activations may be theirs.
            return Ok(None);
        } else {
            "the logits of the language model".into()
        };
        EarlyEnd::of_model(self.stream.model_at_fault()?, what).map(Some)
    }

    /// Takes the statistics of all SAEs of some jobs, on whatever rank they are; those without a token are
    /// left out.
    fn take_records(&mut self, jobs: &[usize]) -> Result<Vec<(SaeIdx, Record)>, TrainError> {
        let mut reports: Vec<(SaeIdx, Option<usize>, Option<Report>)> = Vec::new();
        for &job_idx in jobs {
            for (sae_idx, (owner, sae)) in self.jobs[job_idx].all_saes().enumerate() {
                let report = sae.map(SaeTrainer::take_report).transpose()?.flatten();
                reports.push((SaeIdx { job_idx, sae_idx }, owner, report));
            }
        }
        let sums: Vec<&Tensor> = reports
            .iter()
            .filter_map(|(.., report)| Some(&report.as_ref()?.sums))
            .collect();
        let sums = if sums.is_empty() {
            Vec::new()
        } else {
            // Sync: the only wait for the device in the loop, for all SAEs at once.
            Vec::<f64>::try_from(Tensor::f_cat(&sums, 0)?)?
        };
        let mut sums = sums.chunks(N_SUMS);
        let mut record = |report: &Report| Some(report.record(sums.next()?));
        let rows = reports.iter().map(|(_, owner, report)| {
            let record = report.as_ref().and_then(&mut record);
            (*owner, record.unwrap_or_default().to_numbers())
        });
        let rows = self.ranks.share("statistics of SAEs", rows.collect())?;
        let records = rows.into_iter().map(Record::of_numbers);
        let saes = reports.into_iter().map(|(sae, ..)| sae);
        let records = saes.zip(records);
        Ok(records.filter(|(_, record)| !record.is_empty()).collect())
    }
}
