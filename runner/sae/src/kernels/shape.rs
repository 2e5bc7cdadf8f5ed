//! Sizes of an update.

use std::fmt;

/// Sizes that the kernels are tried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens.
    pub n_tokens: i64,
    /// Latents of an SAE.
    pub num_latents: i64,
    /// Width of the activations.
    pub width: i64,
    /// Active latents of a token.
    pub k: i64,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n_tokens,
            num_latents,
            width,
            k,
        } = self;
        write!(
            f,
            "{n_tokens} tokens, {num_latents} latents, width {width}, k {k}"
        )
    }
}
