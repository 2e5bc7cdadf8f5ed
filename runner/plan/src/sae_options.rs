//! Settings of SAEs and their losses that are one of a few names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the pre-activations become sparse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// ReLU, then the `k` largest a token.
    #[default]
    TopK,
    /// ReLU, then the largest of each of `k` groups of neighbouring latents.
    GroupMax,
    /// ReLU, then the `k * n` largest in an update of `n` tokens; after training, all above one threshold.
    BatchTopK,
    /// ReLU, with a penalty on the size of the activations (L1).
    Relu,
    /// Those above a threshold, which each latent learns, with a penalty on their number (L0).
    JumpRelu,
    /// ReLU, times a gate that is open or closed and shares the encoder's directions; with a penalty on the gate's
    /// pre-activations.
    Gated,
}

/// Whether `k` says how many latents are active in SAEs of a kind as the database names it, such as
/// `matryoshka batchtopk`. Of an unknown kind, it may.
pub fn kind_has_k(kind: &str) -> bool {
    let name = kind.rsplit(' ').next().unwrap_or_default();
    let activation: Option<Activation> = serde_json::from_value(name.into()).ok();
    activation.is_none_or(Activation::has_k)
}

/// What the decoder's bias is at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BDecInit {
    /// The mean of the first batch: sparsify's.
    #[default]
    Mean,
    /// The point from which the vectors of the first batch have the smallest mean distance.
    GeometricMedian,
    /// 0: SAELens's.
    Zeros,
}

/// What is done to the activations that an SAE is trained on; every saved SAE takes them as they are.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NormalizeActivations {
    /// Nothing.
    #[default]
    None,
    /// One factor, with which their mean norm is the square root of their width.
    ExpectedAverageOnlyIn,
    /// Their mean is subtracted.
    MeanCentering,
    /// Their mean is subtracted, and their covariance made that of white noise.
    CovarianceWhitening,
}

/// The penalty on the number of active latents of the activation jumprelu.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SparsityLoss {
    /// Their number.
    #[default]
    Step,
    /// The sum of `tanh(c * activation * norm of the decoder's row)`.
    Tanh,
    /// `2 / target_l0 * (L0 - target_l0)^2` of each token: Gemma Scope 2's.
    Quadratic,
    /// `(mean L0 / target_l0 - 1)^2` of an update: dictionary_learning's.
    MeanQuadratic,
}

/// The latents with a penalty on pre-activations below their threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PreActLossOn {
    /// The dead ones: SAELens's.
    #[default]
    Dead,
    /// All: Anthropic's.
    All,
}

/// The form of the penalty whose exponent `p` falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PAnnealForm {
    /// The sum of `activation^p` of a token.
    #[default]
    #[serde(rename = "lp^p")]
    PowerSum,
    /// The `1/p`-th power of that sum.
    #[serde(rename = "lp")]
    Norm,
}

/// What the loss of dead latents (AuxK) is relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuxkNorm {
    /// What the squared error is relative to: sparsify's and SAELens's.
    #[default]
    Target,
    /// The variance of what the others leave over: OpenAI's and dictionary_learning's.
    Residual,
}

/// How the threshold of the activation batchtopk is estimated in training, from the smallest of an update's active
/// pre-activations unless said otherwise. `a` is `topk_threshold_lr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdEma {
    /// From 0, in each update `(1 - a) * old + a * new`.
    #[default]
    Saelens,
    /// The same after `threshold_start_step` updates, and the first is taken whole.
    DictionaryLearning,
    /// From 0, in each update; SAELens's with another `a`.
    Saev,
    /// The `k`-th largest of an update's pre-activations; the first is taken whole.
    Overcomplete,
}

/// How large a latent of a crosscoder counts, by its rows of the decoder, one for each hookpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CrosscoderNorm {
    /// The sum of the rows' norms: Anthropic's.
    #[default]
    Crosscoder,
    /// The norm of all rows as one.
    Sae,
    /// `sae` plus a tenth of `crosscoder`.
    Mixed,
    /// 1.
    None,
    /// Each row's norm at its hookpoint: every hookpoint chooses its own active latents, `k` of them, and has its own
    /// threshold; with the activation batchtopk and `rescale_acts_by_decoder_norm` only.
    Decoupled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_k_if_its_activation_does() {
        for kind in [
            "topk",
            "hierarchical topk",
            "matryoshka batchtopk",
            "crosscoder batchtopk",
            "unheard of",
        ] {
            assert!(kind_has_k(kind), "{kind}");
        }
        for kind in ["relu", "matryoshka jumprelu", "transcoder gated"] {
            assert!(!kind_has_k(kind), "{kind}");
        }
    }
}
