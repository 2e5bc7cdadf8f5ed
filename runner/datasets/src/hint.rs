//! The next step for the user, error by error.

use crate::DataError;
use crate::ID_COLUMN;
use fault::Remedy;
use std::path::Path;

const KNOWN_ENDINGS: &str = "known are .json, .jsonl, .ndjson, .csv, .tsv and .txt, also packed with gzip, \
    Zstandard, bzip2 or xz, .parquet and .arrow, and a single .bin file";

const BAD_ROW_HINT: &str = "remove the row, or leave bad rows out with `on_bad_row = \"skip\"`";

impl DataError {
    /// Whether another `text_column` may be what is missing.
    pub fn is_about_column(&self) -> bool {
        matches!(
            self,
            Self::MissingColumn { .. }
                | Self::NoColumn { .. }
                | Self::NotText { .. }
                | Self::ColumnType { .. }
        )
    }

    /// Whether another `tokenizer_class` may be what is missing.
    pub fn is_about_tokenizer_class(&self) -> bool {
        matches!(self, Self::ForeignTokenizer { .. })
    }

    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Fault(fault) => return fault.hint(),
            Self::Io { source, .. } if files::is_lfs_pointer(source) => files::LFS_HINT.into(),
            Self::Io { action, path, .. } => io_hint(action, path).into(),
            Self::NoKnownFiles {
                script: Some(script),
                ..
            } => format!("`{script}` is a loading script, and scripts are never run"),
            Self::NotAFolder { option, .. } => format!("leave `{option}` out"),
            Self::NoSplit { found, .. }
            | Self::NoConfig { found, .. }
            | Self::ChooseConfig { found, .. } => choose_hint(found),
            Self::MissingColumn { column, found, .. } | Self::NoColumn { column, found, .. } => {
                missing_column_hint(column, found)
            }
            Self::ColumnType { column, found, .. } => match column.as_str() {
                ID_COLUMN => {
                    "`input_ids` is read wherever there is one: it must hold lists of token \
                              ids; for the text of another column, rename it"
                        .into()
                }
                column => missing_column_hint(column, found),
            },
            Self::NotText { found, .. } if !found.is_empty() => {
                format!("{BAD_ROW_HINT}, or set `text_column` to {}", one_of(found))
            }
            Self::ContextTooLong {
                model_max_length, ..
            } => format!("set ctx_len to {model_max_length} or less"),
            Self::ContextTooShort { n_added, .. } => {
                format!("set ctx_len to {} or more", n_added + 1)
            }
            Self::RowLength { got, .. } => format!(
                "set ctx_len to {got}; where rows differ in length, `on_bad_row = \"skip\"` leaves \
                 the others out"
            ),
            Self::TooFewSequences { .. } => too_few_hint(self)?,
            other => return other.hint_without_names().map(str::to_owned),
        };
        Some(hint)
    }

    /// What is the same for every error of a kind.
    fn hint_without_names(&self) -> Option<&'static str> {
        let hint = match self {
            Self::NoDataset { .. } => "`dataset` takes a file, a folder of files or a pattern",
            Self::UnknownFormat { .. }
            | Self::ForeignFormat { .. }
            | Self::NoKnownFiles { script: None, .. } => KNOWN_ENDINGS,
            Self::BadSplit { .. } => {
                "write a name, rows of it such as `train[:1000]` or `train[10%:20%]`, or several of these \
                 with `+` between"
            }
            Self::TooFewRowsToSplit { .. } => "leave `(pct1_dropremainder)` out",
            Self::BadCard { .. } => "mend README.md, or name the files by `data_files`",
            Self::BadPattern { .. } => {
                "patterns begin at the root of the data set, and `**` stands between slashes"
            }
            Self::NoMatch { .. } => {
                "names begin at the root of the data set; all of a folder is `folder/**`"
            }
            Self::MixedFormats { .. } => {
                "name files of one format by `data_files`, such as `*.jsonl`"
            }
            Self::OddName { .. } => "rename it",
            Self::BadSaved { .. } | Self::OutsideFolder { .. } => {
                "save the data set again by `save_to_disk`"
            }
            Self::NotJson { .. } => {
                "write one JSON object a line, such as {\"text\": \"...\"}, to a .jsonl file"
            }
            Self::NotUtf8 { .. } => "convert the file to UTF-8",
            Self::NotText { .. }
            | Self::NotTokenIds { .. }
            | Self::FieldCount { .. }
            | Self::DocumentTooLong { .. } => BAD_ROW_HINT,
            Self::Damaged { .. } => "is the file complete? copy or download it again",
            Self::BlockTooLong { .. } => {
                "is it a file of yours? then write it again in smaller row groups or batches"
            }
            Self::PackedColumns { .. } => "unpack it first",
            Self::ForeignPacking { .. } => {
                "unpack it, or pack it with gzip, Zstandard, bzip2 or xz"
            }
            Self::OtherFormat { .. } => "choose files of one format",
            Self::PartialRow { .. } => {
                "`ctx_len` and `bin_dtype` must be those with which the file was written"
            }
            Self::BadTokenizer { .. } => {
                "the model's folder must hold a tokenizer.json of a fast tokenizer"
            }
            Self::ForeignTokenizer { .. } => {
                "`tokenizer_class = \"file\"` takes tokenizer.json as it is"
            }
            Self::VocabularyMismatch { .. } => {
                "tokenizer.json and config.json belong to different models"
            }
            Self::UnknownToken { .. } => "was the data set tokenised for another model?",
            Self::NoDocuments { .. } => "give more text, or take more rows with `split`",
            Self::TooLittleText { .. } => "give more text, or lower ctx_len",
            Self::NoTokens { .. } => "run the sweep again, which makes it anew",
            Self::DatasetChanged { .. } => "run again when the files are complete",
            Self::MoreRanksThanSequences { .. } => {
                "start fewer ranks: jobs keep the batches that they were begun with"
            }
            _ => return None,
        };
        Some(hint)
    }
}

