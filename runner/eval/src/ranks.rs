//! The processes that evaluate or encode together: they take the batches in turn, and what they find is put
//! together in the order of the batches, so that it does not depend on how many they are.

use crate::EvalError;
use dist::World;
use std::fmt::Debug;
use tch::Tensor;
use tokens::Shard;

/// The processes that work together. All make the same calls in the same order.
pub trait Ranks: Debug {
    /// The part of the batches that is this process's.
    fn shard(&self) -> Shard;

    /// The numbers of every rank, by rank; as many on each.
    ///
    /// # Errors
    /// A rank that is gone, or made other calls.
    fn numbers(&self, name: &str, ours: &[i64]) -> Result<Vec<Vec<i64>>, EvalError>;

    /// The tensor of every rank, by rank; of one shape and kind on all, whenever `name` is used.
    ///
    /// # Errors
    /// As [`Ranks::numbers`].
    fn gather(&self, name: &str, ours: &Tensor) -> Result<Vec<Tensor>, EvalError>;

    /// The bytes of every rank, by rank, on rank 0; on others none.
    ///
    /// # Errors
    /// As [`Ranks::numbers`].
    fn to_first(&self, name: &str, ours: &[u8]) -> Result<Vec<Vec<u8>>, EvalError>;

    /// The sum of the tensors of all ranks.
    ///
    /// # Errors
    /// As [`Ranks::numbers`].
    fn sum(&self, name: &str, ours: &Tensor) -> Result<Tensor, EvalError>;
}

/// One process: it has all there is.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Ranks for Alone {
    fn shard(&self) -> Shard {
        Shard::WHOLE
    }

    fn numbers(&self, _name: &str, ours: &[i64]) -> Result<Vec<Vec<i64>>, EvalError> {
        Ok(vec![ours.to_vec()])
    }

    fn gather(&self, _name: &str, ours: &Tensor) -> Result<Vec<Tensor>, EvalError> {
        Ok(vec![ours.shallow_clone()])
    }

    fn to_first(&self, _name: &str, ours: &[u8]) -> Result<Vec<Vec<u8>>, EvalError> {
        Ok(vec![ours.to_vec()])
    }

    fn sum(&self, _name: &str, ours: &Tensor) -> Result<Tensor, EvalError> {
        Ok(ours.shallow_clone())
    }
}

impl Ranks for World {
    fn shard(&self) -> Shard {
        Shard {
            rank: self.rank(),
            n_ranks: self.size(),
        }
    }

    fn numbers(&self, name: &str, ours: &[i64]) -> Result<Vec<Vec<i64>>, EvalError> {
        Ok(self.agree(name, ours)?)
    }

    fn gather(&self, name: &str, ours: &Tensor) -> Result<Vec<Tensor>, EvalError> {
        Ok(self.data().all_gather(name, ours)?)
    }

    fn to_first(&self, name: &str, ours: &[u8]) -> Result<Vec<Vec<u8>>, EvalError> {
        let of_ranks = self.agree(&format!("bytes of {name}"), &[ours.len() as i64])?;
        let n_bytes: Vec<usize> = of_ranks.iter().map(|of_rank| of_rank[0] as usize).collect();
        if n_bytes.iter().all(|n_bytes| *n_bytes == 0) {
            return Ok(Vec::new());
        }
        let is_first = self.rank() == 0;
        let to_rank = |rank| if rank == 0 { ours.len() } else { 0 };
        let to: Vec<usize> = (0..self.size()).map(to_rank).collect();
        let from = if is_first {
            n_bytes
        } else {
            vec![0; self.size()]
        };
        let ours = Tensor::f_from_slice(ours)?;
        let received = self.control().all_to_all(name, &ours, (&to, &from))?;
        let mut received = &Vec::<u8>::try_from(received)?[..];
        let of_ranks = from.iter().map(|n_bytes| {
            let (of_rank, rest) = received.split_at(*n_bytes);
            received = rest;
            of_rank.to_vec()
        });
        Ok(of_ranks.filter(|_| is_first).collect())
    }

    fn sum(&self, name: &str, ours: &Tensor) -> Result<Tensor, EvalError> {
        let mut sum = ours.f_detach_copy()?;
        self.data().all_reduce(name, &mut sum)?;
        Ok(sum)
    }
}

impl dyn Ranks + '_ {
    /// Whether this process writes files.
    pub(crate) fn has_writer(&self) -> bool {
        self.shard().rank == 0
    }

    /// Whether it is asked of any process.
    pub(crate) fn any(&self, name: &str, is_asked: bool) -> Result<bool, EvalError> {
        let of_ranks = self.numbers(name, &[i64::from(is_asked)])?;
        Ok(of_ranks.iter().flatten().any(|is_asked| *is_asked != 0))
    }

    /// The sums over all ranks of each of the numbers.
    pub(crate) fn sum_numbers(&self, name: &str, ours: &[u64]) -> Result<Vec<u64>, EvalError> {
        let ours: Vec<i64> = ours.iter().map(|n| n.cast_signed()).collect();
        let of_ranks = self.numbers(name, &ours)?;
        let sums = (0..ours.len()).map(|idx| of_ranks.iter().map(|of_rank| of_rank[idx]).sum());
        Ok(sums.map(|sum: i64| sum.cast_unsigned()).collect())
    }
}
