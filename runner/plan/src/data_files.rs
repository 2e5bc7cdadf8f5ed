//! What a data set is made of, and how its rows are read.

use crate::{OnBadRow, RowRange, TokenizerClass, TrainConfig};
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
    /// Where it is.
    pub path: PathBuf,
    /// How it holds its rows.
    pub format: Format,
    /// Number of the part that it is of, among those that the split names.
    #[serde(default)]
    pub part: usize,
    /// A hash of its content, if that is known without reading it; the Hub has one of every file.
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

/// How rows are read, and text made into tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSpec {
    /// Column with the text; `a.b` is field `b` of column `a`, unless a column has that name.
    pub text_column: String,
    /// What makes the tokenizer; orders before there was a choice do not say.
    #[serde(default)]
    pub tokenizer_class: TokenizerClass,
    /// What becomes of a row that cannot be used.
    pub on_bad_row: OnBadRow,
    /// Length of the rows of `.bin` files, in tokens.
    pub ctx_len: usize,
    /// Width of the ids of `.bin` files, in bytes: 2 or 4.
    pub bin_id_bytes: usize,
}

impl RowSpec {
    /// As a job with the settings `config` reads them, for a model with `vocab_size` tokens.
    pub fn of(config: &TrainConfig, vocab_size: usize) -> Self {
        Self {
            text_column: config.text_column.clone(),
            tokenizer_class: config.tokenizer_class,
            on_bad_row: config.on_bad_row,
            ctx_len: config.ctx_len,
            bin_id_bytes: config.bin_dtype.id_bytes(vocab_size),
        }
    }
}
