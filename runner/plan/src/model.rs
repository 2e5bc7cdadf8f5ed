//! Facts about a language model that planning needs, read from its `config.json` alone.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A language model as planning sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Hugging Face's `model_type`, such as `llama`.
    pub model_type: String,
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of rows of the embedding.
    pub vocab_size: usize,
    /// Longest context the position encoding was made for, in tokens.
    pub max_ctx_len: usize,
    /// Parameters of what comes before the blocks: the embeddings.
    pub embedding_params: u64,
    /// Parameters of one block.
    pub layer_params: u64,
    /// Those of them that 8-bit loading holds in one byte each.
    pub layer_8bit_params: u64,
    /// Name of the list of blocks in `base_model`, such as `layers`.
    pub layers_name: String,
    /// Every submodule that can be tapped, in the order of `named_modules()`.
    pub hookpoints: Vec<HookpointFacts>,
}

/// A submodule that can be tapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookpointFacts {
    /// Name as in `base_model.named_modules()`.
    pub name: String,
    /// Width of its input, `None` if the input is token ids.
    pub d_in: Option<usize>,
    /// Width of its output.
    pub d_out: usize,
    /// How many blocks the forward pass runs to serve it (a block counts when it is entered).
    pub n_layers_needed: usize,
    /// What it gives vectors for.
    #[serde(default, skip_serializing_if = "Vectors::are_of_tokens")]
    pub vectors: Vectors,
}

/// What a hookpoint gives vectors for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vectors {
    /// One for each token.
    #[default]
    Token,
    /// This number for each token, one for a head.
    Heads(usize),
    /// One for each position, the same for all sequences.
    Position,
}

impl Vectors {
    fn are_of_tokens(&self) -> bool {
        *self == Self::Token
    }
}

impl fmt::Display for Vectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token => write!(f, "1 vector for a token"),
            Self::Heads(n_heads) => write!(f, "{n_heads} vectors for a token"),
            Self::Position => write!(f, "1 vector for a position"),
        }
    }
}

/// The models of a job.
#[derive(Clone, Copy, Debug)]
pub struct Models<'a> {
    /// That of `model`.
    pub first: &'a ModelFacts,
    /// That of `crosscoder_model`.
    pub second: Option<&'a ModelFacts>,
}

impl<'a> From<&'a ModelFacts> for Models<'a> {
    fn from(first: &'a ModelFacts) -> Self {
        Self {
            first,
            second: None,
        }
    }
}

impl ModelFacts {
    /// The facts of the hookpoint called `name`.
    pub fn hookpoint(&self, name: &str) -> Option<&HookpointFacts> {
        self.hookpoints
            .iter()
            .find(|hookpoint| hookpoint.name == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A model of `n_layers` blocks of width 8, each block a hookpoint.
    pub(crate) fn facts(n_layers: usize) -> ModelFacts {
        let block = |layer| HookpointFacts {
            name: format!("layers.{layer}"),
            d_in: Some(8),
            d_out: 8,
            n_layers_needed: layer + 1,
            vectors: Vectors::Token,
        };
        ModelFacts {
            model_type: "llama".into(),
            n_layers,
            hidden_size: 8,
            vocab_size: 100,
            max_ctx_len: 64,
            embedding_params: 800,
            layer_params: 1000,
            layer_8bit_params: 900,
            layers_name: "layers".into(),
            hookpoints: (0..n_layers).map(block).collect(),
        }
    }
}
