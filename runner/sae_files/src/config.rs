//! `cfg.json`: the one place where our names meet those on disk.

use fault::Fault;
use plan::CrosscoderNorm;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How pre-activations become sparse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// ReLU, then the `k` largest a token.
    #[default]
    TopK,
    /// ReLU, then the largest of each of `k` groups of adjacent latents.
    GroupMax,
    /// ReLU: as many latents as are positive. SAELens has such SAEs; sparsify has none.
    #[serde(skip)]
    Relu,
    /// Each latent that is positive and above its own threshold, unchanged. SAELens has such SAEs;
    /// sparsify has none.
    #[serde(skip)]
    JumpRelu,
    /// A gate decides which latents are active, and another bias and scale how much. SAELens has such SAEs; sparsify has
    /// none.
    #[serde(skip)]
    Gated,
}

impl Activation {
    /// Whether a token's latents are limited to `k`.
    pub fn has_k(self) -> bool {
        matches!(self, Self::TopK | Self::GroupMax)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TopK => "topk",
            Self::GroupMax => "groupmax",
            Self::Relu => "relu",
            Self::JumpRelu => "jumprelu",
            Self::Gated => "gated",
        })
    }
}

/// What `cfg.json` holds: sparsify's keys and `d_in`. Unknown keys are ignored, as sparsify does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SaeConfig {
    /// How pre-activations become sparse.
    #[serde(default)]
    pub activation: Activation,
    /// Latents per input dimension; used when `num_latents` is 0.
    #[serde(default = "default_expansion_factor")]
    pub expansion_factor: usize,
    /// Whether the decoder's rows were kept at unit norm.
    #[serde(default = "yes")]
    pub normalize_decoder: bool,
    /// Number of latents; 0: `expansion_factor * d_in`.
    #[serde(default)]
    pub num_latents: usize,
    /// Latents a token may use; all of them if the activation sets no limit.
    #[serde(default = "default_k")]
    pub k: usize,
    /// Whether it was trained with the Multi-TopK loss.
    #[serde(default)]
    pub multi_topk: bool,
    /// Whether there is a linear path from input to output.
    #[serde(default)]
    pub skip_connection: bool,
    /// Whether it predicts a module's output from its input.
    #[serde(default)]
    pub transcode: bool,
    /// Width of the input.
    pub d_in: usize,
    /// Width of a transcoder's output, if it differs from that of its input. sparsify has no
    /// such key, and loads no such transcoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_out: Option<usize>,
    /// Whether `b_dec` is subtracted before encoding, which a transcoder never does. sparsify always does, and has no
    /// such key.
    #[serde(skip, default = "yes")]
    pub apply_b_dec_to_input: bool,
    /// The hookpoints of a crosscoder, whose activations it takes and gives side by side; or those that a cross-layer
    /// transcoder writes to. Empty: there is one. sparsify has no such key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hookpoints: Vec<String>,
    /// How large a crosscoder's latents count. sparsify has no such key.
    #[serde(skip)]
    pub code_normalization: CrosscoderNorm,
}

fn default_expansion_factor() -> usize {
    32
}

fn default_k() -> usize {
    32
}

fn yes() -> bool {
    true
}

impl SaeConfig {
    /// A TopK autoencoder for width `d_in` with `num_latents` latents, `k` of them active.
    pub fn topk(d_in: usize, num_latents: usize, k: usize) -> Self {
        Self {
            activation: Activation::TopK,
            expansion_factor: default_expansion_factor(),
            normalize_decoder: true,
            num_latents,
            k,
            multi_topk: false,
            skip_connection: false,
            transcode: false,
            d_in,
            d_out: None,
            apply_b_dec_to_input: true,
            hookpoints: Vec::new(),
            code_normalization: CrosscoderNorm::default(),
        }
    }

    /// Whether it takes and gives activations of several hookpoints.
    pub fn is_crosscoder(&self) -> bool {
        !self.transcode && !self.hookpoints.is_empty()
    }

    /// Whether it is a crosscoder whose hookpoints choose their latents apart, by activation times the norm of the
    /// decoder's row at the hookpoint.
    pub fn is_decoupled(&self) -> bool {
        self.is_crosscoder() && self.code_normalization == CrosscoderNorm::Decoupled
    }

    /// Sets of active latents that a token has: one, or one for each hookpoint.
    pub fn n_active_sets(&self) -> usize {
        if self.is_decoupled() {
            self.n_outputs()
        } else {
            1
        }
    }

    /// Whether it is a layer of a cross-layer transcoder.
    pub fn is_layer(&self) -> bool {
        self.transcode && !self.hookpoints.is_empty()
    }

    /// Hookpoints that it gives activations of.
    pub fn n_outputs(&self) -> usize {
        self.hookpoints.len().max(1)
    }

    /// Whether the encoder is applied to the input less `b_dec`.
    pub fn subtracts_b_dec(&self) -> bool {
        self.apply_b_dec_to_input && !self.transcode
    }

    /// Width of the output.
    pub fn d_out(&self) -> usize {
        self.d_out.unwrap_or(self.d_in)
    }

    /// Checks that there can be an SAE of these sizes.
    ///
    /// # Errors
    /// There cannot.
    pub fn check_sizes(&self) -> Result<(), Fault> {
        let (d_in, d_out, num_latents, k) =
            (self.d_in, self.d_out(), self.resolved_num_latents(), self.k);
        let is_whole =
            self.activation != Activation::GroupMax || num_latents.is_multiple_of(k.max(1));
        let is_possible = d_in > 0 && d_out > 0 && (1..=num_latents).contains(&k) && is_whole;
        if is_possible && (self.transcode || d_in == d_out) {
            return Ok(());
        }
        let message = format!(
            "an SAE of d_in = {d_in}, d_out = {d_out}, num_latents = {num_latents}, k = {k} is impossible"
        );
        Err(Fault::internal(message).with_hint(
            "k must be between 1 and num_latents, and divide it with the activation groupmax; only a transcoder has \
             two widths",
        ))
    }

    /// The number of latents, `num_latents` or from the expansion factor.
    pub fn resolved_num_latents(&self) -> usize {
        match self.num_latents {
            0 => self.expansion_factor.saturating_mul(self.d_in),
            n => n,
        }
    }
}
