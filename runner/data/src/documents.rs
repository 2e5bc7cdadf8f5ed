//! Reading documents from JSON lines.

use crate::DataError;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The documents of a data set, one after the other: the text column of every line.
///
/// A data set is a `.jsonl` or `.json` file with one JSON object a line, or a folder of such files,
/// which are read in natural order of their names. Blank lines are skipped. The iterator ends
/// after its first error.
#[derive(Debug)]
pub struct Documents {
    path: PathBuf,
    text_column: String,
    files: std::vec::IntoIter<PathBuf>,
    current: Option<Lines>,
    line: Vec<u8>,
    n_bytes_read: u64,
}

#[derive(Debug)]
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    number: u64,
}

impl Documents {
    /// Opens the data set at `path`.
    ///
    /// # Errors
    /// The path does not exist, is no JSON lines file by its name, or a folder without such files.
    pub fn open(path: &Path, text_column: &str) -> Result<Self, DataError> {
        Ok(Self {
            path: path.to_path_buf(),
            text_column: text_column.to_string(),
            files: data_files(path)?.into_iter(),
            current: None,
            line: Vec::new(),
            n_bytes_read: 0,
        })
    }

    /// The data set as it was given to [`Documents::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes read so far, over all files.
    pub fn n_bytes_read(&self) -> u64 {
        self.n_bytes_read
    }

