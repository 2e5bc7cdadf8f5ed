//! On which ranks the SAEs of a job are.

/// On which ranks the SAEs of a job are: on all of them, or each on one (`distribute_modules`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    /// By the SAE's index in the job; `None`: all ranks have all SAEs.
    by_sae: Option<Vec<usize>>,
    this_rank: usize,
}

impl Owners {
    pub(crate) fn new(by_sae: Option<Vec<usize>>, this_rank: usize) -> Self {
        Self { by_sae, this_rank }
    }

    /// Whether each SAE is on one rank.
    pub(crate) fn are_spread(&self) -> bool {
        self.by_sae.is_some()
    }

    /// The one rank that has an SAE; `None`: all have it.
    pub(crate) fn of(&self, sae_idx: usize) -> Option<usize> {
        self.by_sae.as_ref().map(|ranks| ranks[sae_idx])
    }

    /// Whether this rank has an SAE.
    pub(crate) fn are_here(&self, sae_idx: usize) -> bool {
        self.of(sae_idx).is_none_or(|rank| rank == self.this_rank)
    }
}
