//! Several processes that train a stream: a world of ranks.

use super::reduction::Reduction;
use super::{Ranks, Summing, UpdateSums};
use crate::TrainError;
use crate::activations::row_sum::RowSum;
use dist::{Kind, Role, World};
use plan::{bytes, count};
use sae::Moments;
use sae::{Backward, Sae};
use std::num::NonZero;
use std::time::Duration;
use tch::Tensor;

/// How long ranks wait for the one that tokenises, which may have days of work.
const PATIENCE_FOR_TOKENS: Duration = Duration::from_secs(7 * 24 * 3600);

impl Ranks for World {
    fn number(&self) -> usize {
        self.size()
    }

    fn rank(&self) -> usize {
        self.rank()
    }

    fn has_writer(&self) -> bool {
        self.role() == Role::Writer
    }

    /// Launchers tell libtorch one thread, with several processes on a node; here they share the cores.
    fn n_threads(&self) -> Option<usize> {
        let n_cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Some((n_cores / self.local_size()).max(1))
    }

    fn sums_are_complete(&self) -> bool {
        false
    }

    /// They agree once an update.
    fn stops_at_once(&self, _is_asked: bool) -> bool {
        false
    }

    fn agree_to_stop(
        &self,
        name: &str,
        is_asked: bool,
        numbers: &[i64],
    ) -> Result<Option<Vec<Vec<i64>>>, TrainError> {
        let ours = [&[i64::from(is_asked)], numbers].concat();
        let mut of_ranks = self.gather(name, &ours)?;
        let are_asked = of_ranks.iter_mut().map(|numbers| numbers.remove(0));
        let n_asked: i64 = are_asked.sum();
        Ok((n_asked == 0).then_some(of_ranks))
    }

    fn all_have_tokens(&self, has_tokens: bool) -> Result<bool, TrainError> {
        let is_stopped = [i64::from(!has_tokens)];
        let patience = Some(PATIENCE_FOR_TOKENS);
        let control = self.control();
        let of_ranks = control.gather_numbers_within("tokens", &is_stopped, patience)?;
        Ok(of_ranks.iter().flatten().all(|&is_stopped| is_stopped == 0))
    }

    fn gather(&self, name: &str, numbers: &[i64]) -> Result<Vec<Vec<i64>>, TrainError> {
        Ok(self.agree(name, numbers)?)
    }

    fn gather_text(&self, name: &str, text: &str) -> Result<Vec<String>, TrainError> {
        Ok(self.control().gather_text(name, text)?)
    }

    fn exchange(
        &self,
        name: &str,
        bytes: &Tensor,
        sizes: (&[usize], &[usize]),
    ) -> Result<Tensor, TrainError> {
        Ok(self.data().all_to_all(name, bytes, sizes)?)
    }

    fn sum<'a>(
        &'a self,
        name: &str,
        ours: UpdateSums,
        sae: &Sae,
    ) -> Result<Summing<'a>, TrainError> {
        let backward = match ours.backward {
            Some(backward) => backward,
            None => Backward::zeros(sae)?,
        };
        let reduction = Reduction::begin(self.data(), name, backward, &ours.output_losses)?;
        Ok(Summing::OnItsWay(Box::new(reduction)))
    }

    fn sum_of_rows(&self, ours: &RowSum) -> Result<RowSum, TrainError> {
        let mut sum = ours.sum.f_detach_copy()?;
        let of_ranks = self.gather("first rows", &[ours.n_rows])?;
        let what = format!("first mean of {}", sum.size()[0]);
        self.data().all_reduce(&what, &mut sum)?;
        Ok(RowSum {
            sum,
            n_rows: of_ranks.iter().flatten().sum(),
        })
    }

    fn mean(&self, x: &Tensor) -> Result<Option<Tensor>, TrainError> {
        self.sum_of_rows(&RowSum::of(x)?)?.mean()
    }

    fn merge_moments(
        &self,
        name: &str,
        ours: Moments,
        n_tokens: &[u64],
    ) -> Result<Moments, TrainError> {
        let flat = [
            ours.squared_deviations.f_view(1)?,
            ours.mean.shallow_clone(),
        ];
        let gathered = self.data().all_gather(name, &Tensor::f_cat(&flat, 0)?)?;
        let of_ranks = gathered.iter().zip(n_tokens);
        let of_ranks = of_ranks.filter(|(_, n_tokens)| **n_tokens > 0);
        let mut sum: Option<Moments> = None;
        for (flat, &n_tokens) in of_ranks {
            let part = Moments {
                n_tokens,
                squared_deviations: flat.f_get(0)?,
                mean: flat.f_narrow(0, 1, flat.size()[0] - 1)?,
            };
            sum = Some(match sum {
                None => part,
                Some(sum) => sum.merge(&part)?,
            });
        }
        Ok(sum.unwrap_or(ours))
    }

    fn evaluators(&self) -> &dyn eval::Ranks {
        self
    }

    fn volume(&self, n_updates: u64) -> Option<String> {
        let volume = self.data().volume();
        let of = |kind, name| {
            let (n_calls, n_bytes) = (volume.n_calls(kind), volume.n_bytes(kind));
            format!("{} in {n_calls} {name}", exact(n_bytes))
        };
        let (sums, others) = (
            of(Kind::AllReduce, "all-reduces"),
            of(Kind::AllGather, "all-gathers"),
        );
        let activations = match volume.n_calls(Kind::AllToAll) {
            0 => String::new(),
            _ => format!(", {}", of(Kind::AllToAll, "all-to-alls")),
        };
        let (rank, n_ranks) = (self.rank(), self.size());
        Some(format!(
            "rank {rank} of {n_ranks} sent {sums} and {others}{activations}, for {}",
            count(n_updates as usize, "step")
        ))
    }
}

/// A number of bytes to read, and to the byte if that is another.
fn exact(n_bytes: u64) -> String {
    let (rounded, exact) = (bytes(n_bytes), format!("{n_bytes} B"));
    if rounded == exact {
        exact
    } else {
        format!("{rounded} ({exact})")
    }
}
