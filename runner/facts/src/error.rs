//! What can be wrong with a model folder.

use crate::missing::{adapter_hint, dtype_hint, prefix_hint};
use fault::{Fault, Remedy};
use safetensors::SafeTensorError;
use std::path::PathBuf;
use thiserror::Error;

/// A model folder that cannot be read.
#[derive(Debug, Error)]
pub enum FactsError {
    /// Anything else.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The model folder is not there.
    #[error("no model folder at `{}`", path.display())]
    NoModelFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A file of the model cannot be opened or mapped.
    #[error("cannot read `{}`", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A shard that should hold a tensor cannot be opened or mapped.
    #[error("cannot read `{}`, the shard of tensor `{tensor}`", path.display())]
    ReadShard {
        /// The shard.
        path: PathBuf,
        /// A tensor that it should hold, and that is needed.
        tensor: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A JSON file of the model is not what its name says.
    #[error("`{}` is not a JSON object of the expected form", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A key that the architecture cannot do without.
    #[error("`{}` lacks the key `{key}`", path.display())]
    MissingKey {
        /// config.json.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key of the wrong type, out of range, or in contradiction to another.
    #[error("key `{key}` of `{}` {problem}", path.display())]
    BadKey {
        /// config.json.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A value that Hugging Face knows and this crate does not.
    #[error("key `{key}` of `{}` is `{got}`, which is not supported", path.display())]
    UnsupportedValue {
        /// config.json.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        got: String,
        /// The values that are supported.
        supported: Vec<&'static str>,
    },
    /// A quantised checkpoint, by its configuration.
    #[error(
        "by the key `{key}` of `{}` the checkpoint is quantised by {scheme}, which is not read",
        path.display()
    )]
    QuantisedModel {
        /// config.json.
        path: PathBuf,
        /// The key.
        key: String,
        /// Who quantised it.
        scheme: String,
    },
    /// An architecture that is not built in.
    #[error("`{}` is a model of type `{got}`, which is not supported", path.display())]
    UnknownArchitecture {
        /// config.json.
        path: PathBuf,
        /// Its `model_type`.
        got: String,
        /// The `model_type`s that are built in.
        supported: Vec<&'static str>,
    },
    /// A folder without safetensors files.
    #[error(
        "no `model.safetensors` and no `model.safetensors.index.json` in `{}`{}",
        path.display(),
        found.as_ref().map_or(String::new(), |found| format!(", but `{found}`"))
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// A file that may hold weights in another form.
        found: Option<String>,
    },
    /// A safetensors file whose header is truncated or malformed as a whole.
    #[error("`{}` is not a valid safetensors file", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SafeTensorError,
    },
    /// A safetensors file whose header describes a tensor that cannot be: outside the file, across
    /// another one, of another length than its shape.
    #[error("`{}` is not a valid safetensors file: tensor `{tensor}` {problem}", path.display())]
    HeaderTensor {
        /// The file.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An index that names a shard outside the model folder.
    #[error("`{}` names the shard `{shard}`, which is not a plain file name", path.display())]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The shard as written.
        shard: String,
    },
    /// A tensor that the configuration promises and no file has.
    #[error("tensor `{tensor}` is missing in `{}`", path.display())]
    MissingTensor {
        /// The file, or the index of the shards.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that is there under a longer name.
    #[error("tensor `{tensor}` of `{}` has the prefix `{prefix}` there", path.display())]
    PrefixedTensor {
        /// The file, or the index of the shards.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What stands before its name.
        prefix: String,
    },
    /// A tensor of a quantised checkpoint.
    #[error("tensor `{tensor}` of `{}` is quantised by {scheme}, which is not read", path.display())]
    QuantisedTensor {
        /// The file, or the index of the shards.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Who quantised it.
        scheme: &'static str,
    },
    /// A model without a head, where one is needed.
    #[error("the model has no head: tensor `{tensor}` is missing in `{}`", path.display())]
    MissingHead {
        /// The file, or the index of the shards.
        path: PathBuf,
        /// The head's weight.
        tensor: String,
    },
    /// The folder of an adapter.
    #[error("`{}` holds a PEFT adapter (`adapter_config.json`), which is not read", path.display())]
    Adapter {
        /// The folder.
        path: PathBuf,
        /// The model that it is for.
        base: Option<String>,
        /// Whether there is a config.json too.
        with_model: bool,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error("tensor `{tensor}` of `{}` has shape {got:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape by config.json.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
    },
    /// A tensor in a format that is not read.
    #[error("tensor `{tensor}` of `{}` has dtype {got}, expected F32, BF16 or F16", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its dtype, as safetensors has it.
        got: String,
    },
}

impl FactsError {
    /// The error about a tensor, as that of the head.
    pub fn of_head(self) -> Self {
        match self {
            Self::MissingTensor { path, tensor } => Self::MissingHead { path, tensor },
            other => other,
        }
    }

    /// The error in opening a shard, with a tensor that it should hold.
    pub(crate) fn in_shard_of(self, tensor: &str) -> Self {
        match self {
            Self::ReadFile { path, source } => Self::ReadShard {
                path,
                tensor: tensor.into(),
                source,
            },
            other => other,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Fault(fault) => fault.hint(),
            Self::NoModelFolder { .. } => Some(
                "`model` is the path of a folder with config.json, model.safetensors and \
                 tokenizer.json"
                    .into(),
            ),
            Self::ReadFile { source, .. } | Self::ReadShard { source, .. }
                if files::is_lfs_pointer(source) =>
            {
                Some(files::LFS_HINT.into())
            }
            Self::ReadFile { .. }
            | Self::ReadShard { .. }
            | Self::Header { .. }
            | Self::HeaderTensor { .. }
            | Self::MissingTensor { .. } => {
                Some("is the download complete? fetch the model's files again".into())
            }
            Self::UnsupportedValue { supported, .. }
            | Self::UnknownArchitecture { supported, .. } => {
                Some(format!("supported are: {}", supported.join(", ")))
            }
            Self::Json { .. } | Self::MissingKey { .. } => {
                Some("is it the file of a Hugging Face model, and complete?".into())
            }
            Self::NoWeights { found, .. } => Some(no_weights_hint(found.as_deref())),
            Self::TensorDtype { path, got, .. } => Some(dtype_hint(path, got)),
            Self::PrefixedTensor { prefix, .. } => Some(prefix_hint(prefix)),
            Self::QuantisedModel { .. } | Self::QuantisedTensor { .. } => {
                Some("take the original checkpoint; `load_in_8bit` quantises it when it is loaded".into())
            }
            Self::MissingHead { .. } => Some(
                "it was saved without: save it again with `AutoModelForCausalLM`, or use what needs no \
                 logits, `loss_fn = \"fvu\"` and `evaluate = false`"
                    .into(),
            ),
            Self::Adapter {
                path,
                base,
                with_model,
            } => Some(adapter_hint(path, base.as_deref(), *with_model)),
            Self::TensorShape { .. } => {
                Some("do config.json and the weights come from the same model?".into())
            }
            _ => None,
        }
    }
}

fn no_weights_hint(found: Option<&str>) -> String {
    match found {
        Some(shard) if shard.starts_with("model-") => {
            "the index of the shards is missing: fetch the model's files again".into()
        }
        Some(gguf) if gguf.ends_with(".gguf") => {
            "take the original checkpoint, as safetensors".into()
        }
        _ => "save the model again with transformers, as safetensors".into(),
    }
}
