//! The three sparse products of an SAE's step, as ATen calls that run on any device.
//!
//! A sparse matrix `S` of `[n_tokens, num_latents]` with `k` entries a row is given as
//! `values`: `[n_tokens, k]` and `indices`: `[n_tokens, k]`, Int64. libtorch's embedding bag is
//! this product and its derivatives, without a tensor of `n_tokens x k x d_in`.

use super::{Adam, NestedErrors, Rule, Signum};
use crate::Encoded;
use tch::{Device, Kind, TchError, Tensor};

/// Embedding bag's mode "sum".
const SUM: i64 = 0;
/// No index is padding.
const NO_PADDING: i64 = -1;

/// Gradients of an SAE's weights.
pub(crate) struct WeightGradients {
    /// `[num_latents, d_in]`.
    pub(crate) encoder_weight: Tensor,
    /// `[num_latents]`.
    pub(crate) encoder_bias: Tensor,
    /// `[num_latents, d_out]`.
    pub(crate) w_dec: Tensor,
}

/// The gradients of the weights: `d W_dec = acts^T grad_out`, `d W_enc = grad_pre^T centred`,
/// `d b_enc = sum grad_pre`, for `acts` and `grad_pre` at the entries `indices`.
pub(crate) fn weight_gradients(
    (acts, grad_pre): (&Tensor, &Tensor),
    (indices, bags): (&Tensor, &Bags),
    (grad_out, centred): (&Tensor, &Tensor),
    num_latents: i64,
) -> Result<WeightGradients, TchError> {
    let transposed_times = |values: &Tensor, dense: &Tensor| {
        sparse_transposed_times(values, indices, bags, dense, num_latents)
    };
    Ok(WeightGradients {
        encoder_weight: transposed_times(grad_pre, centred)?,
        encoder_bias: sums_by_latent(grad_pre, indices, bags, num_latents)?,
        w_dec: transposed_times(acts, grad_out)?,
    })
}

/// Which token an entry belongs to, in the forms the embedding bag wants; made once per step.
#[derive(Debug)]
pub(crate) struct Bags {
    /// Start of each token's entries: `[n_tokens]`.
    offsets: Tensor,
    /// Token of each entry: `[n_tokens * k]`.
    token_of_entry: Tensor,
    /// Entries of each token: `[n_tokens]`; only mean and max would read it.
    bag_size: Tensor,
    /// Likewise.
    maximum_indices: Tensor,
}

impl Bags {
    pub(crate) fn like(indices: &Tensor) -> Result<Self, TchError> {
        let (n_tokens, k) = indices.size2()?;
        let options = (Kind::Int64, indices.device());
        let tokens = Tensor::f_arange(n_tokens, options)?;
        Ok(Self {
            offsets: tokens.f_mul_scalar(k)?,
            token_of_entry: tokens.f_repeat_interleave_self_int(k, 0, n_tokens * k)?,
            bag_size: Tensor::f_full([n_tokens], k, options)?,
            maximum_indices: Tensor::f_empty([0], options)?,
        })
    }

    /// Of `n_entries` entries, where those of each token begin and the last ones end: `[n_tokens + 1]`, Int64. `has_free`:
    /// there may be entries after those, which count as the last token's here.
    pub(crate) fn of_starts(
        starts: &Tensor,
        n_entries: i64,
        has_free: bool,
    ) -> Result<Self, TchError> {
        let n_tokens = starts.size()[0] - 1;
        let options = (Kind::Int64, starts.device());
        let bag_size = starts.f_diff::<Tensor>(1, 0, None, None)?;
        let token_of_entry = if starts.device() == Device::Cpu && !has_free {
            let tokens = Tensor::f_arange(n_tokens, options)?;
            tokens.f_repeat_interleave_self_tensor(&bag_size, 0, n_entries)?
        } else {
            // Without a wait: how many tokens end at or before an entry.
            let ends = starts.f_narrow(0, 1, n_tokens)?.f_contiguous()?;
            let entries = Tensor::f_arange(n_entries, options)?;
            let tokens = entries.f_searchsorted(&ends, false, true, "right", None::<Tensor>)?;
            tokens.f_clamp_max(n_tokens - 1)?
        };
        Ok(Self {
            offsets: starts.f_narrow(0, 0, n_tokens)?,
            token_of_entry,
            bag_size,
            maximum_indices: Tensor::f_empty([0], options)?,
        })
    }

