//! What can go wrong with a model folder, a device or a forward pass.

use facts::FactsError;
use fault::Fault;
use miette::Diagnostic;
use plan::{ModelFacts, nearest};
use tch::TchError;
use thiserror::Error;

/// A model that cannot be read, or cannot run what was asked of it.
#[derive(Debug, Error, Diagnostic)]
pub enum LmError {
    /// The model's files.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Facts(#[from] FactsError),
    /// A function that replaces an output failed.
    #[error("cannot replace the output of hookpoint `{name}`")]
    Replacement {
        /// The hookpoint.
        name: String,
        /// The function's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything else.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

impl LmError {
    /// A hookpoint that the model does not have.
    pub fn no_hookpoint(facts: &ModelFacts, name: &str) -> Self {
        let names = facts.hookpoints.iter().map(|known| known.name.as_str());
        let nearest = nearest(name, names, 1).pop();
        let model_type = &facts.model_type;
        Fault::input(format!(
            "`{name}` is not a hookpoint of this {model_type} model"
        ))
        .with_optional_hint(nearest.map(|nearest| format!("did you mean `{nearest}`?")))
        .into()
    }

    /// An operation of libtorch failed: out of memory, or a fault of device or library.
    pub(crate) fn torch(during: impl AsRef<str>, source: TchError) -> Self {
        let hint = "lower `batch_size` or `ctx_len`, or free memory of the device";
        Fault::internal(format!("libtorch failed {}", during.as_ref()))
            .with_optional_hint(is_out_of_memory(&source).then(|| hint.into()))
            .because(source)
            .into()
    }

    /// The error about a tensor, as that of the head.
    pub(crate) fn of_head(self) -> Self {
        match self {
            Self::Facts(error) => Self::Facts(error.of_head()),
            other => other,
        }
    }
}

fn is_out_of_memory(error: &TchError) -> bool {
    let text = error.to_string();
    text.contains("out of memory") || text.contains("can't allocate memory")
}
