//! The latents of some tokens that the loss looks at: all, or those that are listed.

use crate::SaeError;
use crate::kernels::Look;
use crate::support::Support;
use tch::Tensor;

/// Where more than this part of all latents is near a threshold, all are computed with: products with all rows of the
/// decoder are cheaper than those with so much of them, one by one.
pub(super) const MOST_LISTED: f64 = 1.0 / 16.0;

/// The pre-activations of latents that are selected, or near that.
pub(super) struct Latents {
    pub(super) support: Support,
    pub(super) pre_acts: Tensor,
    /// How many are near thresholds, on a device, where that decides what is listed: scalar, Double.
    pub(super) near: Option<Tensor>,
    /// Of a list of a fixed length.
    pub(super) room: Option<Room>,
}

/// Whether a list has room for all.
pub(super) struct Room {
    pub(super) n: Look,
    pub(super) entries: i64,
}

impl Room {
    /// Waits until it is known.
    pub(super) fn has_all(&self) -> Result<bool, SaeError> {
        Ok(self.n.number()? <= self.entries)
    }
}

impl Latents {
    pub(super) fn new(support: Support, pre_acts: Tensor) -> Self {
        Self {
            support,
            pre_acts,
            near: None,
            room: None,
        }
    }
}

/// Whether a list had room for all.
pub(super) fn had_all(room: Option<Room>) -> Result<bool, SaeError> {
    room.map_or(Ok(true), |room| room.has_all())
}
