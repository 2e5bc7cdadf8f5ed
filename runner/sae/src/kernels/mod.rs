//! What an SAE's step costs besides its product: for Float on the CPU in Rust (the crate `kernels`), for
//! anything else as ATen calls, which run on any device. Tests hold both to each other.

mod aten;
mod latents;
mod slices;

use crate::Encoded;
use kernels::{ByLatent, Entries, in_threads};
pub(crate) use slices::{slice, slice_mut};
use tch::{Device, Kind, TchError, Tensor};

pub(crate) use aten::{Bags, WeightGradients, column_sums, dots_at_entries, sparse_times_rows};
pub use kernels::Signum;
pub(crate) use latents::topk_of_product;

/// Whether Rust's are used for all of these.
pub(crate) fn are_for(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| slice::<f32>(tensor).is_some())
}

pub(crate) fn n_threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// The gradients of the weights from those at the entries: see [`aten::weight_gradients`].
pub(crate) fn weight_gradients(
    (acts, grad_pre): (&Tensor, &Tensor),
    (indices, bags): (&Tensor, &Bags),
    (grad_out, centred): (&Tensor, &Tensor),
    num_latents: i64,
) -> Result<WeightGradients, TchError> {
    let k = indices.size()[1] as usize;
    let at_entries = (slice(acts), slice(grad_pre), slice(indices));
    let ((Some(acts), Some(grad_pre), Some(indices)), Some(grad_rows), Some(rows)) =
        (at_entries, slice(grad_out), slice(centred))
    else {
        let rows = (grad_out, centred);
        return aten::weight_gradients((acts, grad_pre), (indices, bags), rows, num_latents);
    };
    let entries = Entries {
        indices,
        acts,
        grad_pre,
        k,
    };
    let by_latent = ByLatent::sort(indices, num_latents as usize);
    let encoder_bias = bias_gradient(&entries, &by_latent)?;
    let widths = [centred, grad_out].map(|rows| rows.size()[1]);
    let (encoder_weight, w_dec) =
        matrix_gradients(&entries, &by_latent, [rows, grad_rows], widths)?;
    Ok(WeightGradients {
        encoder_weight,
        encoder_bias,
        w_dec,
    })
}

/// The gradient of the encoder's bias: `[num_latents]`.
pub(crate) fn bias_gradient(
    entries: &Entries<'_>,
    by_latent: &ByLatent,
) -> Result<Tensor, TchError> {
    let shape = [by_latent.n_latents() as i64];
    let mut bias = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    let out = slice_mut(&mut bias).expect("as it was made");
    in_threads(n_threads(), || entries.bias_gradient(by_latent, out));
    Ok(bias)
}

/// The gradients of the encoder's weights and of the decoder, from rows of such widths: `centred` and
/// `grad_out`.
pub(crate) fn matrix_gradients(
    entries: &Entries<'_>,
    by_latent: &ByLatent,
    [centred, grad_out]: [&[f32]; 2],
    widths: [i64; 2],
) -> Result<(Tensor, Tensor), TchError> {
    let matrix = |width| {
        let shape = [by_latent.n_latents() as i64, width];
        Tensor::f_empty(shape, (Kind::Float, Device::Cpu))
    };
    let (mut encoder_weight, mut w_dec) = (matrix(widths[0])?, matrix(widths[1])?);
    let out = kernels::WeightGradients {
        encoder_weight: slice_mut(&mut encoder_weight).expect("as it was made"),
        w_dec: slice_mut(&mut w_dec).expect("as it was made"),
    };
    in_threads(n_threads(), || {
        entries.weight_gradients(by_latent, grad_out, centred, out);
    });
    Ok((encoder_weight, w_dec))
}

/// The squared error of a reconstruction, and its gradients.
pub(crate) struct SquaredError {
    /// Scalar, Double.
    pub(crate) sum: Tensor,
    /// At the reconstruction: `[n_tokens, d_out]`.
    pub(crate) grad_out: Tensor,
    /// At the selected pre-activations: `[n_tokens, k]`.
    pub(crate) grad_pre: Tensor,
}