    fn next_document(&mut self) -> Result<Option<String>, DataError> {
        loop {
            let Some(lines) = &mut self.current else {
                let Some(path) = self.files.next() else {
                    return Ok(None);
                };
                let file = File::open(&path).map_err(DataError::io("open", &path))?;
                self.current = Some(Lines {
                    path,
                    reader: BufReader::with_capacity(1 << 16, file),
                    number: 0,
                });
                continue;
            };
            if !lines.read(&mut self.line)? {
                self.current = None;
                continue;
            }
            self.n_bytes_read += self.line.len() as u64;
            if let Some(text) = lines.parse(&self.line, &self.text_column)? {
                return Ok(Some(text));
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<String, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let document = self.next_document();
        if document.is_err() {
            self.files = Vec::new().into_iter();
            self.current = None;
        }
        document.transpose()
    }
}

impl Lines {
    /// Reads the next line into `line`; false at the end of the file.
    fn read(&mut self, line: &mut Vec<u8>) -> Result<bool, DataError> {
        line.clear();
        self.number += 1;
        let n_bytes = self
            .reader
            .read_until(b'\n', line)
            .map_err(DataError::io("read", &self.path))?;
        Ok(n_bytes > 0)
    }

    /// The text of `line`; `None` where it is blank.
    fn parse(&self, line: &[u8], text_column: &str) -> Result<Option<String>, DataError> {
        let (path, number) = (&self.path, self.number);
        let line = std::str::from_utf8(line).map_err(|_| DataError::NotUtf8 {
            path: path.clone(),
            line: number,
        })?;
        if line.trim().is_empty() {
            return Ok(None);
        }
        let mut object: Map<String, Value> =
            serde_json::from_str(line).map_err(|source| DataError::NotJson {
                path: path.clone(),
                line: number,
                source,
            })?;
        match object.get_mut(text_column).map(Value::take) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(DataError::NotText {
                path: path.clone(),
                line: number,
                column: text_column.to_string(),
                got: type_name(&other),
            }),
            None => Err(DataError::MissingColumn {
                path: path.clone(),
                line: number,
                column: text_column.to_string(),
                found: object.keys().cloned().collect(),
            }),
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The files of a data set, in the order they are read.
pub(crate) fn data_files(dataset: &Path) -> Result<Vec<PathBuf>, DataError> {
    if dataset.is_file() {
        return if is_data_file(dataset) {
            Ok(vec![dataset.to_path_buf()])
        } else {
            Err(DataError::UnknownFormat {
                path: dataset.to_path_buf(),
            })
        };
    }
    if !dataset.exists() {
        return Err(DataError::NoDataset {
            path: dataset.to_path_buf(),
        });
    }
    let mut files = Vec::new();
    for entry in dataset.read_dir().map_err(DataError::io("list", dataset))? {
        let path = entry.map_err(DataError::io("list", dataset))?.path();
        if path.is_file() && is_data_file(&path) {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(DataError::NoDataFiles {
            path: dataset.to_path_buf(),
        });
    }
    files
        .sort_by(|a, b| natord::compare(&a.to_string_lossy(), &b.to_string_lossy()).then(a.cmp(b)));
    Ok(files)
}

fn is_data_file(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().unwrap_or_default();
    !hidden && (extension == "jsonl" || extension == "json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{fixture, folder_with};

    fn read(path: &Path) -> Result<Vec<String>, DataError> {
        Documents::open(path, "text")?.collect()
    }

    fn read_one_file(content: &[u8]) -> Result<Vec<String>, DataError> {
        let folder = folder_with(&[("a.jsonl", content)]);
        read(&folder.path().join("a.jsonl"))
    }

    #[test]
    fn lines_become_documents() {
        let content =
            "{\"text\": \"a\\u00e9\", \"id\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"c\"}";
        assert_eq!(read_one_file(content.as_bytes()).unwrap(), ["aé", "", "c"]);
    }

    #[test]
    fn the_fixture_has_its_documents() {
        let documents = read(&fixture("tiny.jsonl")).unwrap();
        assert_eq!(documents.len(), 584);
        assert_eq!(documents.iter().filter(|text| text.is_empty()).count(), 2);
        assert!(documents.iter().any(|text| text.contains("白鯨")));
    }

    #[test]
    fn files_of_a_folder_come_in_natural_order() {
        let folder = folder_with(&[
            ("part10.jsonl", br#"{"text": "third"}"#),
            ("part2.json", br#"{"text": "second"}"#),
            ("part1.jsonl", br#"{"text": "first"}"#),
            (".part0.jsonl", b"hidden"),
            ("README.md", b"not data"),
        ]);
        assert_eq!(read(folder.path()).unwrap(), ["first", "second", "third"]);
    }

    #[test]
    fn a_missing_column_names_file_line_and_columns() {
        let error =
            read_one_file(b"{\"text\": \"a\"}\n{\"body\": \"b\", \"id\": 1}\n").unwrap_err();
        assert!(
            error.to_string().ends_with("a.jsonl:2: no column `text`"),
            "{error}"
        );
        assert_eq!(
            error.hint().unwrap(),
            "set `text_column` to one of `body`, `id`"
        );
    }

    #[test]
    fn a_number_is_no_text() {
        let error = read_one_file(b"{\"text\": 3}\n").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("a.jsonl:1: column `text` holds a number"),
            "{error}"
        );
    }

    #[test]
    fn broken_lines_are_named() {
        let error = read_one_file(b"{\"text\": \"a\"}\n\n{\"text\": \"b\n").unwrap_err();
        assert!(
            matches!(error, DataError::NotJson { line: 3, .. }),
            "{error:?}"
        );
        let error = read_one_file(b"[{\"text\": \"a\"}]\n").unwrap_err();
        assert!(
            matches!(error, DataError::NotJson { line: 1, .. }),
            "{error:?}"
        );
        let error = read_one_file(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n").unwrap_err();
        assert!(
            matches!(error, DataError::NotUtf8 { line: 2, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn the_first_error_ends_the_documents() {
        let folder = folder_with(&[("a.jsonl", b"{}\n{\"text\": \"b\"}\n")]);
        let mut documents = Documents::open(folder.path(), "text").unwrap();
        assert!(documents.next().unwrap().is_err());
        assert!(documents.next().is_none());
    }

    #[test]
    fn paths_that_are_no_data_set() {
        let folder = folder_with(&[("a.parquet", b"PAR1")]);
        let error = read(&folder.path().join("none.jsonl")).unwrap_err();
        assert!(matches!(error, DataError::NoDataset { .. }), "{error:?}");
        let error = read(&folder.path().join("a.parquet")).unwrap_err();
        assert!(
            matches!(error, DataError::UnknownFormat { .. }),
            "{error:?}"
        );
        let error = read(folder.path()).unwrap_err();
        assert!(matches!(error, DataError::NoDataFiles { .. }), "{error:?}");
    }
}
