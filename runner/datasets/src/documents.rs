//! The documents of a data set, whatever its format.

use super::bin::BinRows;
use super::csv::CsvRows;
use super::document::Document;
use super::json::{self, JsonRows};
use super::rows::{Column, ID_COLUMN, ReadRows, RowError};
use super::slice::Slice;
use super::text::TextRows;
use super::{arrow, parquet};
use crate::DatasetError;
use fault::Fault;
use plan::{DataFile, DataFiles, Format, OnBadRow, RowRange, RowSpec};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The file that is read.
struct Current {
    rows: Box<dyn ReadRows>,
    file: DataFile,
    n_bytes: u64,
}

/// The documents of a data set, one after the other.
///
/// A data set whose first file has a column `input_ids`, as sparsify has it, or is a `.bin` file is
/// tokenised: its documents are token ids. Those of all others are text. Rows longer than
/// [`MAX_DOCUMENT_BYTES`](super::MAX_DOCUMENT_BYTES) are bad rows. The iterator ends after its first
/// error. A damaged Parquet or Arrow file may ask for any amount of memory: the caller must set a limit.
pub struct Documents {
    name: String,
    spec: RowSpec,
    column: Column,
    files: std::vec::IntoIter<(DataFile, u64)>,
    n_files: usize,
    parts: Vec<RowRange>,
    /// `None`: the rows of the current file's part are still to be found.
    slice: Option<Slice>,
    current: Option<Current>,
    file_idx: Arc<AtomicUsize>,
    n_bytes_done: u64,
    n_bytes_total: u64,
    n_skipped: u64,
    first_skipped: Option<String>,
}

impl Documents {
    /// Opens the first file, and finds out whether the data set is tokenised.
    ///
    /// # Errors
    /// A file that does not exist or has another format than the first; a first file that cannot be
    /// read, or whose schema lacks the column.
    pub fn open(files: DataFiles, spec: RowSpec) -> Result<Self, DatasetError> {
        Self::open_telling(files, spec, Arc::default())
    }

    /// The same; `file_idx` is always the index of the file that is read.
    ///
    /// # Errors
    /// As [`Documents::open`].
    pub fn open_telling(
        files: DataFiles,
        spec: RowSpec,
        file_idx: Arc<AtomicUsize>,
    ) -> Result<Self, DatasetError> {
        check_formats(&files.files)?;
        let column = if are_tokenised(&files.files)? {
            Column::token_ids()
        } else {
            Column::text(&spec.text_column)
        };
        let sized = files.files.into_iter().map(with_n_bytes);
        let sized = sized.collect::<Result<Vec<_>, _>>()?;
        let mut documents = Self {
            name: files.name,
            spec,
            column,
            n_bytes_total: sized.iter().map(|(_, n_bytes)| n_bytes).sum(),
            n_files: sized.len(),
            files: sized.into_iter(),
            slice: files.parts.is_empty().then(Slice::default),
            parts: files.parts,
            current: None,
            file_idx,
            n_bytes_done: 0,
            n_skipped: 0,
            first_skipped: None,
        };
        documents.open_next_file()?;
        Ok(documents)
    }

    /// Whether the rows are token ids.
    pub fn are_tokenised(&self) -> bool {
        self.column.holds_ids
    }

    /// The data set, as the user calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes read so far of the files as stored on disk; an estimate within a Parquet file.
    pub fn n_bytes_read(&self) -> u64 {
        let current = self.current.as_ref();
        let of_current = current.map_or(0, |current| {
            current.rows.n_bytes_read().min(current.n_bytes)
        });
        self.n_bytes_done + of_current
    }

    /// Bytes of all files as stored on disk.
    pub fn n_bytes_total(&self) -> u64 {
        self.n_bytes_total
    }

    /// Bad rows that were left out.
    pub fn n_skipped(&self) -> u64 {
        self.n_skipped
    }

