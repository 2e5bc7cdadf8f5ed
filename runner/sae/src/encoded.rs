//! What an SAE makes of activations.

use crate::SaeError;
use tch::Tensor;

/// The active latents of each token, in no particular order. If the activation sets no limit `k`,
/// it is here the most that any of the tokens has, and at least 1.
#[derive(Debug)]
pub struct Encoded {
    /// `[n_tokens, k]`, not negative; 0 if fewer than `k` latents are active.
    pub latent_acts: Tensor,
    /// `[n_tokens, k]`, Int64, distinct within a token.
    pub latent_indices: Tensor,
}

impl Encoded {
    /// The latents of several parts of a batch, one after the other; each has as many for a token.
    pub(crate) fn joined(parts: &[Self]) -> Result<Self, SaeError> {
        let acts: Vec<_> = parts.iter().map(|part| &part.latent_acts).collect();
        let indices: Vec<_> = parts.iter().map(|part| &part.latent_indices).collect();
        Ok(Self {
            latent_acts: Tensor::f_cat(&acts, 0)?,
            latent_indices: Tensor::f_cat(&indices, 0)?,
        })
    }
}
