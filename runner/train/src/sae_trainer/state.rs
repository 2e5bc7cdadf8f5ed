//! What a resume needs of an SAE in training, besides its weights and the optimizer's tensors.

use super::SaeTrainer;
use super::scaling::Scaling;
use crate::TrainError;
use plan::NormalizeActivations;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

/// What a resume needs of an SAE besides its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SaeCounts {
    /// Updates of its weights.
    pub(crate) n_updates: u64,
    /// Whether the decoder was brought to unit norm since the last of them.
    is_projected: bool,
    /// Active latents of a token in the next update; `cfg.json` has those at the end.
    k: usize,
    /// For how many latents of a token lists have room on a GPU.
    #[serde(default)]
    room: Option<usize>,
}

impl SaeCounts {
    /// As ranks send them.
    pub(crate) fn to_numbers(self) -> [i64; 4] {
        let n_updates = self.n_updates.cast_signed();
        let room = self.room.map_or(-1, |room| room as i64);
        [n_updates, self.is_projected.into(), self.k as i64, room]
    }

    pub(crate) fn of_numbers([n_updates, is_projected, k, room]: [i64; 4]) -> Self {
        Self {
            n_updates: n_updates.cast_unsigned(),
            is_projected: is_projected != 0,
            k: k as usize,
            room: usize::try_from(room).ok(),
        }
    }
}

/// Names in a state.
const THRESHOLD: &str = "threshold_estimate";
const LEAST: &str = "last_least_score";
const ANNEAL: &str = "anneal";

impl SaeTrainer {
    /// What a resume needs of its kind, by name.
    pub(crate) fn kind_state(&self) -> Result<Vec<(&'static str, Tensor)>, TrainError> {
        let mut state = Vec::new();
        if let Some(threshold) = &self.threshold {
            state.push((THRESHOLD, threshold.value.shallow_clone()));
            let least = Tensor::from_slice(&self.last_least);
            state.push((LEAST, least.f_reshape(threshold.value.size())?));
        }
        if let Some(anneal) = &self.kind.anneal {
            state.push((ANNEAL, anneal.state()?));
        }
        state.extend(self.scaling.iter().flat_map(Scaling::state));
        Ok(state)
    }

    /// Restores that; `take`: gives a tensor by name.
    pub(crate) fn restore_kind(
        &mut self,
        take: &mut dyn FnMut(&'static str) -> Result<Tensor, TrainError>,
    ) -> Result<(), TrainError> {
        if let Some(threshold) = &mut self.threshold {
            threshold.value = take(THRESHOLD)?;
            let least = take(LEAST)?;
            // On a device none is known, and nothing waits for it.
            if least.device() == Device::Cpu {
                self.last_least = Vec::try_from(least.f_reshape([-1])?)?;
            }
        }
        if let Some(anneal) = &mut self.kind.anneal {
            anneal.restore(&take(ANNEAL)?)?;
        }
        if self.settings.normalize.0 != NormalizeActivations::None {
            self.scaling = Some(Scaling::restored(take)?);
        }
        Ok(())
    }

    /// Its counts after `step` updates of the job.
    pub(crate) fn counts(&self, step: u64) -> SaeCounts {
        SaeCounts {
            n_updates: self.n_updates,
            is_projected: self.is_projected,
            k: self.k_at(step).count(),
            room: self.room,
        }
    }

    /// Continues where an earlier worker was.
    pub(crate) fn restore_counts(&mut self, counts: SaeCounts) {
        self.n_updates = counts.n_updates;
        self.is_projected = counts.is_projected;
        self.room = counts.room;
    }
}
