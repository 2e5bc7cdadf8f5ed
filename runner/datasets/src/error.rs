//! What can be wrong with a data set, as the user can mend it.

use fault::Fault;
use files::READ_HINT;
use miette::Diagnostic;
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use thiserror::Error;

pub(crate) const BAD_ROW_HINT: &str =
    "remove the row, or skip bad rows with `on_bad_row = \"skip\"`";

pub(crate) const KNOWN_ENDINGS: &str = "known are .json, .jsonl, .ndjson, .csv, .tsv and .txt, also packed with gzip, \
    Zstandard, bzip2 or xz, .parquet and .arrow, and a single .bin file";

/// A data set that cannot be used.
#[derive(Debug, Diagnostic, Error)]
pub enum DatasetError {
    /// A file or folder that cannot be read, which may be another time.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Io(Fault),
    /// The column: another `text_column` may be what is missing.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Column(Fault),
    /// A data set without a file that could be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    NoFiles(Fault),
    /// Anything else.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fault(#[from] Fault),
}

impl DatasetError {
    /// Whether another `text_column` may be what is missing.
    pub fn is_about_column(&self) -> bool {
        matches!(self, Self::Column(_))
    }

    pub(crate) fn io(action: &str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let fault = files::unreadable(action, path, READ_HINT);
        move |error| Self::Io(fault(error))
    }

    /// `found`: some of its files. `script`: its loading script, if it has one.
    pub(crate) fn no_files(dataset: &str, found: &[String], script: Option<String>) -> Self {
        let has = match found {
            [] => String::new(),
            found => format!(", but has `{}`", found.join("`, `")),
        };
        let message = format!("data set `{dataset}` has no file of a known format{has}");
        let hint = script.map_or_else(
            || KNOWN_ENDINGS.to_owned(),
            |script| format!("`{script}` is a loading script, and scripts are never run"),
        );
        Self::NoFiles(Fault::input(message).with_hint(hint))
    }
}

/// A split that the data set does not have.
pub(crate) fn no_split(dataset: &str, split: &str, found: &[String]) -> Fault {
    let message = format!("data set `{dataset}` has no split `{split}`");
    Fault::input(message).with_hint(choose_hint(found))
}

/// A configuration that the data set does not have.
pub(crate) fn no_config(dataset: &str, config: &str, found: &[String]) -> Fault {
    let message = format!("data set `{dataset}` has no configuration `{config}`");
    Fault::input(message).with_hint(choose_hint(found))
}

/// Several configurations, of which none is the default.
pub(crate) fn many_configs(dataset: &str, found: &[String]) -> Fault {
    let message = format!("data set `{dataset}` has several configurations");
    Fault::input(message).with_hint(choose_hint(found))
}

/// A file that is damaged or cut short.
pub(crate) fn damaged(
    path: &Path,
    format: &str,
    source: impl Into<Box<dyn StdError + Send + Sync>>,
) -> DatasetError {
    let message = format!("`{}` is not a readable {format} file", path.display());
    let fault = Fault::input(message).with_hint("is the file complete? copy or download it again");
    fault.because(source).into()
}

/// A Parquet or Arrow file that is packed again.
pub(crate) fn packed_columns(path: &Path, format: &str) -> DatasetError {
    let path = path.display();
    let message = format!("`{path}` is a packed {format} file, which cannot be read in place");
    Fault::input(message).with_hint("unpack it first").into()
}

fn choose_hint(found: &[String]) -> String {
    format!("choose {}", one_of(found))
}

pub(crate) fn one_of(names: &[String]) -> String {
    format!("one of `{}`", names.join("`, `"))
}
