//! How much was sent, by kind of collective.

use std::collections::BTreeMap;

/// Kinds of collectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Sums over all ranks.
    AllReduce,
    /// One rank's tensor to all.
    Broadcast,
    /// Every rank's tensor to all.
    AllGather,
    /// Rows of every rank to every rank.
    AllToAll,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all-reduce",
            Self::Broadcast => "broadcast",
            Self::AllGather => "all-gather",
            Self::AllToAll => "all-to-all",
        }
    }
}

/// Calls of a rank, and the bytes of their tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    by_kind: BTreeMap<Kind, (u64, u64)>,
}

impl Volume {
    pub(crate) fn add(&mut self, kind: Kind, n_bytes: u64) {
        let (n_calls, sum) = self.by_kind.entry(kind).or_default();
        *n_calls += 1;
        *sum += n_bytes;
    }

    /// Calls.
    pub fn n_calls(&self, kind: Kind) -> u64 {
        self.by_kind.get(&kind).map_or(0, |(n_calls, _)| *n_calls)
    }

    /// Bytes of the tensors given: of an all-reduce or a broadcast, those of one tensor; of an
    /// all-gather, those of this rank's; of an all-to-all, those of the rows that go to other ranks. On
    /// the wire, a ring of n ranks sends 2 (n - 1) / n times an all-reduce's from each.
    pub fn n_bytes(&self, kind: Kind) -> u64 {
        self.by_kind.get(&kind).map_or(0, |(_, n_bytes)| *n_bytes)
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let minus = |(&kind, (n_calls, n_bytes)): (&Kind, &(u64, u64))| {
            (
                kind,
                (
                    n_calls - earlier.n_calls(kind),
                    n_bytes - earlier.n_bytes(kind),
                ),
            )
        };
        Self {
            by_kind: self.by_kind.iter().map(minus).collect(),
        }
    }
}
