//! What a data set is made of.

use plan::RowRange;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON objects one after the other, or an array of objects or texts.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// A document a line.
    Text,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, stream or file.
    Arrow,
    /// Token ids without a header, little-endian.
    Bin,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "JSON",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::Text => "text",
            Self::Parquet => "Parquet",
            Self::Arrow => "Arrow",
            Self::Bin => "bin",
        })
    }
}

/// A file of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Where it lies.
    pub path: PathBuf,
    /// How it holds its rows.
    pub format: Format,
    /// Number of the part that it is of, among those that the split names.
    #[serde(default)]
    pub part: usize,
    /// A hash of its content, where that is known without reading it; the Hub has one of every file.
    pub content_hash: Option<String>,
}

/// The files of a split of a data set, in the order in which they are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFiles {
    /// The data set, as the user calls it.
    pub name: String,
    /// At least one.
    pub files: Vec<DataFile>,
    /// The rows that are taken of each part that the split names; empty: all.
    #[serde(default)]
    pub parts: Vec<RowRange>,
}