/// Each way that leads to a batch from these numbers.
fn too_few_hint(error: &DataError) -> Option<String> {
    let DataError::TooFewSequences {
        n_sequences,
        n_usable,
        n_selected,
        batch_size,
        pass_size,
        n_ranks,
    } = *error
    else {
        return None;
    };
    let (wanted, n_of_rank) = (batch_size as u64, n_selected / n_ranks.max(1) as u64);
    // More than the processes make by themselves.
    let is_given = batch_size > n_ranks * pass_size;
    let ways = [
        is_given.then(|| "lower tokens_per_update".to_owned()),
        (!is_given && n_of_rank > 0).then(|| format!("lower batch_size to {n_of_rank} or less")),
        (!is_given && n_ranks > 1).then(|| "start fewer ranks".to_owned()),
        (n_usable >= wanted).then(|| format!("raise max_examples to {wanted} or more")),
        (n_usable < wanted).then(|| "give more text".to_owned()),
        (n_usable < wanted && n_sequences >= wanted).then(|| "lower eval_fraction".to_owned()),
    ];
    Some(ways.into_iter().flatten().collect::<Vec<_>>().join(", or "))
}

fn choose_hint(found: &[String]) -> String {
    format!("choose {}", one_of(found))
}

fn one_of(names: &[String]) -> String {
    format!("one of `{}`", names.join("`, `"))
}

fn io_hint(action: &str, path: &Path) -> &'static str {
    let is_tokenizer = path.ends_with("tokenizer.json");
    match action {
        "create" | "write" | "lock" | "sync" => {
            "can the cache folder be written, and is there space? `SAE_RUN_CACHE` names another"
        }
        "find" if is_tokenizer => "the model's folder must hold a tokenizer.json",
        _ => "is the file there, and may you read it?",
    }
}

fn missing_column_hint(column: &str, found: &[String]) -> String {
    if column == ID_COLUMN {
        return "every file of a tokenised data set must have `input_ids`".into();
    }
    if found.is_empty() {
        return "text is read from a column of strings, and there is none".into();
    }
    format!("set `text_column` to {}", one_of(found))
}
