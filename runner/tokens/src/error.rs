//! What can be wrong with tokens and what they are made of, as the user can mend it.

use datasets::DatasetError;
use fault::Fault;
use miette::Diagnostic;
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Tokens that cannot be made or used.
#[derive(Debug, Diagnostic, Error)]
pub enum TokensError {
    /// The data set.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Dataset(#[from] DatasetError),
    /// A file or folder that cannot be read or written, which may be another time.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Io(Fault),
    /// A class of tokenizers that makes other tokens than tokenizer.json says, in ways that are not known.
    #[error("`{}` names `{class}`, a tokenizer class that is not built in", path.display())]
    #[diagnostic(help("`tokenizer_class = \"file\"` uses tokenizer.json unchanged"))]
    ForeignTokenizer {
        /// The configuration that names it.
        path: PathBuf,
        /// Its name in transformers.
        class: String,
    },
    /// The caller stopped the work.
    #[error("tokenising was stopped")]
    Stopped,
    /// Anything else.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

impl TokensError {
    /// Whether another `text_column` may be what is missing.
    pub fn is_about_column(&self) -> bool {
        matches!(self, Self::Dataset(error) if error.is_about_column())
    }

    /// Whether another `tokenizer_class` may be what is missing.
    pub fn is_about_tokenizer_class(&self) -> bool {
        matches!(self, Self::ForeignTokenizer { .. })
    }

    /// A file of the tokenizer that cannot be read.
    pub(crate) fn unreadable(
        action: &str,
        path: &Path,
        hint: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let fault = files::unreadable(action, path, hint);
        move |error| Self::Io(fault(error))
    }

    /// A file of the cache that cannot be written.
    pub(crate) fn unwritable(
        action: &str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let fault = Fault::io(action, path);
        let hint =
            "can the cache folder be written, and is there space? `SAE_RUN_CACHE` names another";
        move |error| Self::Io(fault(error).with_hint(hint))
    }
}

/// A tokenizer that cannot be loaded.
pub(crate) fn bad_tokenizer<E: Into<Box<dyn StdError + Send + Sync>>>(
    path: &Path,
) -> impl Fn(E) -> TokensError {
    let message = format!("cannot load the tokenizer `{}`", path.display());
    move |source| {
        let hint = "the model's folder must have a tokenizer.json of a fast tokenizer";
        let fault = Fault::input(message.clone()).with_hint(hint);
        fault.because(source).into()
    }
}
