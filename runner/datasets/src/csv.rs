//! Documents of comma- or tab-separated values.

use super::Document;
use super::rows::{Column, ReadRows, RowError, RowLocation};
use super::unpack::{End, RowBytes, Source};
use crate::DatasetError;
use crate::error::damaged;
use csv::{ByteRecord, Reader, ReaderBuilder};
use plan::{DataFile, Format};
use std::io::Cursor;

/// The records of a file with a header, by the rules of pandas' `read_csv`, which `datasets` calls.
///
/// Lines of nothing but spaces and tabs are not rows. If the first row has more fields than the header,
/// the fields in front are an index without a name. A row with fewer fields has nulls at its end, one with
/// more is a bad row.
///
/// Records are cut here, at line breaks outside of quotes, and each is then parsed by itself: so its
/// line is known, and neither a quote that is never closed nor a long record goes unnoticed.
pub(super) struct CsvRows {
    source: Source,
    delimiter: u8,
    bytes: RowBytes,
    parser: Reader<Cursor<Vec<u8>>>,
    record: ByteRecord,
    line: u64,
    column: Column,
    field_idx: usize,
    n_header_fields: usize,
    /// Fields of a row; unknown in front of the first one.
    n_fields: Option<usize>,
}

impl CsvRows {
    pub(super) fn open(file: &DataFile, column: &Column) -> Result<Self, DatasetError> {
        let delimiter = if file.format == Format::Tsv {
            b'\t'
        } else {
            b','
        };
        let mut rows = Self {
            source: Source::open_after_mark(file)?,
            delimiter,
            bytes: RowBytes::default(),
            parser: ReaderBuilder::new()
                .delimiter(delimiter)
                .has_headers(false)
                .flexible(true)
                .from_reader(Cursor::default()),
            record: ByteRecord::new(),
            line: 1,
            column: column.clone(),
            field_idx: 0,
            n_header_fields: 0,
            n_fields: None,
        };
        rows.find_column()?;
        Ok(rows)
    }

    fn find_column(&mut self) -> Result<(), DatasetError> {
        self.read_record().map_err(RowError::into_inner)?;
        let header = self.record.iter();
        let names: Vec<String> = header
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        self.n_header_fields = names.len();
        let field_idx = names.iter().position(|name| *name == self.column.name);
        self.field_idx = field_idx.ok_or_else(|| self.column.not_in(self.source.path(), names))?;
        Ok(())
    }

    /// Reads the next record into `record`, blank lines left out; false at the end of the file.
    fn read_record(&mut self) -> Result<bool, RowError> {
        self.record.clear();
        loop {
            self.line = self.source.line();
            let mut cut = Cut::new(self.delimiter);
            let end = self
                .source
                .read_piece(&mut self.bytes, |byte| cut.is_end(byte))?;
            if end == End::File && cut.is_in_quotes() {
                return Err(self.damaged("a quote is never closed").into());
            }
            if !self.is_blank_line() {
                return self.parse();
            }
            if end == End::File {
                return Ok(false);
            }
        }
    }

    fn is_blank_line(&self) -> bool {
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t') && *byte != self.delimiter;
        let line = self.bytes.get();
        line.is_some_and(|line| line.iter().all(is_blank))
    }

    fn parse(&mut self) -> Result<bool, RowError> {
        if self.bytes.get().is_none() {
            return Err(self.location().too_long());
        }
        let mut bytes = self.bytes.take();
        bytes.push(b'\n');
        *self.parser.get_mut() = Cursor::new(bytes);
        let is_read = self.parser.read_byte_record(&mut self.record);
        if !is_read.is_ok_and(|is_read| is_read) {
            return Err(self.damaged("the record cannot be parsed").into());
        }
        Ok(true)
    }

    fn location(&self) -> RowLocation<'_> {
        RowLocation {
            path: self.source.path(),
            line: self.line,
        }
    }

    fn damaged(&self, what: &str) -> DatasetError {
        let problem = format!("line {}: {what}", self.line);
        damaged(self.source.path(), "CSV", problem)
    }
}

