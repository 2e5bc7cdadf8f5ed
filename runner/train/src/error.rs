//! What can go wrong while training.

use fault::Fault;
use miette::Diagnostic;
use std::io;
use std::path::Path;
use thiserror::Error;

/// What can go wrong while training.
#[derive(Debug, Diagnostic, Error)]
pub enum TrainError {
    /// Anything that only ends the work.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
    /// The language model.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Lm(#[from] lm::LmError),
    /// The data. Tokenising may have been stopped.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Data(#[from] tokens::TokensError),
    /// An SAE. Memory may have run out.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Sae(#[from] sae::SaeError),
    /// An error between ranks, which need not be reported to them.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Dist(#[from] dist::DistError),
    /// libtorch, mostly because memory ran out.
    #[error("libtorch failed")]
    #[diagnostic(
        code(internal),
        help("if memory ran out, lower `batch_size` or raise `micro_acc_steps`")
    )]
    Torch(#[from] tch::TchError),
}

impl From<plan::PlanError> for TrainError {
    fn from(error: plan::PlanError) -> Self {
        Fault::of(&error).into()
    }
}

impl From<eval::EvalError> for TrainError {
    fn from(error: eval::EvalError) -> Self {
        match error {
            eval::EvalError::Fault(fault) => fault.into(),
            eval::EvalError::Dist(error) => error.into(),
        }
    }
}

impl From<facts::FactsError> for TrainError {
    fn from(error: facts::FactsError) -> Self {
        Self::Lm(error.into())
    }
}

impl TrainError {
    /// A file or folder of our own.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let fault = Fault::own_io(action, path);
        |error| fault(error).into()
    }

    /// A JSON file of our own.
    pub(crate) fn damaged(path: &Path) -> impl FnOnce(serde_json::Error) -> Self {
        let message = format!("`{}` is damaged", path.display());
        move |source| Fault::internal(message).because(source).into()
    }
}
