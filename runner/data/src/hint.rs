//! The next step for the user, error by error.

use crate::DataError;
use std::path::Path;

const KNOWN_ENDINGS: &str = "known are .json, .jsonl, .ndjson, .csv, .tsv and .txt, also with \
    .gz or .zst behind, .parquet and .arrow, and a single .bin file";

impl DataError {
    /// The next step for the user, where there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
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
            Self::SplitExpression { .. } => {
                "choose documents by `max_examples` from the start, or files by `data_files`"
            }
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
            Self::NotTokenIds { .. } | Self::FieldCount { .. } | Self::DocumentTooLong { .. } => {
                "remove the row, or leave bad rows out with `on_bad_row = \"skip\"`"
            }
            Self::ColumnType { .. } => "choose another column with `text_column`",
            Self::Damaged { .. } => "is the file complete? copy or download it again",
            Self::BlockTooLong { .. } => {
                "is it a file of yours? then write it again in smaller row groups or batches"
            }
            Self::PackedColumns { .. } => "unpack it first",
            Self::OtherFormat { .. } => "choose files of one format",
            Self::PartialRow { .. } => {
                "`ctx_len` and `bin_dtype` must be those with which the file was written"
            }
            Self::NotText { .. } => "remove the line, or choose another `text_column`",
            Self::BadTokenizer { .. } => {
                "the model's folder must hold a tokenizer.json of a fast tokenizer"
            }
            Self::VocabularyMismatch { .. } => {
                "tokenizer.json and config.json belong to different models"
            }
            Self::UnknownToken { .. } => "was the data set tokenised for another model?",
            Self::NoDocuments { .. } | Self::TooLittleText { .. } => {
                "give more text, or lower ctx_len"
            }
            Self::NoTokens { .. } => "run the sweep again, which makes it anew",
            Self::DatasetChanged { .. } => "run again when the files are complete",
            Self::TooFewSequences { .. } => {
                "lower batch_size, raise max_examples, give more text, or start fewer ranks"
            }
            Self::MoreRanksThanSequences { .. } => {
                "start fewer ranks: jobs keep the batches that they were begun with"
            }
            _ => return None,
        };
        Some(hint)
    }
}

fn choose_hint(found: &[String]) -> String {
    format!("choose one of `{}`", found.join("`, `"))
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
    if found.is_empty() {
        return "the line has no columns at all".into();
    }
    if column == "input_ids" {
        return "every file of a tokenised data set must have `input_ids`".into();
    }
    format!("set `text_column` to one of `{}`", found.join("`, `"))
}