    /// Token of each entry: `[n_entries]`.
    pub(crate) fn tokens(&self) -> &Tensor {
        &self.token_of_entry
    }
}

/// `S @ rows`: `[n_tokens, d_in]`, for `rows`: `[num_latents, d_in]`.
pub(crate) fn sparse_times_rows(
    values: &Tensor,
    indices: &Tensor,
    rows: &Tensor,
) -> Result<Tensor, TchError> {
    let (n_tokens, k) = indices.size2()?;
    let offsets = Tensor::f_arange_start_step(0, n_tokens * k, k, (Kind::Int64, rows.device()))?;
    bag_sums(values, indices, &offsets, rows)
}

/// The same for entries of which each token has any number.
pub(crate) fn listed_times_rows(
    values: &Tensor,
    indices: &Tensor,
    bags: &Bags,
    rows: &Tensor,
) -> Result<Tensor, TchError> {
    bag_sums(values, indices, &bags.offsets, rows)
}

fn bag_sums(
    values: &Tensor,
    indices: &Tensor,
    offsets: &Tensor,
    rows: &Tensor,
) -> Result<Tensor, TchError> {
    let values = values.f_reshape([-1])?;
    let indices = indices.f_reshape([-1])?;
    let bags = Tensor::f_embedding_bag(
        rows,
        &indices,
        offsets,
        false,
        SUM,
        false,
        Some(&values),
        false,
    )?;
    Ok(bags.0)
}

/// `S^T @ dense`: `[num_latents, d_in]`, for `dense`: `[n_tokens, d_in]`.
pub(crate) fn sparse_transposed_times(
    values: &Tensor,
    indices: &Tensor,
    bags: &Bags,
    dense: &Tensor,
    num_latents: i64,
) -> Result<Tensor, TchError> {
    Tensor::f_internal_embedding_bag_dense_backward(
        &dense.f_contiguous()?,
        &indices.f_reshape([-1])?,
        &bags.token_of_entry,
        &bags.bag_size,
        &bags.maximum_indices,
        num_latents,
        false,
        SUM,
        Some(&values.f_reshape([-1])?),
        NO_PADDING,
    )
}

/// `(dense @ rows^T)` at the entries of `S`: `[n_tokens, k]`.
pub(crate) fn dots_at_entries(
    dense: &Tensor,
    rows: &Tensor,
    indices: &Tensor,
    bags: &Bags,
) -> Result<Tensor, TchError> {
    let dots = Tensor::f_internal_embedding_bag_per_sample_weights_backward(
        &dense.f_contiguous()?,
        rows,
        &indices.f_reshape([-1])?,
        &bags.offsets,
        &bags.token_of_entry,
        SUM,
        NO_PADDING,
    )?;
    dots.f_view_as(indices)
}

/// Sum of the entries of each column of `S`: `[num_latents]`, in an order that depends on nothing but `S`: a
/// GPU's `scatter_add` adds in whatever order its threads come.
pub(crate) fn sums_by_latent(
    values: &Tensor,
    indices: &Tensor,
    bags: &Bags,
    num_latents: i64,
) -> Result<Tensor, TchError> {
    let n_tokens = bags.offsets.size()[0];
    let ones = Tensor::f_ones([n_tokens, 1], (values.kind(), values.device()))?;
    sparse_transposed_times(values, indices, bags, &ones, num_latents)?.f_squeeze_dim(1)
}

/// Sum of the entries of each column of `S`: `[num_latents]`. For whole numbers, of which every sum is exact.
fn column_sums(values: &Tensor, indices: &Tensor, num_latents: i64) -> Result<Tensor, TchError> {
    let sums = Tensor::f_zeros([num_latents], (values.kind(), values.device()))?;
    sums.f_scatter_add(0, &indices.f_reshape([-1])?, &values.f_reshape([-1])?)
}

