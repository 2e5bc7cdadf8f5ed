//! Settings that are one of a few names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LossFn {
    /// Fraction of variance unexplained: squared error over total variance.
    #[default]
    Fvu,
    /// Cross-entropy of the next token under the model that runs on the reconstructions.
    Ce,
    /// KL divergence of that model's next-token distribution from the model's own.
    Kl,
    /// Squared error of a token, summed over its width: SAELens's and dictionary_learning's.
    Mse,
}

impl LossFn {
    /// Whether it is taken at the model's output, so that every job needs its own forward passes.
    pub fn is_end_to_end(self) -> bool {
        matches!(self, Self::Ce | Self::Kl)
    }

    /// One loss for all that are taken in the same forward pass.
    pub(crate) fn of_pass(self) -> Self {
        if self.is_end_to_end() {
            self
        } else {
            Self::Fvu
        }
    }
}

/// How the weights are updated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Schedule-free sign descent with momentum 0.95.
    #[default]
    Signum,
    /// Adam, with linear warm-up and linear decay to 0.
    Adam,
    /// Muon for matrices and Adam for vectors, with linear decay to 0; Adam warms up.
    Muon,
}

/// How the learning rate of Adam and Muon changes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LrScheduler {
    /// It falls linearly to 0 over all of training.
    #[default]
    Linear,
    /// It stays.
    Constant,
    /// It falls to a tenth over all of training, along half a cosine: SAELens's `cosineannealing`.
    Cosine,
}

/// What finds the active latents in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncoderDtype {
    /// `bfloat16` on a GPU, `float32` on a CPU.
    #[default]
    Auto,
    /// Pre-activations in 32 bit.
    Float32,
    /// Pre-activations in 16 bit find candidates; those are computed again in 32 bit.
    BFloat16,
}

impl EncoderDtype {
    /// Whether pre-activations are rounded to bfloat16 on such a device.
    pub fn rounds(self, is_gpu: bool) -> bool {
        match self {
            Self::Auto => is_gpu,
            Self::Float32 => false,
            Self::BFloat16 => true,
        }
    }
}

/// What the language model computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// The checkpoint's own on a GPU, with `load_in_8bit` float16; on a CPU float32, unless the
    /// checkpoint is in bfloat16 and the CPU has instructions for it.
    #[default]
    Auto,
    /// 32 bit.
    Float32,
    /// 16 bit with the exponent of 32.
    BFloat16,
    /// 16 bit.
    Float16,
}
