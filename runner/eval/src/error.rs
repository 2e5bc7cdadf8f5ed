//! What can go wrong with SAEs that are trained.

use fault::Fault;
use miette::Diagnostic;
use std::io;
use std::path::Path;
use thiserror::Error;

/// What can go wrong with SAEs that are trained, their model and their data.
#[derive(Debug, Diagnostic, Error)]
pub enum EvalError {
    /// Anything that only ends the work.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
    /// An error between ranks, which need not be reported to them.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Dist(#[from] dist::DistError),
}

impl EvalError {
    /// A file or folder of our own.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let fault = Fault::own_io(action, path);
        |error| fault(error).into()
    }
}

impl From<EvalError> for Fault {
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::Fault(fault) => fault,
            EvalError::Dist(error) => error.into(),
        }
    }
}

impl From<tch::TchError> for EvalError {
    fn from(error: tch::TchError) -> Self {
        let fault = Fault::internal("libtorch failed").because(error);
        let hint = "if memory ran out, lower `batch_size` or raise `micro_acc_steps`";
        fault.with_hint(hint).into()
    }
}

/// Errors that are shown with their own messages.
macro_rules! as_they_are {
    ($($error:ty),*) => {$(
        impl From<$error> for EvalError {
            fn from(error: $error) -> Self {
                Fault::of(&error).into()
            }
        }
    )*};
}

as_they_are!(
    facts::FactsError,
    lm::LmError,
    sae::SaeError,
    tokens::TokensError
);
