//! What the readers of all formats share.

use super::Document;
use crate::DatasetError;
use crate::error::{BAD_ROW_HINT, one_of};
use fault::Fault;
use std::fmt::Display;
use std::path::Path;

/// The longest document, line or record that is read: what is longer is a bad row, so that a packed
/// file of zeros cannot fill the memory.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// The column that holds the ids of a tokenised data set.
pub(crate) const ID_COLUMN: &str = "input_ids";

/// The column of files that have no names for theirs.
pub(super) const TEXT_COLUMN: &str = "text";

/// The rows of a file, in its order.
pub(super) trait ReadRows: Send {
    /// The next row; `None` at the end. After [`RowError::Bad`] the row after it follows.
    fn next_row(&mut self) -> Result<Option<Document>, RowError>;

    /// Bytes read so far of the file as stored on disk.
    fn n_bytes_read(&self) -> u64;
}

/// Why there is no next row.
#[derive(Debug)]
pub(super) enum RowError {
    /// This row cannot be used, those after it may.
    Bad(DatasetError),
    /// The file cannot be read on.
    Fatal(DatasetError),
}

impl RowError {
    pub(super) fn into_inner(self) -> DatasetError {
        match self {
            Self::Bad(error) | Self::Fatal(error) => error,
        }
    }
}

impl From<DatasetError> for RowError {
    fn from(error: DatasetError) -> Self {
        Self::Fatal(error)
    }
}

/// What is taken from every row.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// As the user wrote it.
    pub(super) name: String,
    /// The name cut at its dots.
    pub(super) path: Vec<String>,
    /// Whether it holds token ids; otherwise text.
    pub(super) holds_ids: bool,
}

impl Column {
    /// The column of this name with the text of documents.
    pub(super) fn text(name: &str) -> Self {
        Self {
            name: name.to_string(),
            path: name.split('.').map(str::to_string).collect(),
            holds_ids: false,
        }
    }

    /// The column of token ids.
    pub(super) fn token_ids() -> Self {
        Self {
            holds_ids: true,
            ..Self::text(ID_COLUMN)
        }
    }

    pub(super) fn not_in(&self, path: &Path, found: Vec<String>) -> DatasetError {
        let message = format!("`{}` has no column `{}`", path.display(), self.name);
        DatasetError::Column(Fault::input(message).with_hint(self.missing_hint(&found)))
    }

    /// What to do if it is not among the columns `found`.
    pub(super) fn missing_hint(&self, found: &[String]) -> String {
        if self.name == ID_COLUMN {
            return "every file of a tokenised data set must have `input_ids`".into();
        }
        if found.is_empty() {
            return "text is read from a column of strings, and this file has no such column"
                .into();
        }
        format!("set `text_column` to {}", one_of(found))
    }
}

/// A row of a file, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowLocation<'a> {
    /// The file.
    pub(super) path: &'a Path,
    /// The line or row, from 1.
    pub(super) line: u64,
}

impl RowLocation<'_> {
    /// A row that cannot be used, with what is wrong with it.
    pub(super) fn bad(self, problem: impl Display) -> RowError {
        RowError::Bad(self.fault(problem).with_hint(BAD_ROW_HINT).into())
    }

    fn fault(self, problem: impl Display) -> Fault {
        Fault::input(format!("{}:{}: {problem}", self.path.display(), self.line))
    }

    pub(super) fn too_long(self) -> RowError {
        self.bad(format_args!(
            "longer than {}",
            plan::bytes(MAX_DOCUMENT_BYTES as u64)
        ))
    }

    /// `bytes` as text.
    pub(super) fn utf8(self, bytes: &[u8]) -> Result<&str, RowError> {
        std::str::from_utf8(bytes).map_err(|_| {
            let fault = self.fault("not UTF-8");
            RowError::Bad(fault.with_hint("convert the file to UTF-8").into())
        })
    }

    pub(super) fn not_json(self, source: serde_json::Error) -> DatasetError {
        let hint = "write one JSON object a line, such as {\"text\": \"...\"}, to a .jsonl file";
        let fault = self.fault("not a JSON object").with_hint(hint);
        fault.because(source).into()
    }

    pub(super) fn missing(self, column: &Column, found: Vec<String>) -> RowError {
        let fault = self.fault(format_args!("no column `{}`", column.name));
        let fault = fault.with_hint(column.missing_hint(&found));
        RowError::Bad(DatasetError::Column(fault))
    }

    /// `found`: columns of the row that do hold text.
    pub(super) fn not_text(
        self,
        column: &Column,
        got: &'static str,
        found: Vec<String>,
    ) -> RowError {
        let name = &column.name;
        let fault = self.fault(format_args!("column `{name}` has {got}, not a text"));
        let hint = match &found[..] {
            [] => BAD_ROW_HINT.to_owned(),
            found => format!("{BAD_ROW_HINT}, or set `text_column` to {}", one_of(found)),
        };
        RowError::Bad(DatasetError::Column(fault.with_hint(hint)))
    }

    pub(super) fn not_ids(self, column: &Column, got: &str) -> RowError {
        let name = &column.name;
        self.bad(format_args!(
            "column `{name}` has {got}, not a list of token ids from 0 to 4294967295"
        ))
    }
}
