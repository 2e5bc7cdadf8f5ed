//! Weights on the device and of the kind that are wanted.

use crate::SaeError;
use tch::{Device, Kind, Tensor};

/// `weights` on `device` and of `kind`; the same tensor if they are that already.
pub(crate) fn placed(weights: &Tensor, kind: Kind, device: Device) -> Result<Tensor, SaeError> {
    Ok(weights.f_to_device_(device, kind, false, false)?)
}

/// What replaces a decoder that is not loaded.
pub(crate) fn no_decoder(d_out: i64, kind: Kind, device: Device) -> Result<Tensor, SaeError> {
    Ok(Tensor::f_zeros([0, d_out], (kind, device))?)
}