/// How many tokens each latent fired on: `[num_latents]`, Float.
pub(crate) fn fire_counts(encoded: &Encoded, num_latents: i64) -> Result<Tensor, TchError> {
    let fired = encoded.latent_acts.f_gt(0.0)?.f_to_kind(Kind::Float)?;
    column_sums(&fired, &encoded.latent_indices, num_latents)
}

/// The latents of each level: from the end of the one before on, below its own.
pub(crate) fn ranges(ends: &[usize]) -> impl DoubleEndedIterator<Item = (i64, i64)> {
    let start = |level: usize| level.checked_sub(1).map_or(0, |before| ends[before] as i64);
    (0..ends.len()).map(move |level| (start(level), ends[level] as i64))
}

/// 1 at the entries of latents in a range, and 0 at others: as the indices, Float.
pub(crate) fn is_within(indices: &Tensor, (start, end): (i64, i64)) -> Result<Tensor, TchError> {
    let is_below = indices.f_lt(end)?;
    let is_within = indices.f_ge(start)?.f_logical_and(&is_below)?;
    is_within.f_to_kind(Kind::Float)
}

/// The squared errors of nested reconstructions: `[n_levels]`, Double, and what the latents of each level get:
/// `[n_tokens, d_out]`. `parts`: what those of each level decode to, without the bias; `weights`: of their errors.
pub(crate) fn nested_rows(
    (b_dec, target): (&Tensor, &Tensor),
    parts: impl Iterator<Item = Result<Tensor, TchError>>,
    weights: &[f32],
) -> Result<(Tensor, Vec<Tensor>), TchError> {
    let mut sae_out = b_dec.f_unsqueeze(0)?;
    let (mut errors, mut rows) = (Vec::new(), Vec::new());
    for part in parts {
        sae_out = sae_out.f_add(&part?)?;
        let error = sae_out.f_sub(target)?;
        errors.push(error.f_square()?.f_sum(Kind::Double)?);
        rows.push(error);
    }
    let mut later: Option<Tensor> = None;
    for (row, weight) in rows.iter_mut().zip(weights).rev() {
        let own = row.f_mul_scalar(2.0 * f64::from(*weight))?;
        *row = match &later {
            None => own,
            Some(later) => own.f_add(later)?,
        };
        later = Some(row.shallow_clone());
    }
    Ok((Tensor::f_stack(&errors, 0)?, rows))
}

/// The same of listed latents, with the gradients at their activations.
pub(crate) fn nested_errors(
    (acts, indices, bags): (&Tensor, &Tensor, &Bags),
    (w_dec, b_dec): (&Tensor, &Tensor),
    target: &Tensor,
    levels: &[(usize, f32)],
) -> Result<NestedErrors, TchError> {
    let (ends, weights): (Vec<usize>, Vec<f32>) = levels.iter().copied().unzip();
    let masks = ranges(&ends).map(|range| is_within(indices, range));
    let masks = masks.collect::<Result<Vec<_>, _>>()?;
    let decoded = |mask: &Tensor| listed_times_rows(&acts.f_mul(mask)?, indices, bags, w_dec);
    let (errors, rows) = nested_rows((b_dec, target), masks.iter().map(decoded), &weights)?;
    let mut grad_acts = acts.f_zeros_like()?;
    for (rows, mask) in rows.iter().zip(&masks) {
        let dots = dots_at_entries(rows, w_dec, indices, bags)?;
        grad_acts = grad_acts.f_add(&dots.f_mul(mask)?)?;
    }
    Ok(NestedErrors {
        errors,
        grad_out: Tensor::f_stack(&rows, 0)?,
        grad_acts,
    })
}

/// `g - (g . w) w` by row, in place.
pub(crate) fn project(gradient: &mut Tensor, weights: &Tensor) -> Result<(), TchError> {
    let parallel = gradient.f_mul(weights)?.f_sum_dim_intlist(1, true, None)?;
    let _ = gradient.f_addcmul_(&parallel.f_neg()?, weights)?;
    Ok(())
}

/// One update of a weight.
pub(crate) fn step(rule: Rule<'_>, weight: &mut Tensor, gradient: &Tensor) -> Result<(), TchError> {
    match rule {
        Rule::Signum(constants, z) => signum(weight, z, gradient, constants),
        Rule::Adam(constants, means) => adam(weight, means, gradient, constants),
    }
}

