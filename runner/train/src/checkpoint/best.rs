//! The checkpoint of each SAE that had the lowest loss, besides its newest one.

use plan::SaeStats;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The lowest losses of a job's SAEs. The loss of a checkpoint is that of the updates since the one
/// before it.
#[derive(Debug)]
pub(crate) struct Best {
    /// A separate folder: sparsify takes every folder in that of the job for an SAE.
    dir: PathBuf,
    state: BestState,
}

/// What a resume needs to know about it, by SAE.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BestState {
    /// Losses of the best checkpoints.
    lowest: BTreeMap<String, f64>,
    /// Sums since the last checkpoint that was compared.
    since: BTreeMap<String, SaeStats>,
}

impl Best {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            state: BestState::default(),
        }
    }

    /// Continues where an earlier worker was.
    pub(crate) fn restore(&mut self, state: BestState) {
        self.state = state;
    }

    pub(crate) fn state(&self) -> &BestState {
        &self.state
    }

    /// Adds the statistics of some updates of the SAE `name`.
    pub(crate) fn add(&mut self, name: &str, stats: &SaeStats) {
        let sum = self.state.since.entry(name.into()).or_default();
        sum.squared_error += stats.squared_error;
        sum.sparsity += stats.sparsity;
        sum.total_variance += stats.total_variance;
        sum.output_loss += stats.output_loss;
        sum.n_output += stats.n_output;
    }

    /// Whether the loss of an SAE since the last call is the lowest, which it is from then on.
    pub(crate) fn is_lowest(&mut self, name: &str) -> bool {
        let Some(stats) = self.state.since.remove(name) else {
            return false;
        };
        let loss = match stats.n_output {
            0 => (stats.squared_error + stats.sparsity) / stats.total_variance,
            n_output => stats.output_loss / n_output as f64,
        };
        let lowest = self
            .state
            .lowest
            .get(name)
            .copied()
            .unwrap_or(f64::INFINITY);
        if loss < lowest {
            self.state.lowest.insert(name.into(), loss);
        }
        loss < lowest
    }

    /// Where the best one is saved.
    pub(crate) fn dir_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sae::{Sae, SaeConfig};
    use tch::Device;

    fn stats(squared_error: f64) -> SaeStats {
        SaeStats {
            squared_error,
            total_variance: 4.0,
            ..SaeStats::default()
        }
    }

    /// The FVU is lowest before a penalty has made latents sparse.
    #[test]
    fn a_penalty_is_part_of_the_loss() {
        let mut best = Best::new(PathBuf::new());
        let with_penalty = |squared_error, sparsity| SaeStats {
            sparsity,
            ..stats(squared_error)
        };
        for (stats, is_lowest) in [
            (with_penalty(1.0, 8.0), true),
            (with_penalty(2.0, 3.0), true),
            (with_penalty(1.5, 4.0), false),
        ] {
            best.add("a", &stats);
            assert_eq!(best.is_lowest("a"), is_lowest);
        }
    }

    #[test]
    fn the_lowest_loss_since_the_last_checkpoint_counts() {
        let dir = tempfile::tempdir().unwrap();
        let mut best = Best::new(dir.path().into());
        let sae = |seed| Sae::new(SaeConfig::topk(4, 12, 2), seed, Device::Cpu).unwrap();
        let save_if_lowest = |best: &mut Best, seed| {
            if best.is_lowest("a") {
                sae(seed).save_to_disk(&best.dir_of("a")).unwrap();
            }
        };
        let saved = || Sae::load_from_disk(&dir.path().join("a"), Device::Cpu).unwrap();
        best.add("a", &stats(3.0));
        best.add("a", &stats(1.0));
        save_if_lowest(&mut best, 1);
        assert_eq!(best.state().lowest["a"], 0.5);
        best.add("a", &stats(2.5));
        save_if_lowest(&mut best, 2);
        assert!(saved().encoder_weight.equal(&sae(1).encoder_weight));
        best.add("a", &stats(1.5));
        save_if_lowest(&mut best, 3);
        assert!(saved().encoder_weight.equal(&sae(3).encoder_weight));
        save_if_lowest(&mut best, 4);
        assert!(
            saved().encoder_weight.equal(&sae(3).encoder_weight),
            "no update since"
        );
    }
}
