//! What is reported to users about the run as a whole.

use super::StreamTrainer;
use crate::TrainError;
use plan::EventKind;

impl StreamTrainer<'_> {
    /// Says how many sequences are not trained on because they make no whole update.
    pub(super) fn note_left_over(&mut self, n_steps: u64) -> Result<(), TrainError> {
        let per_step = self.stream.sequences_per_step();
        let (n_selected, epochs) = (self.stream.batches.n_selected(), self.stream.key.epochs);
        let n_in_all = n_selected * epochs as usize;
        let n_left_over = n_in_all - n_steps as usize * per_step;
        if n_left_over == 0 {
            return Ok(());
        }
        let in_epochs = match epochs {
            1 => String::new(),
            _ => format!(" ({epochs} epochs of {n_selected})"),
        };
        let message = format!(
            "the last {n_left_over} of {n_in_all} sequences{in_epochs} are not used: a step takes {per_step}, of which \
             {n_in_all} is not a multiple"
        );
        self.events.write(EventKind::Note { message })
    }

    /// Says how many SAEs are on each rank, if not all are on all.
    pub(super) fn note_owners(&mut self) -> Result<(), TrainError> {
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

    /// Says when memory ran out, and that batches are cut into smaller parts from now on.
    pub(super) fn note_smaller_parts(&mut self, jobs: &[usize]) -> Result<(), TrainError> {
        for &job_idx in jobs {
            let job = &mut self.jobs[job_idx];
            for sae in &mut job.saes {
                let Some(n_parts) = sae.take_smaller_parts() else {
                    continue;
                };
                let (sae, name) = (&sae.spec.name, &job.job.name);
                let message = format!(
                    "memory ran out for `{sae}` of `{name}`: batches are cut into {n_parts} parts"
                );
                self.events.write(EventKind::Note { message })?;
            }
        }
        Ok(())
    }
}
