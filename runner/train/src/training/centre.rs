//! Where fresh SAEs begin: at the mean of the first batch of all ranks.

use super::job_trainer::JobTrainer;
use super::{StreamTrainer, jobs_at};
use crate::TrainError;
use crate::activations::row_sum::RowSum;
use crate::activations::views::View;
use crate::ranks::exchange::Exchange;
use std::collections::{BTreeMap, BTreeSet};

/// Activations, and whether they come from all ranks.
type Source = (bool, View);

impl StreamTrainer<'_> {
    /// Before the first update, sets the biases of fresh SAEs if a rank takes its part of the first batch in
    /// several passes, so that they are the same in any number of ranks. The passes are made once more for that.
    pub(super) fn centre_on_all_passes(&mut self, step: u64) -> Result<(), TrainError> {
        if step > 0 || !self.stream.has_several_passes() {
            return Ok(());
        }
        let sums = self.sums_of_first_batch()?;
        let jobs = jobs_at(&mut self.jobs, step);
        for sae in jobs.flat_map(|job| &mut job.saes) {
            let (x, target) = sae.views();
            let of_view = |view: &View| sums.get(&(sae.is_spread, view.clone()));
            if let Some((x, target)) = of_view(x).zip(of_view(target)) {
                sae.centre_on_sums(x, target, self.ranks)?;
            }
        }
        Ok(())
    }

    /// What SAEs take and give of the first batch, added up.
    fn sums_of_first_batch(&self) -> Result<BTreeMap<Source, RowSum>, TrainError> {
        let jobs = self.jobs.iter().filter(|job| job.is_at(0));
        let mut exchange = Exchange::new(self.ranks, jobs.clone().flat_map(JobTrainer::routes));
        let saes = jobs.flat_map(|job| &job.saes);
        let sources: BTreeSet<Source> = saes
            .flat_map(|sae| {
                let (x, target) = sae.views();
                [x, target].map(|view| (sae.is_spread, view.clone()))
            })
            .collect();
        let mut sums: BTreeMap<Source, RowSum> = BTreeMap::new();
        for pass in self.stream.passes_over_first_batch() {
            let forward = self.stream.forward(pass)?;
            let mut inputs = exchange.pass(forward.as_ref().map(|forward| forward.views()))?;
            for source in &sources {
                let (is_spread, view) = source;
                let Some(x) = inputs.get(view, *is_spread)? else {
                    continue;
                };
                match sums.get_mut(source) {
                    Some(sum) => sum.add(&x)?,
                    None => {
                        sums.insert(source.clone(), RowSum::of(&x)?);
                    }
                }
            }
        }
        Ok(sums)
    }
}
