//! What can go wrong while training.

use fault::{FailureKind, Fault, Remedy};
use std::io;
use std::path::Path;
use thiserror::Error;

/// What can go wrong while training.
#[derive(Debug, Error)]
pub enum TrainError {
    /// Anything that only ends the work.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The language model.
    #[error(transparent)]
    Lm(#[from] lm::LmError),
    /// The data. Tokenising may have been stopped.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// An SAE. Memory may have run out.
    #[error(transparent)]
    Sae(#[from] sae::SaeError),
    /// Other ranks, which then need not be told.
    #[error(transparent)]
    Dist(#[from] dist::DistError),
    /// libtorch, mostly for want of memory.
    #[error("libtorch failed")]
    Torch(#[from] tch::TchError),
    /// Settings.
    #[error(transparent)]
    Plan(#[from] plan::PlanError),
}

impl From<facts::FactsError> for TrainError {
    fn from(error: facts::FactsError) -> Self {
        Self::Lm(error.into())
    }
}

impl From<sae_files::FilesError> for TrainError {
    fn from(error: sae_files::FilesError) -> Self {
        Self::Sae(error.into())
    }
}

impl TrainError {
    /// A file or folder of our own.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let message = format!("cannot {action} `{}`", path.display());
        move |source| {
            let fault = Fault::internal(message).because(source);
            let hint = "can the folder be written, and is there space on the disk?";
            fault.with_hint(hint).into()
        }
    }

    /// A JSON file of our own.
    pub(crate) fn damaged(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let message = format!("`{}` is damaged", path.display());
        move |source| Fault::internal(message).because(source).into()
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Fault(error) => error.hint(),
            Self::Lm(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Sae(error) => error.hint(),
            Self::Plan(error) => error.hint(),
            Self::Dist(error) => error.hint(),
            Self::Torch(_) => {
                Some("if memory ran out, lower `batch_size` or raise `micro_acc_steps`".into())
            }
        }
    }

    /// Whose fault it is: a retry helps only against the machine's.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Fault(error) => error.kind(),
            Self::Dist(error) => error.kind(),
            Self::Lm(lm::LmError::Torch { .. }) => FailureKind::Internal,
            Self::Lm(_) | Self::Data(_) | Self::Plan(_) => FailureKind::Input,
            Self::Sae(error) if error.is_of_the_folder() => FailureKind::Input,
            Self::Sae(_) | Self::Torch(_) => FailureKind::Internal,
        }
    }
}
