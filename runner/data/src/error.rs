//! What can be wrong with data, as the user can mend it.

use std::path::{Path, PathBuf};
use thiserror::Error;

/// Data that cannot be used.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file or folder that cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The caller stopped the work.
    #[error("tokenising was stopped")]
    Stopped,
    /// A data set that does not exist.
    #[error("data set `{}` does not exist", path.display())]
    NoDataset {
        /// The path as given.
        path: PathBuf,
    },
    /// A file that is not JSON lines by its name.
    #[error("data set `{}` is neither a folder nor a .jsonl or .json file", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A folder without data files.
    #[error("folder `{}` holds no .jsonl or .json file", path.display())]
    NoDataFiles {
        /// The folder.
        path: PathBuf,
    },
    /// Bytes that are not text.
    #[error("{}:{line}: not UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// A line that is not a JSON object.
    #[error("{}:{line}: not a JSON object", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Why it is none.
        source: serde_json::Error,
    },
    /// A line without the text column.
    #[error("{}:{line}: no column `{column}`", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column asked for.
        column: String,
        /// The columns that are there.
        found: Vec<String>,
    },
    /// A text column that holds something else.
    #[error("{}:{line}: column `{column}` holds {got}, not a string", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column asked for.
        column: String,
        /// The type of what is there.
        got: &'static str,
    },
    /// A tokenizer that cannot be loaded.
    #[error("cannot load the tokenizer `{}`", path.display())]
    BadTokenizer {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A tokenizer that adds tokens other than in front and at the end.
    #[error("the post-processor of `{}` does not keep a sequence in one piece", path.display())]
    OddPostProcessor {
        /// Its file.
        path: PathBuf,
    },
    /// Text the tokenizer fails on.
    #[error("`{}` fails on documents from number {first_document} on", path.display())]
    Tokenize {
        /// The tokenizer's file.
        path: PathBuf,
        /// Number of the first document, from 0.
        first_document: u64,
        /// Why it fails.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A context longer than the tokenizer's model takes.
    #[error(
        "ctx_len = {ctx_len} is longer than the model_max_length = {model_max_length} of `{}`",
        path.display()
    )]
    ContextTooLong {
        /// Asked for, in tokens.
        ctx_len: usize,
        /// The tokenizer's limit, in tokens.
        model_max_length: usize,
        /// The tokenizer's configuration.
        path: PathBuf,
    },
    /// A context that the tokenizer's own tokens fill.
    #[error("ctx_len = {ctx_len} leaves no room for text: `{}` adds {n_added} tokens", path.display())]
    ContextTooShort {
        /// Asked for, in tokens.
        ctx_len: usize,
        /// Tokens added to every sequence.
        n_added: usize,
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// A token the model has no embedding for.
    #[error(
        "`{}` gives token {token_id} (`{token}`), but the model's vocab_size is {vocab_size}",
        path.display()
    )]
    VocabularyMismatch {
        /// The largest token id of the offending documents.
        token_id: u32,
        /// Its text.
        token: String,
        /// Number of rows of the model's embedding.
        vocab_size: usize,
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// A data set without documents.
    #[error("data set `{}` has no documents", path.display())]
    NoDocuments {
        /// The data set.
        path: PathBuf,
    },
    /// Less text than one sequence.
    #[error(
        "{n_documents} documents of `{}` are {n_tokens} tokens, which give no sequence of \
         ctx_len = {ctx_len}",
        path.display()
    )]
    TooLittleText {
        /// The data set.
        path: PathBuf,
        /// Its documents.
        n_documents: u64,
        /// Their tokens, separators included.
        n_tokens: u64,
        /// Length of a sequence, in tokens.
        ctx_len: usize,
    },
    /// A data set that changed while it was read.
    #[error("data set `{}` or its tokenizer changed while it was tokenised", path.display())]
    DatasetChanged {
        /// The data set.
        path: PathBuf,
    },
    /// Fewer sequences than one batch.
    #[error("{n_selected} of {n_sequences} sequences do not fill one batch of {batch_size}")]
    TooFewSequences {
        /// Sequences of the data set.
        n_sequences: usize,
        /// Those left by max_examples.
        n_selected: usize,
        /// Sequences in a batch.
        batch_size: usize,
    },
}

impl DataError {
    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { action, path, .. } => Some(io_hint(action, path)),
            Self::NoDataset { .. } => {
                Some("`dataset` takes a JSON lines file, or a folder of such files".into())
            }
            Self::UnknownFormat { .. } | Self::NoDataFiles { .. } | Self::NotJson { .. } => Some(
                "write one JSON object a line, such as {\"text\": \"...\"}, to a .jsonl file"
                    .into(),
            ),
            Self::NotUtf8 { .. } => Some("convert the file to UTF-8".into()),
            Self::MissingColumn { found, .. } => Some(missing_column_hint(found)),
            Self::NotText { .. } => Some("remove the line, or choose another `text_column`".into()),
            Self::BadTokenizer { .. } => {
                Some("the model's folder must hold a tokenizer.json of a fast tokenizer".into())
            }
            Self::OddPostProcessor { .. } | Self::Tokenize { .. } | Self::Stopped => None,
            Self::ContextTooLong {
                model_max_length, ..
            } => Some(format!("set ctx_len to {model_max_length} or less")),
            Self::ContextTooShort { n_added, .. } => {
                Some(format!("set ctx_len to {} or more", n_added + 1))
            }
            Self::VocabularyMismatch { .. } => {
                Some("tokenizer.json and config.json belong to different models".into())
            }
            Self::NoDocuments { .. } | Self::TooLittleText { .. } => {
                Some("give more text, or lower ctx_len".into())
            }
            Self::DatasetChanged { .. } => Some("run again when the files are complete".into()),
            Self::TooFewSequences { .. } => {
                Some("lower batch_size, raise max_examples or give more text".into())
            }
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

fn io_hint(action: &str, path: &Path) -> String {
    let is_tokenizer = path.ends_with("tokenizer.json");
    match action {
        "create" | "write" | "lock" | "sync" => {
            "can the cache folder be written, and is there space? `SAE_RUN_CACHE` names another"
        }
        "find" if is_tokenizer => "the model's folder must hold a tokenizer.json",
        _ => "is the file there, and may you read it?",
    }
    .into()
}

fn missing_column_hint(found: &[String]) -> String {
    if found.is_empty() {
        return "the line has no columns at all".into();
    }
    format!("set `text_column` to one of `{}`", found.join("`, `"))
}
