//! Where fresh SAEs begin: at the mean of the first batch of all ranks.

use crate::TrainError;
use crate::activations::views::{View, Views};
use crate::ranks::exchange::Exchange;
use crate::training::StreamTrainer;
use crate::training::update::Sources;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// Rows that were seen, added up.
#[derive(Debug)]
pub(crate) struct RowSum {
    /// `[width]`, Double.
    pub(crate) sum: Tensor,
    pub(crate) n_rows: i64,
}

impl RowSum {
    /// Of `x`: `[n_rows, width]`.
    pub(crate) fn of(x: &Tensor) -> Result<Self, TrainError> {
        Ok(Self {
            sum: x.f_sum_dim_intlist(0, false, Kind::Double)?,
            n_rows: x.size()[0],
        })
    }

    fn add(&mut self, x: &Tensor) -> Result<(), TrainError> {
        let other = Self::of(x)?;
        self.sum = self.sum.f_add(&other.sum)?;
        self.n_rows += other.n_rows;
        Ok(())
    }
}

impl StreamTrainer<'_> {
    /// Sets the biases of fresh SAEs where a rank takes its part of the first batch in several passes, so that they
    /// are the same in any number of ranks. The passes are made once more for that.
    pub(crate) fn centre_on_all_passes(&mut self, trained: &[usize]) -> Result<(), TrainError> {
        let routes = trained.iter().flat_map(|&job| self.jobs[job].routes());
        let mut exchange = Exchange::new(self.ranks, routes);
        let mut sums: BTreeMap<(bool, View), RowSum> = BTreeMap::new();
        for pass_idx in 0..self.batches.most_passes() {
            let forward = self.forward((0, pass_idx))?;
            let views = forward.as_ref();
            let views = views.map(|(token_ids, activations)| Views::new(activations, token_ids));
            let received = exchange.pass(views.as_ref())?;
            let mut sources = Sources { views, received };
            for (is_spread, view) in self.views_of(trained) {
                let Some(x) = sources.get(&view, is_spread)? else {
                    continue;
                };
                match sums.get_mut(&(is_spread, view.clone())) {
                    Some(sum) => sum.add(&x)?,
                    None => {
                        sums.insert((is_spread, view), RowSum::of(&x)?);
                    }
                }
            }
        }
        for (job_idx, sae_idx) in self.saes_of(trained) {
            let job = &mut self.jobs[job_idx];
            let is_spread = job.owners.are_spread();
            let (input, target) = job.views(&job.saes[sae_idx].spec);
            let ranks = job.ranks(self.ranks);
            let [x, y] = [input, target].map(|view| sums.get(&(is_spread, view)));
            if let Some((x, y)) = x.zip(y) {
                job.saes[sae_idx].centre_on_sums(x, y, ranks)?;
            }
        }
        Ok(())
    }

    /// What the SAEs of the jobs take and give, each once, and whether it comes from all ranks.
    fn views_of(&self, trained: &[usize]) -> BTreeSet<(bool, View)> {
        let of_sae = |(job_idx, sae_idx): (usize, usize)| {
            let job = &self.jobs[job_idx];
            let (input, target) = job.views(&job.saes[sae_idx].spec);
            [input, target].map(|view| (job.owners.are_spread(), view))
        };
        self.saes_of(trained).into_iter().flat_map(of_sae).collect()
    }
}