    /// What was wrong with the first row that was left out.
    pub fn first_skipped(&self) -> Option<&str> {
        self.first_skipped.as_deref()
    }

    /// Opens the next file; false after the last.
    fn open_next_file(&mut self) -> Result<bool, DatasetError> {
        let Some((file, n_bytes)) = self.files.next() else {
            return Ok(false);
        };
        self.file_idx
            .store(self.n_files - self.files.len() - 1, Ordering::Relaxed);
        let rows = open_rows(&file, n_bytes, &self.column, &self.spec)?;
        self.current = Some(Current {
            rows,
            file,
            n_bytes,
        });
        Ok(true)
    }

    /// Finds out which rows are taken of the current file's part, if it is the part's first file. Their number
    /// may have to be counted, so that this is not done when files are only looked at.
    fn enter_part(&mut self) -> Result<(), DatasetError> {
        let Some(Current { file, n_bytes, .. }) = &self.current else {
            return Ok(());
        };
        let part = file.part;
        let range = match self.parts.get(part) {
            Some(range) if self.slice.as_ref().is_none_or(|slice| slice.part != part) => range,
            _ => return Ok(()),
        };
        let others = self.files.as_slice().iter();
        let others = others.take_while(|(file, _)| file.part == part);
        let files = [(file, n_bytes)].into_iter();
        let mut files = files.chain(others.map(|(file, n_bytes)| (file, n_bytes)));
        let slice = Slice::new(part, range, || {
            files.try_fold(0, |n_rows, (file, n_bytes)| {
                let rows = open_rows(file, *n_bytes, &self.column, &self.spec)?;
                Ok::<_, DatasetError>(n_rows + count_rows(rows)?)
            })
        })?;
        let dataset = &self.name;
        let too_few = || {
            let message = format!(
                "data set `{dataset}` has fewer than 100 rows in a split, too few for `pct1_dropremainder`"
            );
            Fault::input(message).with_hint("leave `(pct1_dropremainder)` out")
        };
        self.slice = Some(slice.ok_or_else(too_few)?);
        Ok(())
    }

    fn leave_file(&mut self) {
        if let Some(current) = self.current.take() {
            self.n_bytes_done += current.n_bytes;
        }
    }

