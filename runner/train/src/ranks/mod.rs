//! The processes that train a stream together, where it is more than one: each passes its part of every
//! batch through the model, and what that adds up to is summed once an update. All have the same SAEs and
//! change them alike; one writes.

pub(crate) mod exchange;
pub(crate) mod owners;
pub(crate) mod reduction;
pub(crate) mod rendezvous;

use crate::TrainError;
use crate::activations::variance::Moments;
use crate::ranks::reduction::Reduction;
use crate::sae_trainer::Sums;
use crate::training::centre::RowSum;
use data::Shard;
use dist::{Kind, Role, World};
use tch::Tensor;

/// The processes that train a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranks<'a>(Option<&'a World>);

impl<'a> Ranks<'a> {
    /// This process alone.
    pub(crate) const ALONE: Self = Self(None);

    pub(crate) fn of(world: Option<&'a World>) -> Self {
        Self(world)
    }

    pub(crate) fn are_several(self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn number(self) -> usize {
        self.0.map_or(1, World::size)
    }

    /// Number of this process, from 0.
    pub(crate) fn rank(self) -> usize {
        self.0.map_or(0, World::rank)
    }

    /// Whether this process writes events and checkpoints.
    pub(crate) fn has_writer(self) -> bool {
        self.0.is_none_or(|world| world.role() == Role::Writer)
    }

    /// The part of every batch that is this process's.
    pub(crate) fn shard(self) -> Shard {
        self.0.map_or(Shard::WHOLE, |world| Shard {
            rank: world.rank(),
            n_ranks: world.size(),
        })
    }

    /// The numbers of every rank, by rank.
    pub(crate) fn gather(self, name: &str, numbers: &[i64]) -> Result<Vec<Vec<i64>>, TrainError> {
        match self.0 {
            None => Ok(vec![numbers.to_vec()]),
            Some(world) => Ok(world.agree(name, numbers)?),
        }
    }

    /// Returns when all are here.
    pub(crate) fn wait_for_all(self, name: &str) -> Result<(), TrainError> {
        self.gather(name, &[]).map(|_| ())
    }

    /// Numbers about SAEs, for all ranks: of an SAE that is on one rank, its `owner`, those of that rank; of
    /// others, our own.
    pub(crate) fn share<const N: usize>(
        self,
        name: &str,
        rows: Vec<(Option<usize>, [i64; N])>,
    ) -> Result<Vec<[i64; N]>, TrainError> {
        let owned = rows.iter().filter(|(owner, _)| owner.is_some());
        let ours: Vec<i64> = owned.flat_map(|(_, row)| *row).collect();
        if ours.is_empty() {
            return Ok(rows.into_iter().map(|(_, row)| row).collect());
        }
        let gathered = self.gather(name, &ours)?;
        let mut place = 0;
        let of_owner = |(owner, row): (Option<usize>, [i64; N])| match owner {
            None => row,
            Some(rank) => {
                place += N;
                std::array::from_fn(|idx| gathered[rank][place - N + idx])
            }
        };
        Ok(rows.into_iter().map(of_owner).collect())
    }

    /// The text of every rank, as far as it is no longer than a name.
    pub(crate) fn gather_text(self, name: &str, text: &str) -> Result<Vec<String>, TrainError> {
        match self.0 {
            None => Ok(vec![text.to_owned()]),
            Some(world) => Ok(world.control().gather_text(name, text)?),
        }
    }

    /// Bytes to every rank and from every rank, one behind the other; how many of them, by rank.
    pub(crate) fn all_to_all(
        self,
        name: &str,
        bytes: &Tensor,
        sizes: (&[usize], &[usize]),
    ) -> Result<Tensor, TrainError> {
        match self.0 {
            None => Ok(bytes.shallow_clone()),
            Some(world) => Ok(world.data().all_to_all(name, bytes, sizes)?),
        }
    }

    /// Checks that all have the same numbers.
    pub(crate) fn must_agree(self, what: &str, numbers: &[i64]) -> Result<(), TrainError> {
        let gathered = self.gather(what, numbers)?;
        match gathered.iter().position(|theirs| *theirs != gathered[0]) {
            None => Ok(()),
            Some(rank) => Err(TrainError::RanksDiffer {
                rank,
                what: what.into(),
            }),
        }
    }

    /// The mean of the rows of all ranks, of which `ours` are this one's: `[width]`, Float. `None`: no rank has a row.
    pub(crate) fn mean_of_sums(self, ours: &RowSum) -> Result<Option<Tensor>, TrainError> {
        let mut sum = ours.sum.f_detach_copy()?;
        let n_all = match self.0 {
            None => ours.n_rows,
            Some(world) => {
                let of_ranks = self.gather("first rows", &[ours.n_rows])?;
                let what = format!("first mean of {}", sum.size()[0]);
                world.data().all_reduce(&what, &mut sum)?;
                of_ranks.iter().flatten().sum()
            }
        };
        let mean = (n_all > 0).then(|| sum.f_div_scalar(n_all)?.f_to_kind(tch::Kind::Float));
        Ok(mean.transpose()?)
    }

    /// The mean of the rows of all ranks, `x`: `[n_rows, width]`, this one's: `[width]`, Float. `None`:
    /// no rank has a row.
    pub(crate) fn mean(self, x: &Tensor) -> Result<Option<Tensor>, TrainError> {
        let n_rows = x.size()[0];
        if self.0.is_none() {
            let mean = (n_rows > 0).then(|| x.f_mean_dim(0, false, tch::Kind::Float));
            return Ok(mean.transpose()?);
        }
        self.mean_of_sums(&RowSum::of(x)?)
    }

    /// Begins to sum what an update of the SAE `name` comes to.
    pub(crate) fn begin_sum(
        self,
        name: &str,
        sums: Sums,
        output_losses: &[(Tensor, u64)],
    ) -> Result<Reduction<'a>, TrainError> {
        let world = self.0.expect("only where there are several");
        Reduction::begin(world.data(), name, sums, output_losses)
    }

    /// What this process sent in `n_updates` updates; `None`: it is alone.
    pub(crate) fn volume(self, n_updates: u64) -> Option<String> {
        let volume = self.0?.data().volume();
        let of = |kind, name| {
            let (n_calls, n_bytes) = (volume.n_calls(kind), volume.n_bytes(kind));
            format!("{n_calls} {name} of {n_bytes} bytes")
        };
        let (sums, others) = (
            of(Kind::AllReduce, "all-reduces"),
            of(Kind::AllGather, "all-gathers"),
        );
        let activations = match volume.n_calls(Kind::AllToAll) {
            0 => String::new(),
            _ => format!(", {}", of(Kind::AllToAll, "all-to-alls")),
        };
        let (rank, n_ranks) = (self.rank(), self.number());
        Some(format!(
            "rank {rank} of {n_ranks} gave {sums} and {others}{activations} in {n_updates} updates"
        ))
    }

    /// The moments of the tokens of all ranks, from those of each: `ours`, and how many tokens each has.
    pub(crate) fn merge_moments(
        self,
        name: &str,
        ours: Moments,
        n_tokens: &[u64],
    ) -> Result<Moments, TrainError> {
        let Some(world) = self.0 else {
            return Ok(ours);
        };
        let flat = [
            ours.squared_deviations.f_view(1)?,
            ours.mean.shallow_clone(),
        ];
        let gathered = world.data().all_gather(name, &Tensor::f_cat(&flat, 0)?)?;
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
}
