//! What the readers of all formats share.

use super::Document;
use crate::DataError;
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

    /// Bytes of the file, as it lies on disk, that are read so far.
    fn n_bytes_read(&self) -> u64;
}

/// Why there is no next row.
#[derive(Debug)]
pub(super) enum RowError {
    /// This row cannot be used, those after it may.
    Bad(DataError),
    /// The file cannot be read on.
    Fatal(DataError),
}

impl RowError {
    pub(super) fn into_inner(self) -> DataError {
        match self {
            Self::Bad(error) | Self::Fatal(error) => error,
        }
    }
}

impl From<DataError> for RowError {
    fn from(error: DataError) -> Self {
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

    pub(super) fn not_in(&self, path: &Path, found: Vec<String>) -> DataError {
        DataError::NoColumn {
            path: path.to_path_buf(),
            column: self.name.clone(),
            found,
        }
    }
}

/// A row of a file, for errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The file.
    pub(super) path: &'a Path,
    /// The line or row, from 1.
    pub(super) line: u64,
}

impl Place<'_> {
    pub(super) fn too_long(self) -> RowError {
        RowError::Bad(DataError::DocumentTooLong {
            path: self.path.to_path_buf(),
            line: self.line,
            limit_bytes: MAX_DOCUMENT_BYTES,
        })
    }

    /// `bytes` as text.
    pub(super) fn utf8(self, bytes: &[u8]) -> Result<&str, RowError> {
        std::str::from_utf8(bytes).map_err(|_| {
            RowError::Bad(DataError::NotUtf8 {
                path: self.path.to_path_buf(),
                line: self.line,
            })
        })
    }

    pub(super) fn not_json(self, source: serde_json::Error) -> DataError {
        DataError::NotJson {
            path: self.path.to_path_buf(),
            line: self.line,
            source,
        }
    }

    pub(super) fn missing(self, column: &Column, found: Vec<String>) -> RowError {
        RowError::Bad(DataError::MissingColumn {
            path: self.path.to_path_buf(),
            line: self.line,
            column: column.name.clone(),
            found,
        })
    }

    /// `found`: columns of the row that do hold text.
    pub(super) fn not_text(
        self,
        column: &Column,
        got: &'static str,
        found: Vec<String>,
    ) -> RowError {
        RowError::Bad(DataError::NotText {
            path: self.path.to_path_buf(),
            line: self.line,
            column: column.name.clone(),
            got,
            found,
        })
    }

    pub(super) fn not_ids(self, column: &Column, got: String) -> RowError {
        RowError::Bad(DataError::NotTokenIds {
            path: self.path.to_path_buf(),
            line: self.line,
            column: column.name.clone(),
            got,
        })
    }
}
