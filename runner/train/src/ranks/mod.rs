//! The processes that train a stream together. Each passes its part of every batch through the model, and what
//! that adds up to is summed once an update. The loop asks [`Ranks`] for that: [`Alone`] is one process,
//! [`dist::World`] several.

mod alone;
pub(crate) mod exchange;
pub(crate) mod owners;
mod reduction;
pub(crate) mod rendezvous;
mod world;

use crate::TrainError;
use crate::activations::row_sum::RowSum;
pub(crate) use alone::Alone;
use fault::Fault;
pub(crate) use reduction::{Summing, UpdateSums};
use sae::Moments;
use sae::Sae;
use std::fmt::Debug;
use tch::Tensor;
use tokens::Shard;

/// This process alone.
pub(crate) const ALONE: &dyn Ranks = &Alone;

/// The processes that train a stream. All have the same SAEs and change them alike, except those that are on
/// one rank; all call the same functions in the same order.
pub(crate) trait Ranks: Debug {
    /// How many there are.
    fn number(&self) -> usize;

    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Whether this process writes events and checkpoints.
    fn has_writer(&self) -> bool;

    /// Threads to compute with on the CPU; `None`: as libtorch has it.
    fn n_threads(&self) -> Option<usize>;

    /// Whether this process's sums are those of all. Then an SAE's update need not wait for other SAEs' sums.
    fn sums_are_complete(&self) -> bool;

    /// Whether to stop between two forward passes, if it `is_asked` of this process.
    fn stops_at_once(&self, is_asked: bool) -> bool;

    /// Once an update: the numbers of every rank, by rank. `None`: all stop, because it `is_asked` of one that does
    /// not stop at once.
    fn agree_to_stop(
        &self,
        name: &str,
        is_asked: bool,
        numbers: &[i64],
    ) -> Result<Option<Vec<Vec<i64>>>, TrainError>;

    /// Waits until no rank prepares its tokens any more; whether they are ready on all. A rank may have been
    /// stopped before.
    fn all_have_tokens(&self, has_tokens: bool) -> Result<bool, TrainError>;

    /// The numbers of every rank, by rank.
    fn gather(&self, name: &str, numbers: &[i64]) -> Result<Vec<Vec<i64>>, TrainError>;

    /// The text of every rank, as far as it is no longer than a name.
    fn gather_text(&self, name: &str, text: &str) -> Result<Vec<String>, TrainError>;

    /// Sends bytes to every rank and gives those from every rank, one after the other; how many of them, by rank.
    fn exchange(
        &self,
        name: &str,
        bytes: &Tensor,
        sizes: (&[usize], &[usize]),
    ) -> Result<Tensor, TrainError>;

    /// Begins to sum what all ranks have of the update of `sae`, called `name`.
    fn sum<'a>(
        &'a self,
        name: &str,
        ours: UpdateSums,
        sae: &Sae,
    ) -> Result<Summing<'a>, TrainError>;

    /// The sum of the rows of all ranks, of which `ours` are this one's.
    fn sum_of_rows(&self, ours: &RowSum) -> Result<RowSum, TrainError>;

    /// The mean of the rows of all ranks, `x`: `[n_rows, width]`, this one's: `[width]`, Float. `None`:
    /// no rank has a row.
    fn mean(&self, x: &Tensor) -> Result<Option<Tensor>, TrainError>;

    /// The moments of the tokens of all ranks, from those of each: `ours`, and how many tokens each has.
    fn merge_moments(
        &self,
        name: &str,
        ours: Moments,
        n_tokens: &[u64],
    ) -> Result<Moments, TrainError>;

    /// The same processes, as they evaluate.
    fn evaluators(&self) -> &dyn eval::Ranks;

    /// What this process sent in `n_updates` updates; `None`: it is alone.
    fn volume(&self, n_updates: u64) -> Option<String>;
}

impl dyn Ranks + '_ {
    /// The part of every batch that is this process's.
    pub(crate) fn shard(&self) -> Shard {
        Shard {
            rank: self.rank(),
            n_ranks: self.number(),
        }
    }

    /// Returns when all are here.
    pub(crate) fn wait_for_all(&self, name: &str) -> Result<(), TrainError> {
        self.gather(name, &[]).map(|_| ())
    }

    /// Checks that all have the same numbers.
    pub(crate) fn must_agree(&self, what: &str, numbers: &[i64]) -> Result<(), TrainError> {
        let gathered = self.gather(what, numbers)?;
        match gathered.iter().position(|theirs| *theirs != gathered[0]) {
            None => Ok(()),
            Some(rank) => {
                let fault = Fault::internal(format!("rank {rank} has another {what} than rank 0"));
                let hint = "do all nodes see the same runs folder, and have the same packages?";
                Err(fault.with_hint(hint).into())
            }
        }
    }

    /// Numbers about SAEs, for all ranks: of an SAE that is on one rank, its `owner`, those of that rank; of
    /// others, our own.
    pub(crate) fn share<const N: usize>(
        &self,
        name: &str,
        rows: Vec<(Option<usize>, [i64; N])>,
    ) -> Result<Vec<[i64; N]>, TrainError> {
        let owned = rows.iter().filter(|(owner, _)| owner.is_some());
        let ours: Vec<i64> = owned.flat_map(|(_, row)| *row).collect();
        if ours.is_empty() {
            return Ok(rows.into_iter().map(|(_, row)| row).collect());
        }
        let gathered = self.gather(name, &ours)?;
        let mut start = 0;
        let of_owner = |(owner, row): (Option<usize>, [i64; N])| match owner {
            None => row,
            Some(rank) => {
                start += N;
                std::array::from_fn(|idx| gathered[rank][start - N + idx])
            }
        };
        Ok(rows.into_iter().map(of_owner).collect())
    }
}
