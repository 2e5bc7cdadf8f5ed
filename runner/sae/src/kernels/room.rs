//! Lists of a fixed length, on a GPU: how many latents are near thresholds is known there alone, and a shape must be known
//! here. Whether there was room for all is looked at once everything that uses a list was started: its number was written
//! long before, so the device has work while the host looks.

use super::cuda;
use super::kernel::Kernel;
use super::listed::{are_above, starts};
use super::{Listed, ListedNumbers};
use kernels::cuda::{Mark, Unusable};
use tch::{Device, Kind, TchError, Tensor};

/// A number that a device writes, for the host.
#[derive(Debug)]
pub(crate) struct Look {
    /// In pinned memory: scalar, Int64.
    number: Tensor,
    /// `None`: it is there already.
    written: Option<Mark>,
}

/// What [`above_in_room`] gives.
#[derive(Debug)]
pub(crate) struct InRoom {
    /// As many entries as there is room for. Those after the last token's are no latents of any: their numbers are
    /// minus infinity.
    pub(crate) listed: ListedNumbers,
    /// How many there are: scalar, Int64; if that is more, some are not in the list.
    pub(crate) n: Tensor,
}

/// Whether lists of a fixed length are made where these are.
pub(crate) fn are_listed_in_room(tensors: &[&Tensor]) -> bool {
    [Kernel::NestedErrors, Kernel::RowsGradient]
        .into_iter()
        .all(|kernel| cuda::opened(kernel, tensors).is_some())
}

/// As [`super::above`], in a list of `room` entries; nothing waits for the device. `None`: there are more numbers than
/// libtorch lists.
pub(crate) fn above_in_room(
    x: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    bounds: &Tensor,
    room: i64,
) -> Result<Option<InRoom>, TchError> {
    let (n_tokens, num_latents) = (x.size()[0], bias.size()[0]);
    if n_tokens * num_latents > i64::from(i32::MAX) {
        return Ok(None);
    }
    let pre_acts = x.f_linear(weight, Some(bias))?;
    let is_above = are_above(&pre_acts, bounds)?;
    let n_of_tokens = is_above.f_sum_dim_intlist(1, false, Kind::Int64)?;
    let starts = starts(&n_of_tokens)?.f_clamp_max(room)?;
    let places = is_above.f_reshape([-1])?.f_nonzero_static(room, -1)?;
    let places = places.f_reshape([-1])?;
    let is_free = places.f_lt(0)?;
    // Free entries get other latents each, so that sums over them are short.
    let others = Tensor::f_arange(room, (Kind::Int64, x.device()))?.f_remainder(num_latents)?;
    let places = places.f_where_self(&is_free.f_logical_not()?, &others)?;
    let numbers = pre_acts.f_reshape([-1])?.f_take(&places)?;
    let indices = places.f_remainder(num_latents)?;
    Ok(Some(InRoom {
        listed: ListedNumbers {
            numbers: numbers.f_masked_fill(&is_free, f64::NEG_INFINITY)?,
            at: Listed::with_free(indices, starts, is_free)?,
        },
        n: n_of_tokens.f_sum(Kind::Int64)?,
    }))
}

impl Look {
    /// Begins to bring `number` here: scalar, Int64.
    pub(crate) fn new(number: &Tensor) -> Result<Self, TchError> {
        let here = (Kind::Int64, Device::Cpu);
        // Without blocking, it goes to pinned memory.
        let brought = number.f_internal_to_copy(here, true)?;
        Ok(Self {
            number: brought,
            written: match cuda::on_device(number.device()) {
                None => None,
                Some(opened) => Some(opened.gpu().mark().map_err(failed)?),
            },
        })
    }

    /// The number; waits until it is here.
    pub(crate) fn number(&self) -> Result<i64, TchError> {
        if let Some(written) = &self.written {
            // Sync: for work that was started long before.
            written.wait().map_err(failed)?;
        }
        self.number.f_int64_value(&[])
    }
}

fn failed(error: Unusable) -> TchError {
    TchError::Torch(error.0)
}
