//! Which latents of a token are active. A further activation is one arm here.

use crate::kernels::topk;
use crate::{Activation, Encoded, SaeError};
use tch::{Kind, Tensor};

/// The active latents of each token: `k`, or, if that is no limit, the number that the token with
/// the most has. `pre_acts`: `[n_tokens, num_latents]`; `threshold`: `[num_latents]`.
///
/// ReLU is applied to what is selected: if fewer than `k` are positive, the choice among the
/// others makes no difference.
///
/// # Errors
/// A `k` that does not divide the number of latents into groups, or too little memory.
pub(crate) fn select(
    activation: Activation,
    pre_acts: &Tensor,
    k: usize,
    threshold: Option<&Tensor>,
) -> Result<Encoded, SaeError> {
    let k = k as i64;
    let (mut selected, latent_indices) = match activation {
        Activation::TopK => {
            let largest = topk(pre_acts, k)?;
            (largest.latent_acts, largest.latent_indices)
        }
        Activation::GroupMax => {
            let n_in_group = pre_acts.size()[1] / k;
            let groups = pre_acts.f_unflatten(1, [k, n_in_group])?;
            let (largest, index_in_group) = groups.f_max_dim(-1, false)?;
            let options = (Kind::Int64, pre_acts.device());
            let first = Tensor::f_arange_start_step(0, k * n_in_group, n_in_group, options)?;
            (largest, index_in_group.f_add(&first)?)
        }
        Activation::Relu | Activation::JumpRelu | Activation::Gated => {
            return all_above(pre_acts, threshold);
        }
    };
    Ok(Encoded {
        latent_acts: selected.f_relu_()?,
        latent_indices,
    })
}

/// All latents above zero and, if there is one, above `threshold`; and those that are NaN, so
/// that they show.
pub(crate) fn all_above(
    pre_acts: &Tensor,
    threshold: Option<&Tensor>,
) -> Result<Encoded, SaeError> {
    let is_idle = match threshold {
        None => pre_acts.f_le(0.0)?,
        Some(threshold) => pre_acts.f_le_tensor(&threshold.f_clamp_min(0.0)?)?,
    };
    let acts = pre_acts.f_masked_fill(&is_idle, 0.0)?;
    let n_active = is_idle
        .f_logical_not()?
        .f_sum_dim_intlist(1, false, Kind::Int64)?;
    let most = match n_active.size()[0] {
        0 => 1,
        // Sync: it decides a shape.
        _ => n_active.f_max()?.f_int64_value(&[])?.max(1),
    };
    let (latent_acts, latent_indices) = acts.f_topk(most, -1, true, false)?;
    Ok(Encoded {
        latent_acts,
        latent_indices,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latents and their activations by token, in the order of the latents.
    fn active(activation: Activation, k: usize) -> Vec<Vec<(i64, f64)>> {
        let rows: [f32; 12] = [1.0, 5.0, 3.0, 0.0, 2.0, 4.0, -1.0, -2.0, 9.0, 8.0, 7.0, 6.0];
        let latents = Tensor::from_slice(&rows).view([2, 6]);
        let Encoded {
            latent_acts,
            latent_indices,
        } = select(activation, &latents, k, None).unwrap();
        let entry = |token, idx| {
            let at = [token, idx];
            (
                latent_indices.int64_value(&at),
                latent_acts.double_value(&at),
            )
        };
        let of_token = |token| {
            let mut entries: Vec<_> = (0..k as i64).map(|idx| entry(token, idx)).collect();
            entries.sort_by_key(|(latent, _)| *latent);
            entries
        };
        (0..2).map(of_token).collect()
    }

    #[test]
    fn topk_takes_the_largest_of_all() {
        let expected = [[(1, 5.0), (5, 4.0)], [(2, 9.0), (3, 8.0)]];
        assert_eq!(active(Activation::TopK, 2), expected);
    }

    #[test]
    fn groupmax_takes_the_largest_of_each_group() {
        let expected = [[(1, 5.0), (5, 4.0)], [(2, 9.0), (3, 8.0)]];
        assert_eq!(active(Activation::GroupMax, 2), expected);
        let expected = [
            [(1, 5.0), (2, 3.0), (5, 4.0)],
            [(0, 0.0), (2, 9.0), (4, 7.0)],
        ];
        assert_eq!(active(Activation::GroupMax, 3), expected);
    }

    #[test]
    fn without_a_limit_all_above_the_threshold_are_active() {
        let nan = f32::NAN;
        let rows: [f32; 9] = [1.0, -2.0, 3.0, -1.0, 0.0, -3.0, nan, 0.5, -1.0];
        let pre_acts = Tensor::from_slice(&rows).view([3, 3]);
        let acts = |activation: Activation, threshold: Option<&[f32]>| {
            let threshold = threshold.map(Tensor::from_slice);
            let encoded = select(activation, &pre_acts, 3, threshold.as_ref()).unwrap();
            let dense = Tensor::zeros([3, 3], (Kind::Float, tch::Device::Cpu));
            let dense = dense.scatter(1, &encoded.latent_indices, &encoded.latent_acts);
            let numbers = Vec::<f32>::try_from(dense.flatten(0, 1)).unwrap();
            (encoded.latent_acts.size()[1], format!("{numbers:?}"))
        };
        let (width, relu) = acts(Activation::Relu, None);
        assert_eq!(width, 2);
        assert_eq!(relu, "[1.0, 0.0, 3.0, 0.0, 0.0, 0.0, NaN, 0.5, 0.0]");
        // A threshold below zero has no effect.
        let (_, jumprelu) = acts(Activation::JumpRelu, Some(&[1.0, -5.0, 2.0]));
        assert_eq!(jumprelu, "[0.0, 0.0, 3.0, 0.0, 0.0, 0.0, NaN, 0.5, 0.0]");
        let none = select(Activation::Relu, &pre_acts.narrow(0, 0, 0), 3, None);
        assert_eq!(none.unwrap().latent_acts.size(), [0, 1]);
    }
}
