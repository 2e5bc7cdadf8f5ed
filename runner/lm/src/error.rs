//! What can go wrong with a model folder, a device or a forward pass.

use facts::FactsError;
use tch::TchError;
use thiserror::Error;

/// A model that cannot be read, or cannot run what was asked of it.
#[derive(Debug, Error)]
pub enum LmError {
    /// The model's files.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// A hookpoint that the model does not have.
    #[error("`{name}` is no hookpoint of this {model_type} model")]
    NoHookpoint {
        /// As asked for.
        name: String,
        /// Kind of model.
        model_type: String,
        /// The hookpoint that looks most like it.
        nearest: Option<String>,
    },
    /// Taps or replacements made for another model.
    #[error("made for another model: hookpoint `{name}` is not where this one has it")]
    ForeignTaps {
        /// The first hookpoint that does not fit.
        name: String,
    },
    /// A tap behind the last loaded block.
    #[error("hookpoint `{name}` needs {needed} layers, {loaded} are loaded")]
    LayerNotLoaded {
        /// The hookpoint.
        name: String,
        /// Blocks that must run to serve it.
        needed: usize,
        /// Blocks that are loaded.
        loaded: usize,
    },
    /// A tap on the input of a module whose input is token ids or positions.
    #[error("the input of hookpoint `{name}` is no hidden state")]
    NoInput {
        /// The hookpoint.
        name: String,
    },
    /// A function that replaces an output failed.
    #[error("cannot replace the output of hookpoint `{name}`")]
    Replacement {
        /// The hookpoint.
        name: String,
        /// The function's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A replacement that does not fit into the model.
    #[error(
        "the replacement of hookpoint `{name}` has shape, kind and device {got:?}, expected {expected:?}"
    )]
    ReplacementShape {
        /// The hookpoint.
        name: String,
        /// Those of the output.
        expected: (Vec<i64>, tch::Kind, tch::Device),
        /// Those of the replacement.
        got: (Vec<i64>, tch::Kind, tch::Device),
    },
    /// More blocks asked for than there are.
    #[error("cannot load {asked} layers of a model that has {n_layers}")]
    TooManyLayers {
        /// Asked for.
        asked: usize,
        /// The model's.
        n_layers: usize,
    },
    /// Logits asked of a model that was loaded without its head.
    #[error("the model was loaded without its head")]
    NoHead,
    /// Input that is not a batch of token ids.
    #[error("token ids have shape {got:?} and kind {kind:?}, expected [batch, ctx_len] and Int64")]
    InputShape {
        /// Shape.
        got: Vec<i64>,
        /// Kind.
        kind: tch::Kind,
    },
    /// A sequence longer than the position encoding was made for.
    #[error("ctx_len = {ctx_len} is longer than the model's {max_ctx_len} positions")]
    TooLongContext {
        /// Length of the sequences, in tokens.
        ctx_len: usize,
        /// The model's limit, in tokens.
        max_ctx_len: usize,
    },
    /// A token id that the embedding has no row for.
    #[error("token id {token_id} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        token_id: i64,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A device that is none.
    #[error("`{text}` is no device, expected `auto`, `cpu`, `cuda` or `cuda:N`")]
    BadDevice {
        /// As written.
        text: String,
    },
    /// CUDA asked for where there is none.
    #[error("cannot use device `{text}`: {reason}")]
    NoCuda {
        /// As written.
        text: String,
        /// Why there is no CUDA.
        reason: String,
    },
    /// A device number past the last device.
    #[error("cannot use device `{text}`: there are {n_devices} CUDA devices, numbered from 0")]
    NoSuchDevice {
        /// As written.
        text: String,
        /// Devices that can be seen.
        n_devices: usize,
    },
    /// An operation of libtorch failed: out of memory, or a fault of device or library.
    #[error("libtorch failed {during}")]
    Torch {
        /// What was being done.
        during: String,
        /// libtorch's message.
        source: TchError,
    },
}

impl LmError {
    pub(crate) fn torch(during: impl Into<String>, source: TchError) -> Self {
        Self::Torch {
            during: during.into(),
            source,
        }
    }

    /// The error about a tensor, as that of the head.
    pub(crate) fn of_head(self) -> Self {
        match self {
            Self::Facts(error) => Self::Facts(error.of_head()),
            other => other,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Facts(error) => error.hint(),
            Self::NoHookpoint { nearest, .. } => nearest
                .as_ref()
                .map(|name| format!("did you mean `{name}`?")),
            Self::LayerNotLoaded { needed, .. } => Some(format!(
                "load the model with `n_layers` of at least {needed}"
            )),
            Self::NoHead => Some("load the model with `with_head`".into()),
            Self::TooLongContext { max_ctx_len, .. } => {
                Some(format!("set `ctx_len` to at most {max_ctx_len}"))
            }
            Self::TokenOutOfRange { .. } => {
                Some("was the text tokenized with this model's tokenizer?".into())
            }
            Self::BadDevice { .. } | Self::NoCuda { .. } | Self::NoSuchDevice { .. } => {
                Some("`sae-run doctor` shows what was found; `--device cpu` needs no GPU".into())
            }
            Self::Torch { source, .. } if is_out_of_memory(source) => {
                Some("lower `batch_size` or `ctx_len`, or free memory of the device".into())
            }
            _ => None,
        }
    }
}

fn is_out_of_memory(error: &TchError) -> bool {
    let text = error.to_string();
    text.contains("out of memory") || text.contains("can't allocate memory")
}
