//! What can go wrong with an SAE.

use fault::Fault;
use miette::Diagnostic;
use sae_files::io_fault;
use std::path::Path;
use tch::TchError;
use thiserror::Error;

/// What can go wrong with an SAE.
#[derive(Debug, Error, Diagnostic)]
pub enum SaeError {
    /// libtorch cannot compute, mostly because memory ran out.
    #[error("libtorch failed")]
    #[diagnostic(code(internal))]
    Torch(#[from] TchError),
    /// Anything else: what the caller asked for cannot be.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

#[cfg(feature = "hub")]
impl From<hub::HubError> for SaeError {
    fn from(error: hub::HubError) -> Self {
        Fault::from(error).into()
    }
}

impl SaeError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| io_fault(action, path)(source).into()
    }

    /// libtorch cannot read the tensors of a file.
    pub(crate) fn unreadable_tensors(path: &Path) -> impl FnOnce(TchError) -> Self {
        let message = format!("cannot read the tensors of `{}`", path.display());
        let fault = Fault::internal(message).with_hint("does the file exist, and is it complete?");
        |source| fault.because(source).into()
    }
}

/// `layout` cannot express what an SAE is.
pub(crate) fn inexpressible(layout: &str, what: &str) -> Fault {
    Fault::internal(format!("{layout}'s layout does not support {what}"))
}

/// An SAE that was loaded without its decoder is to decode or to be written.
pub(crate) fn without_decoder() -> Fault {
    Fault::internal("the SAE was loaded without its decoder")
        .with_hint("load it with `decoder: true`")
}
