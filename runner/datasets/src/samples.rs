//! Small data sets for the tests of the readers.

use super::{Document, Documents};
use crate::DatasetError;
use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use files::testing::folder_with;
use plan::{DataFile, DataFiles, Format, OnBadRow, RowSpec, TokenizerClass};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// A data set in a folder that lives as long as this.
pub(super) struct Sample {
    _folder: TempDir,
    pub(super) files: DataFiles,
    pub(super) spec: RowSpec,
}

impl Sample {
    /// Files of the given names and contents; the names' endings tell what they are.
    pub(super) fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = folder_with(files);
        let files = files.iter().map(|(name, _)| file_at(folder.path(), name));
        Self {
            files: DataFiles {
                name: "sample".into(),
                files: files.collect(),
                parts: Vec::new(),
            },
            _folder: folder,
            spec: RowSpec {
                text_column: "text".into(),
                tokenizer_class: TokenizerClass::File,
                on_bad_row: OnBadRow::Fail,
                ctx_len: 3,
                bin_id_bytes: 2,
            },
        }
    }

    pub(super) fn text_column(mut self, name: &str) -> Self {
        self.spec.text_column = name.into();
        self
    }

    /// The rows that the expression takes of the train split, which all files are.
    pub(super) fn split(mut self, expression: &str) -> Self {
        let parts = plan::SplitPart::parse(expression).unwrap();
        let files = std::mem::take(&mut self.files.files);
        for part in 0..parts.len() {
            let files = files.iter().cloned();
            let files = files.map(|file| DataFile { part, ..file });
            self.files.files.extend(files);
        }
        self.files.parts = parts.into_iter().map(|part| part.rows).collect();
        self
    }

    pub(super) fn skip(mut self) -> Self {
        self.spec.on_bad_row = OnBadRow::Skip;
        self
    }

    pub(super) fn open(&self) -> Result<Documents, DatasetError> {
        Documents::open(self.files.clone(), self.spec.clone())
    }

    pub(super) fn texts(&self) -> Result<Vec<String>, DatasetError> {
        self.open()?
            .map(|document| match document? {
                Document::Text(text) => Ok(text),
                Document::TokenIds(ids) => panic!("{ids:?} is no text"),
            })
            .collect()
    }

    pub(super) fn token_ids(&self) -> Result<Vec<Vec<u32>>, DatasetError> {
        self.open()?
            .map(|document| match document? {
                Document::TokenIds(ids) => Ok(ids),
                Document::Text(text) => panic!("{text:?} is no list of ids"),
            })
            .collect()
    }

    /// The error this data set ends with.
    pub(super) fn error(&self) -> DatasetError {
        let documents = match self.open() {
            Ok(documents) => documents,
            Err(error) => return error,
        };
        documents
            .filter_map(Result::err)
            .next()
            .expect("the data set should have an error")
    }
}

/// The texts of one file.
pub(super) fn texts(name: &str, content: &[u8]) -> Result<Vec<String>, DatasetError> {
    Sample::new(&[(name, content)]).texts()
}

/// Asserts the error of one file: its message from the file's name on.
#[track_caller]
pub(super) fn assert_error(name: &str, content: &[u8], message: &str) {
    assert_ends(&Sample::new(&[(name, content)]).error(), message);
}

#[track_caller]
pub(super) fn assert_ends(error: &DatasetError, message: &str) {
    assert!(error.to_string().contains(message), "{error}");
}

/// Asserts that the file `name`, or one of that format, is not readable.
#[track_caller]
pub(super) fn assert_damaged(error: &DatasetError, name: &str) {
    assert_ends(error, "` is not a readable ");
    assert_ends(error, name);
}

pub(super) fn gzipped(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstandard(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn bzip2ed(content: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn file_at(folder: &Path, name: &str) -> DataFile {
    let format = name.split('.').skip(1).find_map(|ending| match ending {
        "csv" => Some(Format::Csv),
        "tsv" => Some(Format::Tsv),
        "txt" => Some(Format::Text),
        "parquet" => Some(Format::Parquet),
        "arrow" => Some(Format::Arrow),
        "bin" => Some(Format::Bin),
        _ => None,
    });
    DataFile {
        path: folder.join(name),
        format: format.unwrap_or(Format::Json),
        part: 0,
        content_hash: None,
    }
}

/// A batch of nullable columns.
pub(super) fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// Texts that compress well, and have a dictionary in Parquet.
pub(super) fn text_batch(n_rows: usize) -> RecordBatch {
    let texts = (0..n_rows).map(|row| format!("document {} of the sample", row % 7));
    batch_of(vec![
        ("id", Arc::new(Int32Array::from_iter(0..n_rows as i32))),
        ("text", Arc::new(StringArray::from_iter_values(texts))),
    ])
}

pub(super) fn as_parquet(
    batch: &RecordBatch,
    compression: ::parquet::basic::Compression,
) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(100))
        .build();
    let mut content = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut content, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    content
}

/// The stream format, with two batches if there are two rows.
pub(super) fn as_arrow_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    let half = batch.num_rows() / 2;
    writer.write(&batch.slice(0, half)).unwrap();
    writer
        .write(&batch.slice(half, batch.num_rows() - half))
        .unwrap();
    writer.into_inner().unwrap()
}

pub(super) fn as_arrow_file(batch: &RecordBatch, options: IpcWriteOptions) -> Vec<u8> {
    let mut writer =
        FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}
