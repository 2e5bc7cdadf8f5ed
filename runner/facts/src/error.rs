//! What can be wrong with a model folder.

use fault::Fault;
use miette::Diagnostic;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A model folder that cannot be read.
#[derive(Debug, Error, Diagnostic)]
pub enum FactsError {
    /// A file of the model cannot be opened or mapped.
    #[error("cannot read `{}`", path.display())]
    #[diagnostic(help("{}", unreadable_hint(source)))]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A tensor that the configuration promises and no file has.
    #[error("tensor `{tensor}` is missing in `{}`", path.display())]
    #[diagnostic(help("{}", INCOMPLETE))]
    MissingTensor {
        /// The file, or the index of the shards.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Anything else.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

/// For a file that is not there, or not whole.
pub(crate) const INCOMPLETE: &str = "is the download complete? fetch the model's files again";

impl FactsError {
    /// The error about a tensor, as that of the head.
    pub fn of_head(self) -> Self {
        match self {
            Self::MissingTensor { path, tensor } => missing_head(&path, &tensor).into(),
            other => other,
        }
    }

    /// The error in opening a shard, with a tensor that it should hold.
    pub(crate) fn in_shard_of(self, tensor: &str) -> Self {
        match self {
            Self::ReadFile { path, source } => unreadable_shard(&path, tensor, source).into(),
            other => other,
        }
    }
}

/// A shard that should hold a tensor that is needed, and cannot be opened or mapped.
pub(crate) fn unreadable_shard(path: &Path, tensor: &str, source: io::Error) -> Fault {
    let path = path.display();
    Fault::input(format!(
        "cannot read `{path}`, the shard of tensor `{tensor}`"
    ))
    .with_hint(unreadable_hint(&source))
    .because(source)
}

/// A model without a head, if one is needed.
fn missing_head(path: &Path, tensor: &str) -> Fault {
    let path = path.display();
    Fault::input(format!("the model has no head: tensor `{tensor}` is missing in `{path}`")).with_hint(
        "it was saved without: save it again with `AutoModelForCausalLM`, or use what needs no logits, \
         `loss_fn = \"fvu\"` and `evaluate = false`",
    )
}

fn unreadable_hint(source: &io::Error) -> &'static str {
    if files::is_lfs_pointer(source) {
        files::LFS_HINT
    } else {
        INCOMPLETE
    }
}
