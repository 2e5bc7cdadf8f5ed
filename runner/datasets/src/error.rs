//! What can be wrong with data, as the user can mend it.

use crate::ID_COLUMN;
use fault::Fault;
use std::path::PathBuf;
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
    /// Anything else.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The caller stopped the work.
    #[error("tokenising was stopped")]
    Stopped,
    /// A data set that does not exist.
    #[error("data set `{}` does not exist", path.display())]
    NoDataset {
        /// The path as given.
        path: PathBuf,
    },
    /// A file of no known format by its name.
    #[error("data set `{}` is a file of no known format", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// Part of a data set where a whole one is needed.
    #[error("data set `{}` is {kind}, which has no `{option}`", path.display())]
    NotAFolder {
        /// The path as given.
        path: PathBuf,
        /// What it is, such as `a file`.
        kind: &'static str,
        /// What was asked of it.
        option: &'static str,
    },
    /// A split that is neither a name nor an expression of parts.
    #[error("split `{split}` cannot be read: {problem}")]
    BadSplit {
        /// As given.
        split: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Hundredths of equal length of fewer rows than there are hundredths.
    #[error(
        "data set `{dataset}` has fewer than 100 rows in a split, too few for `pct1_dropremainder`"
    )]
    TooFewRowsToSplit {
        /// The data set.
        dataset: String,
    },
    /// A split that the data set does not have.
    #[error("data set `{dataset}` has no split `{split}`")]
    NoSplit {
        /// The data set.
        dataset: String,
        /// The split asked for.
        split: String,
        /// The splits that are there.
        found: Vec<String>,
    },
    /// A configuration that the data set does not have.
    #[error("data set `{dataset}` has no configuration `{config}`")]
    NoConfig {
        /// The data set.
        dataset: String,
        /// The configuration asked for.
        config: String,
        /// The configurations that are there.
        found: Vec<String>,
    },
    /// Several configurations, of which none is the default.
    #[error("data set `{dataset}` has several configurations")]
    ChooseConfig {
        /// The data set.
        dataset: String,
        /// The configurations.
        found: Vec<String>,
    },
    /// A README.md whose front matter cannot be used.
    #[error("cannot use the front matter of README.md of data set `{dataset}`")]
    BadCard {
        /// The data set.
        dataset: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pattern that means nothing, or leads out of the data set.
    #[error("`{pattern}` is no name or pattern of files in a data set")]
    BadPattern {
        /// As given.
        pattern: String,
    },
    /// A name or pattern without a file.
    #[error("data set `{dataset}` has no data file `{pattern}`")]
    NoMatch {
        /// The data set.
        dataset: String,
        /// The name or pattern.
        pattern: String,
    },
    /// A data set without a file that could be read.
    #[error("data set `{dataset}` has no file of a known format{}", but_has(found))]
    NoKnownFiles {
        /// The data set.
        dataset: String,
        /// Some of its files.
        found: Vec<String>,
        /// Its loading script, where it has one.
        script: Option<String>,
    },
    /// Files of a format that only others read.
    #[error("data set `{dataset}` has {format} files, which are not read")]
    ForeignFormat {
        /// The data set.
        dataset: String,
        /// The ending or the format.
        format: String,
    },
    /// A file whose name says that it is something else than most.
    #[error("`{name}` of data set `{dataset}` is not {format} by its name, as other files are")]
    MixedFormats {
        /// The data set.
        dataset: String,
        /// The file.
        name: String,
        /// The format of the others.
        format: String,
    },
    /// A name that cannot be compared with patterns.
    #[error("the name of `{}` is not UTF-8", path.display())]
    OddName {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file of Python's `save_to_disk` that is damaged.
    #[error("`{}` is not as `save_to_disk` writes it", path.display())]
    BadSaved {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A file of Python's `save_to_disk` that leads out of its folder.
    #[error("`{}` names `{name}`, which is no file beside it", path.display())]
    OutsideFolder {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
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
        /// Why it cannot be read.
        source: serde_json::Error,
    },
    /// A line without the text column.
    #[error("{}:{line}: no column `{column}`", path.display())]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The line, or the row of a columnar file, from 1.
        line: u64,
        /// The column asked for.
        column: String,
        /// The columns that hold text.
        found: Vec<String>,
    },
    /// A text column that holds something else.
    #[error("{}:{line}: column `{column}` holds {got}, not a string", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The line, or the row of a columnar file, from 1.
        line: u64,
        /// The column asked for.
        column: String,
        /// The type of what is there.
        got: &'static str,
        /// Columns of the row that hold text.
        found: Vec<String>,
    },
    /// An `input_ids` column that holds something else.
    #[error(
        "{}:{line}: column `{column}` holds {got}, not a list of token ids from 0 to 4294967295",
        path.display()
    )]
    NotTokenIds {
        /// The file.
        path: PathBuf,
        /// The line, or the row of a columnar file, from 1.
        line: u64,
        /// The column.
        column: String,
        /// What is there.
        got: String,
    },
    /// A CSV record with too many fields.
    #[error("{}:{line}: {got} fields, where rows have {expected}", path.display())]
    FieldCount {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Fields of the header, or of the first row where that has more.
        expected: usize,
        /// Fields of the record.
        got: usize,
    },
    /// A document too long to be held in memory.
    #[error("{}:{line}: longer than {} MiB", path.display(), limit_bytes >> 20)]
    DocumentTooLong {
        /// The file.
        path: PathBuf,
        /// The line, or the row of a columnar file, from 1.
        line: u64,
        /// The longest that is read.
        limit_bytes: usize,
    },
    /// A file none of whose rows has the column.
    #[error("`{}` has no column `{column}`", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns that hold text.
        found: Vec<String>,
    },
    /// A column whose type does not fit, by the schema of the file.
    #[error("column `{column}` of `{}` holds {got}, not {}", path.display(), wanted(column))]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// Its type.
        got: String,
        /// Columns of the file that hold text.
        found: Box<[String]>,
    },
    /// A file that is damaged or cut short.
    #[error("`{}` is no readable {format} file", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part of a Parquet or Arrow file that takes more memory than it is given.
    #[error(
        "`{}` has a block that is or may be {n_bytes} bytes long once unpacked; at most {} MiB are read",
        path.display(),
        limit_bytes >> 20
    )]
    BlockTooLong {
        /// The file.
        path: PathBuf,
        /// What it is.
        format: &'static str,
        /// Length of the block, as the file has it or can have it at most.
        n_bytes: u64,
        /// The longest that is read.
        limit_bytes: u64,
    },
    /// A file that is packed in a way that is not read.
    #[error("`{}` is packed with {packing}, which is not read", path.display())]
    ForeignPacking {
        /// The file.
        path: PathBuf,
        /// What it is packed with.
        packing: &'static str,
    },
    /// A Parquet or Arrow file that is packed once more.
    #[error("`{}` is a packed {format} file, which cannot be read in place", path.display())]
    PackedColumns {
        /// The file.
        path: PathBuf,
        /// What is inside.
        format: &'static str,
    },
    /// A file of another format than the first of the data set.
    #[error("`{}` is {got}, but `{}` is {first}", path.display(), first_path.display())]
    OtherFormat {
        /// The odd file.
        path: PathBuf,
        /// Its format.
        got: &'static str,
        /// The first file of the data set.
        first_path: PathBuf,
        /// The format of the first file.
        first: &'static str,
    },
    /// A file of token ids that is not made of whole rows.
    #[error(
        "`{}` has {n_bytes} bytes, which is not a multiple of {n_row_bytes} ({ctx_len} ids of \
         {n_id_bytes} bytes): {n_rest_bytes} are left over",
        path.display()
    )]
    PartialRow {
        /// The file.
        path: PathBuf,
        /// Its length, unpacked.
        n_bytes: u64,
        /// Length of a row.
        n_row_bytes: u64,
        /// What the last row has.
        n_rest_bytes: u64,
        /// Ids of a row.
        ctx_len: usize,
        /// Width of an id, in bytes.
        n_id_bytes: usize,
    },
    /// A tokenizer that cannot be loaded.
    #[error("cannot load the tokenizer `{}`", path.display())]
    BadTokenizer {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A class of tokenizers that makes other tokens than tokenizer.json says, in ways that are not known.
    #[error("`{}` names `{class}`, a tokenizer class that is not built in", path.display())]
    ForeignTokenizer {
        /// The configuration that names it.
        path: PathBuf,
        /// Its name in transformers.
        class: String,
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
    /// A token of a data set of token ids that the model has no embedding for.
    #[error("data set `{name}` has token {token_id}, but the model's vocab_size is {vocab_size}")]
    UnknownToken {
        /// The largest token id of the offending rows.
        token_id: u32,
        /// Number of rows of the model's embedding.
        vocab_size: usize,
        /// The data set.
        name: String,
    },
    /// A row of token ids that is not one sequence.
    #[error("row {row} of data set `{name}` has {got} token ids; ctx_len is {ctx_len}")]
    RowLength {
        /// The data set.
        name: String,
        /// The row, from 1.
        row: u64,
        /// Its token ids.
        got: usize,
        /// Length of a sequence, in tokens.
        ctx_len: usize,
    },
    /// Token ids where text is needed.
    #[error("data set `{name}` holds token ids, not text")]
    AlreadyTokenised {
        /// The data set.
        name: String,
    },
    /// Text among token ids.
    #[error("data set `{name}` holds text where its first file holds token ids")]
    NotTokenised {
        /// The data set.
        name: String,
    },
    /// A data set without documents.
    #[error("data set `{name}` has no documents{}", skipped(*n_skipped, first_skipped.as_deref()))]
    NoDocuments {
        /// The data set.
        name: String,
        /// Bad rows that were left out.
        n_skipped: u64,
        /// What is wrong with the first of them.
        first_skipped: Option<String>,
    },
    /// Less text than one sequence.
    #[error(
        "{n_documents} documents of `{name}` are {n_tokens} tokens, which give no sequence of \
         ctx_len = {ctx_len}"
    )]
    TooLittleText {
        /// The data set.
        name: String,
        /// Its documents.
        n_documents: u64,
        /// Their tokens, separators included.
        n_tokens: u64,
        /// Length of a sequence, in tokens.
        ctx_len: usize,
    },
    /// A data set that changed while it was read.
    #[error("data set `{name}` or its tokenizer changed while it was tokenised")]
    DatasetChanged {
        /// The data set.
        name: String,
    },
    /// Token data that should have been made before.
    #[error("the token data `{}` cannot be used: {problem}", path.display())]
    NoTokens {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Processes that would have nothing to train on.
    #[error("{n_ranks} ranks are more than the {batch_size} sequences of a batch")]
    MoreRanksThanSequences {
        /// Processes.
        n_ranks: usize,
        /// Sequences of a batch, over all of them.
        batch_size: usize,
    },
    /// Fewer sequences than one batch.
    #[error("{n_selected} of {n_sequences} sequences do not fill one batch of {batch_size}")]
    TooFewSequences {
        /// Sequences of the data set.
        n_sequences: u64,
        /// Those that are not held out.
        n_usable: u64,
        /// Of these, those that `max_examples` leaves.
        n_selected: u64,
        /// Sequences in a batch, of all processes together.
        batch_size: usize,
        /// Sequences of it in one forward pass of one process.
        pass_size: usize,
        /// Processes.
        n_ranks: usize,
    },
}

impl DataError {
    /// A file or folder that cannot be used.
    pub fn io(
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

fn skipped(n_skipped: u64, first: Option<&str>) -> String {
    match first {
        Some(first) => format!(": all {n_skipped} rows are bad, the first one because {first}"),
        None => String::new(),
    }
}

fn wanted(column: &str) -> &'static str {
    match column {
        ID_COLUMN => "lists of integers",
        _ => "text",
    }
}

fn but_has(found: &[String]) -> String {
    if found.is_empty() {
        return String::new();
    }
    format!(", but has `{}`", found.join("`, `"))
}