impl ReadRows for CsvRows {
    fn next_row(&mut self) -> Result<Option<Document>, RowError> {
        if !self.read_record()? {
            return Ok(None);
        }
        let got = self.record.len();
        let first = got.max(self.n_header_fields);
        let expected = *self.n_fields.get_or_insert(first);
        if got > expected {
            let problem = format!("{got} fields, where rows have {expected}");
            return Err(self.location().bad(problem));
        }
        let n_index_fields = expected - self.n_header_fields;
        let location = self.location();
        let field = self.record.get(n_index_fields + self.field_idx);
        let field = field.ok_or_else(|| location.not_text(&self.column, "null", Vec::new()))?;
        Ok(Some(Document::Text(location.utf8(field)?.to_string())))
    }

    fn n_bytes_read(&self) -> u64 {
        self.source.n_bytes_read()
    }
}

/// The position of the next byte in its record.
#[derive(Debug)]
struct Cut {
    delimiter: u8,
    state: CutState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CutState {
    StartOfField,
    InField,
    InQuotes,
    /// After a quote that closes the field, unless another quote follows.
    BehindQuote,
}

impl Cut {
    fn new(delimiter: u8) -> Self {
        Self {
            delimiter,
            state: CutState::StartOfField,
        }
    }

    /// Whether `byte` ends the record; the rules are those of the parser.
    fn is_end(&mut self, byte: u8) -> bool {
        use CutState::{BehindQuote, InField, InQuotes, StartOfField};
        self.state = match (self.state, byte) {
            (InQuotes, b'"') => BehindQuote,
            (InQuotes, _) | (StartOfField | BehindQuote, b'"') => InQuotes,
            (_, b'\n' | b'\r') => return true,
            (_, byte) if byte == self.delimiter => StartOfField,
            _ => InField,
        };
        false
    }

    fn is_in_quotes(&self) -> bool {
        self.state == CutState::InQuotes
    }
}

#[cfg(test)]
mod tests {
    use crate::MAX_DOCUMENT_BYTES;
    use crate::samples::{Sample, assert_damaged, assert_ends, assert_error, texts};
    use fault::Remedy;

