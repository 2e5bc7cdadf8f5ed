//! What can go wrong with an SAE.

use sae_files::{Activation, FilesError};
use std::path::{Path, PathBuf};
use tch::Kind;
use thiserror::Error;

/// What can go wrong with an SAE.
#[derive(Debug, Error)]
pub enum SaeError {
    /// The files of an SAE.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A layout has no place for what an SAE is.
    #[error("{layout}'s layout cannot hold {what}")]
    Inexpressible {
        /// Whose layout.
        layout: &'static str,
        /// What the SAE is.
        what: String,
    },
    /// An SAE that was loaded without its decoder shall decode or be written.
    #[error("the SAE was loaded without its decoder")]
    NoDecoder,
    /// A kind of SAE that can be used and not trained.
    #[error("SAEs with the activation {activation} cannot be trained")]
    NotTrained {
        /// The activation.
        activation: Activation,
    },
    /// Activations of another kind than the weights were passed in.
    #[error("activations are {got:?}, the SAE's weights {expected:?}")]
    InputKind {
        /// That of the weights.
        expected: Kind,
        /// What came.
        got: Kind,
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

impl From<hub::HubError> for SaeError {
    fn from(error: hub::HubError) -> Self {
        FilesError::from(error).into()
    }
}

impl SaeError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| FilesError::io(action, path)(source).into()
    }

    /// Whether an SAE's folder is not what it should be: no other machine would take it either.
    pub fn is_of_the_folder(&self) -> bool {
        matches!(self, Self::Files(error) if error.is_of_the_folder())
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Files(error) => error.hint(),
            Self::Tensors { action, .. } => Some(match *action {
                "read" => "is the file there, and whole?".into(),
                _ => "can the folder be written, and is there space on the disk?".into(),
            }),
            Self::NoDecoder => Some("load it with `decoder: true`".into()),
            Self::InputKind { .. } => {
                Some("convert them, or load the SAE with `kind` set to theirs".into())
            }
            Self::Inexpressible { .. }
            | Self::NotTrained { .. }
            | Self::Input { .. }
            | Self::Torch(_) => None,
        }
    }
}
