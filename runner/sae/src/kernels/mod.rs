//! What an SAE's step costs besides its product: for Float on the CPU in Rust (the crate `kernels`), on an NVIDIA
//! GPU in CUDA C++ (the same crate) where that is opened and in use, for anything else as ATen calls, which run
//! on any device. Tests hold all of them to each other, and `check.rs` does so on the user's GPU.

mod aten;
mod check;
mod cuda;
mod kernel;
mod latents;
mod listed;
mod open;
mod room;
mod slices;
mod sorted_entries;
mod timing;

use crate::Encoded;
use kernels::in_threads;
use plan::Optimizer;
use slices::{slice, slice_mut};
use tch::{TchError, Tensor};

pub(crate) use aten::{Bags, WeightGradients, fire_counts, is_within, nested_rows, ranges};
pub use check::Rejection;
pub use kernel::Kernel;
pub use kernels::{Adam, Signum};
pub(crate) use latents::{topk, topk_of_candidates, topk_of_product};
pub(crate) use listed::{
    Listed, ListedNumbers, above, are_above, largest_of_all, largest_of_each, nested_errors,
};
pub use open::{CheckedKernel, GpuKernels};
pub(crate) use room::{InRoom, Look, above_in_room, are_listed_in_room};
pub(crate) use sorted_entries::{SortedEntries, SparseUpdate};
pub use timing::fastest;

/// Whether Rust's are used for all of these, or a GPU's for the gradients of the squared error.
pub(crate) fn are_for(tensors: &[&Tensor]) -> bool {
    let is_in_use = |kernel| cuda::opened(kernel, tensors).is_some();
    are_on_host(tensors)
        || [Kernel::SquaredError, Kernel::RowsGradient]
            .into_iter()
            .all(is_in_use)
}

/// Whether `optimizer` changes these matrices without their gradients in memory, where [`are_for`] is true of them.
pub(crate) fn are_updated_by_rows(optimizer: Optimizer, matrices: &[&Tensor]) -> bool {
    match optimizer {
        Optimizer::Signum => {
            are_on_host(matrices) || cuda::updates_rows(Kernel::RowsSignum, matrices)
        }
        Optimizer::Adam => cuda::updates_rows(Kernel::RowsAdam, matrices),
        Optimizer::Muon => false,
    }
}

/// Whether all are where Rust's kernels take them.
pub(crate) fn are_on_host(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|tensor| slice::<f32>(tensor).is_some())
}

pub(crate) fn n_threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}

/// `S @ rows`: see [`aten::sparse_times_rows`].
pub(crate) fn sparse_times_rows(
    values: &Tensor,
    indices: &Tensor,
    rows: &Tensor,
) -> Result<Tensor, TchError> {
    if let Some(opened) = cuda::opened(Kernel::SparseTimesRows, &[values, indices, rows])
        && let Some(sums) = opened.sparse_times_rows(values, indices.into(), rows)?
    {
        return Ok(sums);
    }
    aten::sparse_times_rows(values, indices, rows)
}

/// `dense @ rows^T` at the entries, with `bias`: see [`aten::dots_at_entries`].
pub(crate) fn dots_at_entries(
    dense: &Tensor,
    (rows, bias): (&Tensor, Option<&Tensor>),
    indices: &Tensor,
) -> Result<Tensor, TchError> {
    if let Some(opened) = cuda::opened(Kernel::DotsAtEntries, &[dense, rows, indices])
        && let Some(dots) = opened.dots_at_entries(dense, (rows, bias), indices.into())?
    {
        return Ok(dots);
    }
    let dots = aten::dots_at_entries(dense, rows, indices, &Bags::like(indices)?)?;
    match bias {
        None => Ok(dots),
        Some(bias) => dots.f_add(&bias.f_take(indices)?),
    }
}

/// The gradients of the weights from those at the entries: see [`aten::weight_gradients`].
pub(crate) fn weight_gradients(
    encoded: &Encoded,
    grad_pre: &Tensor,
    (grad_out, centred): (&Tensor, &Tensor),
    num_latents: i64,
) -> Result<WeightGradients, TchError> {
    if let Some(entries) = SortedEntries::new(encoded, grad_pre, num_latents)?
        && let Some(gradients) = entries.weight_gradients(centred, grad_out)?
    {
        return Ok(gradients);
    }
    let indices = &encoded.latent_indices;
    let bags = Bags::like(indices)?;
    let at_entries = (&encoded.latent_acts, grad_pre);
    aten::weight_gradients(
        at_entries,
        (indices, &bags),
        (grad_out, centred),
        num_latents,
    )
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

/// Activations, to decode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acts<'a> {
    pub(crate) numbers: &'a Tensor,
    /// Whether those that are not above 0 have gradients, too. If not, what they get is of no account.
    pub(crate) reaches_idle: bool,
}

/// The squared errors of nested reconstructions, and the gradients of their weighted sum.
pub(crate) struct NestedErrors {
    /// Squared errors by level: `[n_levels]`, Double.
    pub(crate) errors: Tensor,
    /// What latents of each level get: `[n_levels, n_tokens, d_out]`.
    pub(crate) grad_out: Tensor,
    /// At the entries: `[n_entries]`.
    pub(crate) grad_acts: Tensor,
}

/// Decodes, and compares with `target`: `[n_tokens, d_out]`. `None`: not on this device or of this kind.
pub(crate) fn squared_error(
    encoded: &Encoded,
    (w_dec, b_dec): (&Tensor, &Tensor),
    target: &Tensor,
) -> Result<Option<SquaredError>, TchError> {
    let tensors = [
        &encoded.latent_acts,
        &encoded.latent_indices,
        w_dec,
        b_dec,
        target,
    ];
    if let Some(opened) = cuda::opened(Kernel::SquaredError, &tensors) {
        return opened.squared_error(encoded, (w_dec, b_dec), target);
    }
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

/// How an optimizer changes a weight: its constants, and what it remembers of the weight.
#[derive(Debug)]
pub enum Rule<'a> {
    /// Schedule-free signum (Defazio et al. 2024, arXiv:2405.15682) with `z`; the weight is in the form `y`.
    Signum(Signum, &'a mut Tensor),
    /// Adam (Kingma and Ba 2015, arXiv:1412.6980) with `exp_avg` and `exp_avg_sq`.
    Adam(Adam, &'a mut [Tensor; 2]),
}

impl Rule<'_> {
    /// One update of `weight`, in place, by its gradient.
    ///
    /// # Errors
    /// Other shapes, or too little memory.
    pub fn step(mut self, weight: &mut Tensor, gradient: &Tensor) -> Result<(), TchError> {
        if let Self::Signum(constants, z) = &mut self
            && let (Some(y), Some(z), Some(gradient)) =
                (slice_mut(weight), slice_mut(z), slice(gradient))
        {
            in_threads(n_threads(), || kernels::signum(y, z, gradient, *constants));
            return Ok(());
        }
        let (kernel, remembered) = match &self {
            Self::Signum(_, z) => (Kernel::DenseSignum, std::slice::from_ref(&**z)),
            Self::Adam(_, means) => (Kernel::DenseAdam, &means[..]),
        };
        let tensors: Vec<&Tensor> = [&*weight, gradient].into_iter().chain(remembered).collect();
        if let Some(opened) = cuda::opened(kernel, &tensors)
            && opened.step((&mut *weight, &mut self), gradient)?.is_some()
        {
            return Ok(());
        }
        aten::step(self, weight, gradient)
    }
}

#[cfg(test)]
mod tests;