    #[test]
    fn fields_become_documents() {
        let content =
            "\u{feff}id,text\r\n1,a\r\n\r\n2,\"b\nb \"\"é\"\", c\"\r\n3,\n4,x\"y\"\n5,\"\"";
        let expected = ["a", "b\nb \"é\", c", "", "x\"y\"", ""];
        assert_eq!(texts("a.csv", content.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn tabs_separate_in_tsv() {
        let content = b"text\tid\na, b\t1\n\"c\td\"\t2\n";
        assert_eq!(texts("a.tsv", content).unwrap(), ["a, b", "c\td"]);
    }

    #[test]
    fn a_header_alone_has_no_documents() {
        assert!(texts("a.csv", b"id,text\n").unwrap().is_empty());
    }

    #[test]
    fn a_missing_column_always_fails() {
        let sample = Sample::new(&[("a.csv", b"id,body\n1,a\n")]).skip();
        let error = sample.error();
        assert_ends(&error, "a.csv` has no column `text`");
        assert_eq!(
            error.hint().unwrap(),
            "set `text_column` to one of `id`, `body`"
        );
        assert_error("a.csv", b"", "no column `text`");
    }

    #[test]
    fn lines_of_blanks_are_no_rows() {
        let content = "\n \t\ntext\na\n   \nb\n \t\n\t c\n\" \"\n\u{a0}\n  ";
        assert_eq!(
            texts("a.csv", content.as_bytes()).unwrap(),
            ["a", "b", "\t c", " ", "\u{a0}"]
        );
        assert_eq!(
            texts("a.csv", b"text\r\na\r\n  \r\nb\r\n").unwrap(),
            ["a", "b"]
        );
        assert_eq!(texts("a.csv", b"text\ra\r  \rb\r").unwrap(), ["a", "b"]);
        let tabs = b"text\tid\na\t1\n  \n\t\nb\t2\n";
        assert_eq!(texts("a.tsv", tabs).unwrap(), ["a", "", "b"]);
        let error = Sample::new(&[("a.csv", b"id,text\n1,a\n  \n2\n")]).error();
        assert_ends(&error, "a.csv:4: column `text` has null");
    }

    #[test]
    fn short_rows_end_in_nulls() {
        let content = b"text,id,more\na\nb,1\nc,2,x\nd,,\n";
        assert_eq!(texts("a.csv", content).unwrap(), ["a", "b", "c", "d"]);
        let sample = Sample::new(&[("a.csv", b"id,text\n1,a\n2\n3,\n")]);
        assert_ends(&sample.error(), "a.csv:3: column `text` has null");
        assert_eq!(sample.skip().texts().unwrap(), ["a", ""]);
    }

    #[test]
    fn fields_before_those_of_the_header_are_an_index() {
        let read = |content: &[u8]| Sample::new(&[("a.csv", content)]).skip().texts().unwrap();
        assert_eq!(read(b"id,text\n1,a,x\n2,b,y\n"), ["x", "y"]);
        assert_eq!(read(b"text,id\n1,a,x\n2,b\n3\n"), ["a", "b"]);
        assert_eq!(read(b"id,text\n1,a,x,y\n2,b\n3,c,z,q\n"), ["y", "q"]);
        // Only the first row tells.
        assert_eq!(read(b"id,text\n1\n2,b\n3,c,d\n"), ["b"]);
        assert_eq!(read(b"id,text,\n1,a,\n"), ["a"]);
    }

    #[test]
    fn a_control_z_is_text() {
        assert_eq!(
            texts("a.csv", b"text\na\x1a\n\x1a").unwrap(),
            ["a\x1a", "\x1a"]
        );
        let error = Sample::new(&[("a.csv", b"id,text\n1,a\n\x1a\n")]).error();
        assert_ends(&error, "a.csv:3: column `text` has null");
    }

    #[test]
    fn rows_that_are_too_wide_are_named() {
        let content = b"id,text\r\n1,\"a\r\na\"\r\n\r\n2,b,c\r\n3,d\r\n4,e,f\r\n";
        assert_error("a.csv", content, "a.csv:5: 3 fields, where rows have 2");
        let skipping = Sample::new(&[("a.csv", content)]).skip();
        let mut documents = skipping.open().unwrap();
        assert_eq!(documents.by_ref().filter(Result::is_ok).count(), 2);
        assert_eq!(documents.n_skipped(), 2);
        assert!(
            documents
                .first_skipped()
                .unwrap()
                .contains("a.csv:5: 3 fields")
        );
    }

    #[test]
    fn fields_that_are_no_text_are_named() {
        let content = b"id,text\n1,a\n2,\xff\n";
        assert_error("a.csv", content, "a.csv:3: not UTF-8");
    }

    #[test]
    fn an_open_quote_is_damage() {
        let sample = Sample::new(&[("a.csv", b"text\na\n\"b\nc\n")]).skip();
        let error = sample.error();
        assert_damaged(&error, "a.csv` is not a readable CSV file");
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(source.to_string(), "line 3: a quote is never closed");
    }

    #[test]
    fn a_long_record_is_a_bad_row() {
        let mut content = b"text\na\n".to_vec();
        content.resize(MAX_DOCUMENT_BYTES + 8, b'x');
        content.extend_from_slice(b"\nb\n");
        let sample = Sample::new(&[("a.csv", &content)]);
        assert_ends(&sample.error(), "a.csv:3: longer than");
        assert_eq!(sample.skip().texts().unwrap(), ["a", "b"]);
    }
}
