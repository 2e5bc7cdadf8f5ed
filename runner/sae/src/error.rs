//! What can go wrong with an SAE.

use std::path::{Path, PathBuf};
use thiserror::Error;

/// What can go wrong with an SAE.
#[derive(Debug, Error)]
pub enum SaeError {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// `cfg.json` is not what it should be.
    #[error("`{path}` is no SAE configuration")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// More active latents than latents, a width of zero, groups of unequal size, or another width of
    /// the output than of the input where it is no transcoder.
    #[error(
        "an SAE of d_in = {d_in}, d_out = {d_out}, num_latents = {num_latents}, k = {k} is impossible"
    )]
    Impossible {
        /// Width of the input.
        d_in: usize,
        /// Width of the output.
        d_out: usize,
        /// Number of latents.
        num_latents: usize,
        /// Latents a token may use.
        k: usize,
    },
    /// A weight is absent.
    #[error("`{path}` has no tensor `{tensor}`")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
    },
    /// A weight has another shape than `cfg.json` says.
    #[error("tensor `{tensor}` of `{path}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// By `cfg.json`.
        expected: Vec<i64>,
        /// In the file.
        got: Vec<i64>,
    },
    /// Activations of the wrong shape were passed in.
    #[error("activations have shape {got:?}, expected [n_tokens, {width}]")]
    Input {
        /// Width that the SAE takes.
        width: usize,
        /// What came.
        got: Vec<i64>,
    },
    /// libtorch cannot read or write a file.
    #[error("cannot {action} the tensors of `{path}`")]
    Tensors {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: tch::TchError,
    },
    /// libtorch cannot compute, mostly for want of memory.
    #[error("libtorch failed")]
    Torch(#[from] tch::TchError),
}

impl SaeError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    /// Whether an SAE's folder is not what it should be: no other machine would take it either.
    pub fn is_of_the_folder(&self) -> bool {
        matches!(
            self,
            Self::Config { .. } | Self::MissingTensor { .. } | Self::Shape { .. }
        )
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config { .. } | Self::MissingTensor { .. } => Some(
                "an SAE folder holds `cfg.json` and `sae.safetensors` as sparsify writes them"
                    .into(),
            ),
            Self::Impossible { .. } => Some(
                "k must lie between 1 and num_latents, and divide it with the activation groupmax; \
                 only a transcoder has two widths"
                    .into(),
            ),
            Self::Shape { .. } => {
                Some("`cfg.json` and `sae.safetensors` do not belong together".into())
            }
            Self::Io { action, .. } | Self::Tensors { action, .. } => Some(match *action {
                "read" => "is the file there, and whole?".into(),
                _ => "can the folder be written, and is there space on the disk?".into(),
            }),
            Self::Input { .. } | Self::Torch(_) => None,
        }
    }
}
