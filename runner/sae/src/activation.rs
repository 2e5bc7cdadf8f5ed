//! Which latents of a token are active. A further activation is one arm here.

use crate::{Activation, Encoded, SaeError};
use tch::{Kind, Tensor};

impl Activation {
    /// The `k` active latents of each token. `pre_acts`: `[n_tokens, num_latents]`.
    ///
    /// ReLU is applied to what is selected: where fewer than `k` are positive, the choice among the
    /// others makes no difference.
    ///
    /// # Errors
    /// A `k` that does not divide the number of latents into groups, or want of memory.
    pub(crate) fn select(self, pre_acts: &Tensor, k: usize) -> Result<Encoded, SaeError> {
        let k = k as i64;
        let (mut selected, latent_indices) = match self {
            Self::TopK => pre_acts.f_topk(k, -1, true, false)?,
            Self::GroupMax => {
                let n_in_group = pre_acts.size()[1] / k;
                let groups = pre_acts.f_unflatten(1, [k, n_in_group])?;
                let (largest, place_in_group) = groups.f_max_dim(-1, false)?;
                let options = (Kind::Int64, pre_acts.device());
                let first = Tensor::f_arange_start_step(0, k * n_in_group, n_in_group, options)?;
                (largest, place_in_group.f_add(&first)?)
            }
        };
        Ok(Encoded {
            latent_acts: selected.f_relu_()?,
            latent_indices,
        })
    }
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
        } = activation.select(&latents, k).unwrap();
        let entry = |token, place| {
            let at = [token, place];
            (
                latent_indices.int64_value(&at),
                latent_acts.double_value(&at),
            )
        };
        let of_token = |token| {
            let mut entries: Vec<_> = (0..k as i64).map(|place| entry(token, place)).collect();
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
}
