//! What token data is made from.

use plan::{DataFiles, RowSpec};
use std::path::PathBuf;

/// Everything that token data depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSpec {
    /// The files of the data set.
    pub files: DataFiles,
    /// How their rows are read, and the length of a sequence.
    pub rows: RowSpec,
    /// Folder with tokenizer.json and tokenizer_config.json; a data set of token ids needs none.
    pub tokenizer_dir: PathBuf,
    /// Number of rows of the model's embedding; a larger token id is an error.
    pub vocab_size: usize,
}
