//! What a data set is made of.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// How a file holds its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON lines, or one array of objects.
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

/// What a file is packed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Nothing.
    None,
    /// gzip, by the ending `.gz`.
    Gzip,
    /// Zstandard, by the ending `.zst`.
    Zstd,
}

/// A file of a data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Where it lies.
    pub path: PathBuf,
    /// How it holds its rows.
    pub format: Format,
    /// What it is packed with.
    pub compression: Compression,
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
}