fn signum(
    y: &mut Tensor,
    z: &mut Tensor,
    gradient: &Tensor,
    constants: Signum,
) -> Result<(), TchError> {
    let Signum {
        lr,
        to_x,
        average,
        to_y,
    } = constants;
    let _ = y.f_lerp_(z, to_x)?;
    let _ = z.f_sub_(&gradient.f_sign()?.f_mul_scalar_(lr)?)?;
    let _ = y.f_lerp_(z, average)?;
    let _ = y.f_lerp_(z, to_y)?;
    Ok(())
}

fn adam(
    weight: &mut Tensor,
    [exp_avg, exp_avg_sq]: &mut [Tensor; 2],
    gradient: &Tensor,
    constants: Adam,
) -> Result<(), TchError> {
    let Adam {
        lr,
        to_gradient,
        to_square,
        correction,
        eps,
    } = constants;
    let _ = exp_avg.f_lerp_(gradient, to_gradient)?;
    let _ = exp_avg_sq.f_lerp_(&gradient.f_square()?, to_square)?;
    let mut root = exp_avg_sq.f_sqrt()?;
    let _ = root.f_div_scalar_(correction)?.f_add_scalar_(eps)?;
    let mut direction = exp_avg.f_div(&root)?;
    let _ = direction.f_mul_scalar_(lr)?;
    let _ = weight.f_sub_(&direction)?;
    Ok(())
}

/// Mean of the rows, and the sum of squared deviations from it.
pub(crate) fn moments(x: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let options = (Kind::Double, x.device());
    let (n_rows, width) = x.size2()?;
    if n_rows == 0 {
        let nothing = |shape: &[i64]| Tensor::f_zeros(shape, options);
        return Ok((nothing(&[width])?, nothing(&[])?));
    }
    let mean = x.f_mean_dim(0, false, Kind::Double)?;
    let deviations = x.f_sub(&mean.f_to_kind(x.kind())?)?;
    Ok((mean, deviations.f_square()?.f_sum(Kind::Double)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use tch::Device;

    const N_TOKENS: i64 = 7;
    const NUM_LATENTS: i64 = 11;
    const K: i64 = 3;
    const D_IN: i64 = 5;

    struct Case {
        values: Tensor,
        indices: Tensor,
        sparse: Tensor,
        dense: Tensor,
        rows: Tensor,
    }

    fn case() -> Case {
        let (_, indices) = noise(&[N_TOKENS, NUM_LATENTS], 1.0).topk(K, 1, true, false);
        let values = noise(&[N_TOKENS, K], 2.0);
        let options = (Kind::Float, Device::Cpu);
        let sparse = Tensor::zeros([N_TOKENS, NUM_LATENTS], options).scatter(1, &indices, &values);
        let dense = noise(&[N_TOKENS, D_IN], 3.0);
        let rows = noise(&[NUM_LATENTS, D_IN], 4.0);
        Case {
            values,
            indices,
            sparse,
            dense,
            rows,
        }
    }

    #[test]
    fn products_equal_the_dense_ones() {
        let Case {
            values,
            indices,
            sparse,
            dense,
            rows,
        } = case();
        let bags = Bags::like(&indices).unwrap();
        let close = |a: Tensor, b: Tensor| assert!(a.allclose(&b, 1e-5, 1e-6, false), "{a} {b}");
        close(
            sparse_times_rows(&values, &indices, &rows).unwrap(),
            sparse.matmul(&rows),
        );
        close(
            sparse_transposed_times(&values, &indices, &bags, &dense, NUM_LATENTS).unwrap(),
            sparse.tr().matmul(&dense),
        );
        close(
            dots_at_entries(&dense, &rows, &indices, &bags).unwrap(),
            dense.matmul(&rows.tr()).gather(1, &indices, false),
        );
        let sums = sparse.sum_dim_intlist(0, false, Kind::Float);
        close(
            column_sums(&values, &indices, NUM_LATENTS).unwrap(),
            sums.shallow_clone(),
        );
        close(
            sums_by_latent(&values, &indices, &bags, NUM_LATENTS).unwrap(),
            sums,
        );
    }
}
