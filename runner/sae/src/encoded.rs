//! What an SAE makes of activations.

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
