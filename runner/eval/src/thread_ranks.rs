//! Ranks that are threads of one process, for tests.

use crate::EvalError;
use crate::ranks::Ranks;
use std::sync::{Arc, Barrier, Mutex};
use tch::{Kind, Tensor};
use tokens::Shard;

/// A rank among threads.
#[derive(Clone, Debug)]
pub(crate) struct ThreadRank {
    shard: Shard,
    meeting: Arc<Meeting>,
}

#[derive(Debug)]
struct Meeting {
    barrier: Barrier,
    /// What each rank has brought.
    brought: Mutex<Vec<Tensor>>,
}

/// Does `work` on each of `n_ranks`; gives what each has, by rank.
pub(crate) fn on_ranks<T: Send>(n_ranks: usize, work: impl Fn(&dyn Ranks) -> T + Sync) -> Vec<T> {
    let nothing = || Tensor::zeros([0], (Kind::Float, tch::Device::Cpu));
    let meeting = Arc::new(Meeting {
        barrier: Barrier::new(n_ranks),
        brought: Mutex::new((0..n_ranks).map(|_| nothing()).collect()),
    });
    let work = &work;
    std::thread::scope(|scope| {
        let threads = (0..n_ranks).map(|rank| {
            let rank = ThreadRank {
                shard: Shard { rank, n_ranks },
                meeting: Arc::clone(&meeting),
            };
            scope.spawn(move || work(&rank))
        });
        let threads: Vec<_> = threads.collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap());
        done.collect()
    })
}

impl ThreadRank {
    fn exchange(&self, ours: &Tensor) -> Vec<Tensor> {
        self.meeting.brought.lock().unwrap()[self.shard.rank] = ours.copy();
        self.meeting.barrier.wait();
        let brought = self.meeting.brought.lock().unwrap();
        let all = brought.iter().map(Tensor::copy).collect();
        drop(brought);
        self.meeting.barrier.wait();
        all
    }
}

impl Ranks for ThreadRank {
    fn shard(&self) -> Shard {
        self.shard
    }

    fn numbers(&self, _name: &str, ours: &[i64]) -> Result<Vec<Vec<i64>>, EvalError> {
        let all = self.exchange(&Tensor::from_slice(ours));
        Ok(all.iter().map(|of| of.try_into().unwrap()).collect())
    }

    fn gather(&self, _name: &str, ours: &Tensor) -> Result<Vec<Tensor>, EvalError> {
        let all = self.exchange(ours);
        assert!(all.iter().all(|of| of.size() == ours.size()), "{all:?}");
        Ok(all)
    }

    fn to_first(&self, _name: &str, ours: &[u8]) -> Result<Vec<Vec<u8>>, EvalError> {
        let all = self.exchange(&Tensor::from_slice(ours));
        let all = all.iter().map(|of| of.try_into().unwrap());
        Ok(all.filter(|_| self.shard.rank == 0).collect())
    }

    fn sum(&self, name: &str, ours: &Tensor) -> Result<Tensor, EvalError> {
        let all = self.gather(name, ours)?;
        Ok(all.into_iter().reduce(|sum, of| sum + of).unwrap())
    }
}