/// Decodes, and compares with `target`: `[n_tokens, d_out]`. `None`: not on this device or of this kind.
pub(crate) fn squared_error(
    encoded: &Encoded,
    (w_dec, b_dec): (&Tensor, &Tensor),
    target: &Tensor,
) -> Result<Option<SquaredError>, TchError> {
    let k = encoded.latent_indices.size()[1] as usize;
    let latents = (slice(&encoded.latent_indices), slice(&encoded.latent_acts));
    let ((Some(indices), Some(acts)), Some(w_dec), Some(b_dec), Some(rows)) =
        (latents, slice(w_dec), slice(b_dec), slice(target))
    else {
        return Ok(None);
    };
    let mut grad_out = target.f_empty_like()?;
    let mut grad_pre = encoded.latent_acts.f_empty_like()?;
    let out = kernels::ErrorGradients {
        grad_out: slice_mut(&mut grad_out).expect("as it was made"),
        grad_pre: slice_mut(&mut grad_pre).expect("as it was made"),
    };
    let decoding = kernels::Decoding {
        indices,
        acts,
        k,
        w_dec,
        b_dec,
    };
    let sum = in_threads(n_threads(), || decoding.squared_error(rows, out));
    Ok(Some(SquaredError {
        sum: Tensor::f_from_slice(&[sum])?.f_squeeze()?,
        grad_out,
        grad_pre,
    }))
}

/// The mean of the rows of `x`: `[n_rows, width]`, and the sum of squared deviations from it, both Double:
/// `[width]` and scalar. Of no rows both are 0.
///
/// # Errors
/// Another shape, or too little memory.
pub fn moments(x: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    if let Some(rows) = slice(x) {
        let mut mean = vec![0.0; x.size2()?.1 as usize];
        let deviations = in_threads(n_threads(), || kernels::moments(rows, &mut mean));
        let deviations = Tensor::f_from_slice(&[deviations])?.f_squeeze()?;
        return Ok((Tensor::f_from_slice(&mean)?, deviations));
    }
    aten::moments(x)
}

/// `x / divisor`, in place; `divisor`: scalar, Float.
pub(crate) fn scale(x: &mut Tensor, divisor: &Tensor) -> Result<(), TchError> {
    if let (Some(x), Some(divisor)) = (slice_mut(x), slice(divisor)) {
        in_threads(n_threads(), || kernels::scale(x, divisor[0]));
        return Ok(());
    }
    let _ = x.f_div_(divisor)?;
    Ok(())
}

/// `g` less its part parallel to the weights' row, in place; `g`, `weights`: `[n, width]`.
pub(crate) fn project(gradient: &mut Tensor, weights: &Tensor) -> Result<(), TchError> {
    let width = weights.size()[1] as usize;
    if let (Some(gradient), Some(weights)) = (slice_mut(gradient), slice(weights)) {
        in_threads(n_threads(), || kernels::project(gradient, weights, width));
        return Ok(());
    }
    aten::project(gradient, weights)
}

/// One update by schedule-free signum (Defazio et al. 2024, arXiv:2405.15682) of the weights `y` with what
/// the optimizer remembers, `z`, in place.
///
/// # Errors
/// Other shapes, or too little memory.
pub fn signum(
    y: &mut Tensor,
    z: &mut Tensor,
    gradient: &Tensor,
    constants: Signum,
) -> Result<(), TchError> {
    if let (Some(y), Some(z), Some(gradient)) = (slice_mut(y), slice_mut(z), slice(gradient)) {
        in_threads(n_threads(), || kernels::signum(y, z, gradient, constants));
        return Ok(());
    }
    aten::signum(y, z, gradient, constants)
}

#[cfg(test)]
mod tests;
