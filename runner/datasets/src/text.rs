//! Documents of plain text, one a line.

use super::Document;
use super::rows::{Column, ReadRows, RowError, RowLocation, TEXT_COLUMN};
use super::unpack::{End, RowBytes, Source};
use crate::DatasetError;
use plan::DataFile;

/// The lines of a text file, as the text builder of Python's `datasets` 5.2 cuts them: at `\n`,
/// `\r\n` and `\r`, without these. An empty line is an empty document; nothing follows the last
/// line break. A byte order mark stays in the first document, as there.
pub(super) struct TextRows {
    source: Source,
    row: RowBytes,
    line: u64,
    is_behind_cr: bool,
}

impl TextRows {
    pub(super) fn open(file: &DataFile, column: &Column) -> Result<Self, DatasetError> {
        if column.name != TEXT_COLUMN {
            return Err(column.not_in(&file.path, vec![TEXT_COLUMN.into()]));
        }
        Ok(Self {
            source: Source::open(file)?,
            row: RowBytes::default(),
            line: 0,
            is_behind_cr: false,
        })
    }

    /// Reads the next line into `row`; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, DatasetError> {
        loop {
            let is_break = |byte| matches!(byte, b'\n' | b'\r');
            let end = self.source.read_piece(&mut self.row, is_break)?;
            let is_rest_of_crlf =
                self.is_behind_cr && end == End::Byte(b'\n') && self.row.is_empty();
            self.is_behind_cr = end == End::Byte(b'\r');
            if !is_rest_of_crlf {
                self.line += 1;
                return Ok(end != End::File || !self.row.is_empty());
            }
        }
    }
}

impl ReadRows for TextRows {
    fn next_row(&mut self) -> Result<Option<Document>, RowError> {
        if !self.read_line()? {
            return Ok(None);
        }
        let location = RowLocation {
            path: self.source.path(),
            line: self.line,
        };
        let line = self.row.get().ok_or_else(|| location.too_long())?;
        Ok(Some(Document::Text(location.utf8(line)?.to_string())))
    }

    fn n_bytes_read(&self) -> u64 {
        self.source.n_bytes_read()
    }
}

#[cfg(test)]
mod tests {
    use crate::MAX_DOCUMENT_BYTES;
    use crate::samples::{Sample, assert_ends, assert_error, gzipped, texts};
    use fault::Remedy;

    #[test]
    fn lines_end_as_in_python() {
        // What `datasets` 5.2 gives for this file.
        let content = "a\n\nb\r\nc\rd\r\r\n é \u{2028}e\x0c\x0bf".as_bytes();
        let expected = ["a", "", "b", "c", "d", "", " é \u{2028}e\x0c\x0bf"];
        assert_eq!(texts("a.txt", content).unwrap(), expected);
        assert_eq!(texts("a.txt", b"a\n").unwrap(), ["a"]);
        assert_eq!(texts("a.txt", b"a\r\n\r\n").unwrap(), ["a", ""]);
        assert_eq!(texts("a.txt", b"\n").unwrap(), [""]);
        assert!(texts("a.txt", b"").unwrap().is_empty());
    }

    #[test]
    fn only_text_is_a_column() {
        let sample = Sample::new(&[("a.txt", b"a\n")]).text_column("body");
        let error = sample.error();
        assert_ends(&error, "a.txt` has no column `body`");
        assert_eq!(error.hint().unwrap(), "set `text_column` to one of `text`");
    }

    #[test]
    fn lines_that_are_no_text_are_named() {
        assert_error("a.txt", b"a\rb\r\n\xff\n", "a.txt:3: not UTF-8");
        let skipping = Sample::new(&[("a.txt", b"a\n\xff\nb")]).skip();
        assert_eq!(skipping.texts().unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_line_without_end_is_a_bad_row() {
        let mut content = b"a\n".to_vec();
        content.resize(MAX_DOCUMENT_BYTES + 3, b'x');
        let packed = gzipped(&content);
        assert_error("a.txt.gz", &packed, "a.txt.gz:2: longer than 68 MB");
        content.pop();
        assert_eq!(
            texts("a.txt", &content).unwrap()[1].len(),
            MAX_DOCUMENT_BYTES
        );
    }
}