    fn next_document(&mut self) -> Result<Option<Document>, DatasetError> {
        loop {
            if self.current.is_none() && !self.open_next_file()? {
                return Ok(None);
            }
            self.enter_part()?;
            let (Some(current), Some(slice)) = (&mut self.current, &mut self.slice) else {
                return Ok(None);
            };
            if slice.is_over() {
                self.leave_file();
                continue;
            }
            match current.rows.next_row() {
                Ok(None) => self.leave_file(),
                Ok(Some(_)) | Err(RowError::Bad(_)) if !slice.takes_next() => {}
                Ok(Some(document)) => return Ok(Some(document)),
                Err(RowError::Bad(error)) if self.spec.on_bad_row == OnBadRow::Skip => {
                    self.n_skipped += 1;
                    self.first_skipped.get_or_insert_with(|| error.to_string());
                }
                Err(error) => return Err(error.into_inner()),
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let document = self.next_document();
        if document.is_err() {
            self.files = Vec::new().into_iter();
            self.current = None;
        }
        document.transpose()
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Documents")
            .field("name", &self.name)
            .field("spec", &self.spec)
            .field("column", &self.column)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn open_rows(
    file: &DataFile,
    n_bytes: u64,
    column: &Column,
    spec: &RowSpec,
) -> Result<Box<dyn ReadRows>, DatasetError> {
    Ok(match file.format {
        Format::Json => {
            check_ids(file, column)?;
            Box::new(JsonRows::open(file, column)?)
        }
        Format::Csv | Format::Tsv => Box::new(CsvRows::open(file, column)?),
        Format::Text => Box::new(TextRows::open(file, column)?),
        Format::Parquet => Box::new(parquet::open(file, column)?),
        Format::Arrow => Box::new(arrow::open(file, column)?),
        Format::Bin => Box::new(BinRows::open(file, spec, n_bytes)?),
    })
}

/// The rows of a file, bad ones among them.
fn count_rows(mut rows: Box<dyn ReadRows>) -> Result<u64, DatasetError> {
    let mut n_rows = 0;
    loop {
        match rows.next_row() {
            Ok(None) => return Ok(n_rows),
            Ok(Some(_)) | Err(RowError::Bad(_)) => n_rows += 1,
            Err(RowError::Fatal(error)) => return Err(error),
        }
    }
}

/// JSON has no schema: its first object represents the file.
fn check_ids(file: &DataFile, column: &Column) -> Result<(), DatasetError> {
    if !column.holds_ids {
        return Ok(());
    }
    match json::first_columns(file)? {
        Some(found) if !has_ids(&found) => Err(column.not_in(&file.path, found)),
        _ => Ok(()),
    }
}

/// Whether the first file that has rows holds token ids.
fn are_tokenised(files: &[DataFile]) -> Result<bool, DatasetError> {
    for file in files {
        let columns = match file.format {
            Format::Bin => return Ok(true),
            Format::Csv | Format::Tsv | Format::Text => return Ok(false),
            Format::Json => json::first_columns(file)?,
            Format::Parquet => Some(parquet::columns(file)?),
            Format::Arrow => Some(arrow::columns(file)?),
        };
        if let Some(columns) = columns {
            return Ok(has_ids(&columns));
        }
    }
    Ok(false)
}

fn has_ids(columns: &[String]) -> bool {
    columns.iter().any(|name| name == ID_COLUMN)
}

fn with_n_bytes(file: DataFile) -> Result<(DataFile, u64), DatasetError> {
    let metadata = std::fs::metadata(&file.path).map_err(DatasetError::io("read", &file.path))?;
    Ok((file, metadata.len()))
}

fn check_formats(files: &[DataFile]) -> Result<(), DatasetError> {
    let Some((first, others)) = files.split_first() else {
        return Ok(());
    };
    match others.iter().find(|file| file.format != first.format) {
        None => Ok(()),
        Some(odd) => {
            let [got, first_format] = [odd.format, first.format].map(format_name);
            let (path, first_path) = (odd.path.display(), first.path.display());
            let message = format!("`{path}` is {got}, but `{first_path}` is {first_format}");
            Err(Fault::input(message)
                .with_hint("choose files of one format")
                .into())
        }
    }
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Json => "JSON",
        Format::Csv => "CSV",
        Format::Tsv => "TSV",
        Format::Text => "text",
        Format::Parquet => "Parquet",
        Format::Arrow => "Arrow",
        Format::Bin => "token ids",
    }
}

#[cfg(test)]
mod tests {
    use crate::samples::{Sample, assert_ends, gzipped, zstandard};
    use fault::Remedy;

    #[test]
    fn files_come_in_order_with_their_bytes_counted() {
        let packed = gzipped(b"{\"text\": \"b\"}\n");
        let last = zstandard(b"{\"text\": \"c\"}\n");
        let files: [(&str, &[u8]); 3] = [
            ("a.jsonl", b"{\"text\": \"a\"}\n"),
            ("b.jsonl.gz", &packed),
            ("c.jsonl.zst", &last),
        ];
        let sample = Sample::new(&files);
        assert_eq!(sample.texts().unwrap(), ["a", "b", "c"]);
        let mut documents = sample.open().unwrap();
        assert_eq!(documents.name(), "sample");
        documents.next();
        assert_eq!(documents.n_bytes_read(), 14);
        assert_eq!(documents.by_ref().count(), 2);
        assert_eq!(
            documents.n_bytes_total(),
            14 + (packed.len() + last.len()) as u64
        );
        assert_eq!(documents.n_bytes_read(), documents.n_bytes_total());
    }

    #[test]
    fn splits_have_parts() {
        let line = |text: &str| format!("{{\"text\": \"{text}\"}}\n");
        let lines = |texts: &str| {
            texts
                .chars()
                .map(|c| line(&c.to_string()))
                .collect::<String>()
        };
        let files = [
            ("a.jsonl", lines("abcd")),
            ("b.jsonl", lines("ef") + "{}\n" + &lines("g")),
        ];
        let files = files
            .each_ref()
            .map(|(name, content)| (*name, content.as_bytes()));
        for (split, expected) in [
            ("train[1:3]", "bc"),
            ("train[3:5]", "de"),
            ("train[:50%]", "abcd"),
            ("train[-2:]", "g"),
            ("train[-1:]+train[:2]", "gab"),
            ("train[25%:75%]+train", "cdefabcdefg"),
            ("train[5:2]", ""),
            ("train[8:]+train[:1]", "a"),
        ] {
            let sample = Sample::new(&files).skip().split(split);
            assert_eq!(sample.texts().unwrap().concat(), expected, "{split}");
            let mut documents = sample.open().unwrap();
            documents.by_ref().for_each(drop);
            assert_eq!(documents.n_bytes_read(), documents.n_bytes_total());
        }
        // A bad row is counted as a row, and is an error only if it is taken.
        let strict = |split| Sample::new(&files).split(split);
        assert_eq!(strict("train[:6]").texts().unwrap().len(), 6);
        assert_ends(&strict("train[:7]").error(), "b.jsonl:3: no column");
        let equal = strict("train[:1%](pct1_dropremainder)");
        assert_ends(&equal.error(), "`sample` has fewer than 100 rows");
    }

    #[test]
    fn documents_may_move_to_another_thread() {
        let sample = Sample::new(&[("a.jsonl", b"{\"text\": \"a\"}\n")]);
        let documents = sample.open().unwrap();
        let counting = std::thread::spawn(move || documents.count());
        assert_eq!(counting.join().unwrap(), 1);
    }

    #[test]
    fn the_first_error_ends_the_documents() {
        let sample = Sample::new(&[("a.jsonl", b"{}\n{\"text\": \"b\"}\n")]);
        let mut documents = sample.open().unwrap();
        assert!(documents.next().unwrap().is_err());
        assert!(documents.next().is_none());
    }

    #[test]
    fn bad_rows_are_left_out_and_counted() {
        let content = b"{}\n{\"text\": \"a\"}\nnonsense\n{\"text\": \"\xff\"}\n{\"text\": \"b\"}\n";
        let sample = Sample::new(&[("a.jsonl", content)]).skip();
        assert_eq!(sample.texts().unwrap(), ["a", "b"]);
        let mut documents = sample.open().unwrap();
        assert_eq!(documents.by_ref().count(), 2);
        assert_eq!(documents.n_skipped(), 3);
        let first = documents.first_skipped().unwrap();
        assert!(first.ends_with("a.jsonl:1: no column `text`"), "{first}");
    }

    #[test]
    fn files_of_two_formats_are_an_error() {
        let error = Sample::new(&[("a.jsonl", b""), ("b.csv", b"")]).error();
        assert_ends(&error, "b.csv` is CSV, but `");
    }

    #[test]
    fn files_that_are_not_there_are_an_error() {
        let mut sample = Sample::new(&[("a.jsonl", b"")]);
        sample.files.files[0].path.set_extension("gone");
        assert_ends(&sample.error(), "cannot open");
    }

    #[test]
    fn a_later_file_without_ids_is_an_error() {
        let files: [(&str, &[u8]); 3] = [
            ("a.jsonl", b"\n"),
            ("b.jsonl", b"{\"input_ids\": [1]}\n"),
            ("c.jsonl", b"{\"text\": \"a\"}\n"),
        ];
        let error = Sample::new(&files).skip().error();
        assert_ends(&error, "c.jsonl` has no column `input_ids`");
        assert_eq!(
            error.hint().unwrap(),
            "every file of a tokenised data set must have `input_ids`"
        );
    }
}
