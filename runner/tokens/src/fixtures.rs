//! What the tests of this crate share.

use crate::TokenSpec;
use datasets::{Documents, find_files};
pub(crate) use files::testing::{fixture, folder_with};
use plan::{DataFiles, RowSpec};
use plan::{DatasetRequest, OnBadRow, TokenizerClass};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use tempfile::TempDir;

/// The golden values of `tests/fixtures/golden/tokens.json`.
pub(crate) fn golden() -> Value {
    let text = std::fs::read_to_string(fixture("golden/tokens.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The tiny text with the tiny model's tokenizer, in sequences of 64 tokens.
pub(crate) fn tiny_spec() -> TokenSpec {
    TokenSpec {
        files: data_files(&fixture("tiny.jsonl")),
        rows: text_rows(64),
        tokenizer_dir: fixture("tiny-llama"),
        vocab_size: 300,
    }
}

/// The files of the data set at `path`.
pub(crate) fn data_files(path: &Path) -> DataFiles {
    find_files(path, &DatasetRequest::default()).unwrap()
}

/// Rows with the column `text`.
pub(crate) fn text_rows(ctx_len: usize) -> RowSpec {
    RowSpec {
        text_column: "text".into(),
        tokenizer_class: TokenizerClass::File,
        on_bad_row: OnBadRow::Fail,
        ctx_len,
        bin_id_bytes: 2,
    }
}

/// The documents of the data set at `path`, of which the column `text` is read.
pub(crate) fn documents(path: &Path) -> Documents {
    Documents::open(data_files(path), text_rows(64)).unwrap()
}

/// A temporary folder with one data set of `texts`, `data.jsonl`.
pub(crate) fn dataset_of(texts: impl IntoIterator<Item = String>) -> TempDir {
    let line = |text| format!("{}\n", serde_json::json!({ "text": text }));
    let content: String = texts.into_iter().map(line).collect();
    folder_with(&[("data.jsonl", content.as_bytes())])
}

/// The documents of the golden `many_documents`: more than two batches.
pub(crate) fn many_documents() -> impl Iterator<Item = String> {
    (0..4500).map(|i| format!("Document {i}: {}", "é whale ".repeat(i % 5)))
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: impl IntoIterator<Item = u8>) -> String {
    let bytes: Vec<u8> = bytes.into_iter().collect();
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
