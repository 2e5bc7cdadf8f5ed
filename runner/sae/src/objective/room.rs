//! Room for the latents near thresholds, in lists on a GPU.
//!
//! How many there are is known there alone. A list has room for twice as many, or a little more, as there were on average
//! since the last report. Whether that was enough the host looks at when it has started everything that uses the list; if
//! it was not, it starts the same with all latents.

use super::latents::{Latents, MOST_LISTED, Room};
use crate::kernels::{InRoom, Look, above_in_room, are_above, are_listed_in_room, are_on_host};
use crate::support::Support;
use crate::{Objective, Sae, SaeError};
use tch::{Kind, Tensor};

/// Of a token.
const LEAST_ROOM: usize = 16;

/// How many latents of a token a list has room for, on average over tokens, if `near` were on average near a threshold.
/// `None`: that is much of all, and nothing is listed.
pub fn room_for(near: f64, num_latents: usize) -> Option<usize> {
    let most = (MOST_LISTED * num_latents as f64) as usize;
    let room = (2.0 * near).ceil() as usize;
    if room > most {
        return None;
    }
    Some(
        room.next_power_of_two()
            .clamp(LEAST_ROOM, most.max(LEAST_ROOM)),
    )
}

impl Sae {
    /// All latents.
    pub(super) fn all_latents(
        &self,
        centred: &Tensor,
        objective: &Objective<'_>,
    ) -> Result<Latents, SaeError> {
        let pre_acts = centred.f_linear(&self.encoder_weight, Some(&self.encoder_bias))?;
        let near = if are_on_host(&[centred]) {
            None
        } else {
            let is_near = are_above(&pre_acts, &self.bounds(objective)?)?;
            Some(is_near.f_sum(Kind::Double)?)
        };
        Ok(Latents {
            near,
            ..Latents::new(Support::All, pre_acts)
        })
    }

    /// The latents that are active, or so near to that that their thresholds have a gradient, on a device. `None`: no
    /// room is known that would do, or no kernels are in use that leave the rest of it alone.
    pub(super) fn near_in_room(
        &self,
        centred: &Tensor,
        objective: &Objective<'_>,
    ) -> Result<Option<Latents>, SaeError> {
        match objective.room {
            Some(room) if are_listed_in_room(&[centred, &self.encoder_weight, &self.w_dec]) => {
                self.in_room(centred, room, objective)
            }
            _ => Ok(None),
        }
    }

    /// The same anywhere.
    pub(super) fn in_room(
        &self,
        centred: &Tensor,
        room: usize,
        objective: &Objective<'_>,
    ) -> Result<Option<Latents>, SaeError> {
        let entries = room as i64 * centred.size()[0];
        let encoder = (&self.encoder_weight, &self.encoder_bias);
        let found = above_in_room(centred, encoder, &self.bounds(objective)?, entries)?;
        let Some(InRoom { listed, n }) = found else {
            return Ok(None);
        };
        let look = Look::new(&n)?;
        Ok(Some(Latents {
            near: Some(n.f_to_kind(Kind::Double)?),
            room: Some(Room { n: look, entries }),
            ..Latents::new(Support::Some(listed.at), listed.numbers)
        }))
    }

    /// What pre-activations have to be above to take part in the loss: `[num_latents]`.
    pub(super) fn bounds(&self, objective: &Objective<'_>) -> Result<Tensor, SaeError> {
        Ok(match &self.threshold {
            None => self.encoder_bias.f_zeros_like()?,
            Some(threshold) => objective.jump.bounds(threshold)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::room_for;

    #[test]
    fn rooms_are_twice_the_mean_or_none() {
        assert_eq!(room_for(0.0, 4096), Some(16));
        assert_eq!(room_for(40.0, 4096), Some(128));
        assert_eq!(room_for(100.0, 4096), Some(256));
        assert_eq!(room_for(100.0, 4000), Some(250));
        assert_eq!(room_for(129.0, 4096), None);
        for strange in [f64::INFINITY, 1e300] {
            assert_eq!(room_for(strange, 4096), None);
        }
    }
}
