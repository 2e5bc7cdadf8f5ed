//! Documents of JSON lines, or of one JSON array.

use super::json_field::{columns_of, document};
use super::rows::{Column, Place, ReadRows, RowError};
use super::unpack::{End, RowBytes, Source};
use super::{DataFile, Document};
use crate::DataError;
use serde::de::Error as _;

/// The objects of a JSON file: one a line, or the elements of an array if the file begins with `[`.
///
/// Blank lines and a byte order mark are skipped. No more than a line or an element is held in
/// memory.
pub(super) struct JsonRows {
    objects: Objects,
    column: Column,
}

impl JsonRows {
    pub(super) fn open(file: &DataFile, column: &Column) -> Result<Self, DataError> {
        Ok(Self {
            objects: Objects::open(file)?,
            column: column.clone(),
        })
    }
}

impl ReadRows for JsonRows {
    fn next_row(&mut self) -> Result<Option<Document>, RowError> {
        let Some((place, text)) = self.objects.next_object()? else {
            return Ok(None);
        };
        document(text, &self.column, place).map(Some)
    }

    fn n_bytes_read(&self) -> u64 {
        self.objects.source.n_bytes_read()
    }
}

/// The columns of the first object in `file`; `None` if it has no object.
pub(super) fn first_columns(file: &DataFile) -> Result<Option<Vec<String>>, DataError> {
    let mut objects = Objects::open(file)?;
    loop {
        match objects.next_object() {
            Ok(None) => return Ok(None),
            Ok(Some((_, text))) => {
                let columns = columns_of(text);
                if columns.is_some() {
                    return Ok(columns);
                }
            }
            Err(RowError::Bad(_)) => {}
            Err(RowError::Fatal(error)) => return Err(error),
        }
    }
}

/// The text of the objects of a file, one after the other.
struct Objects {
    source: Source,
    layout: Layout,
    row: RowBytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Lines,
    /// Behind the `[`.
    Array,
    /// Behind a comma of the array.
    NextElement,
    /// Behind the `]`.
    AfterArray,
}

impl Objects {
    fn open(file: &DataFile) -> Result<Self, DataError> {
        let mut objects = Self {
            source: Source::open_behind_mark(file)?,
            layout: Layout::Lines,
            row: RowBytes::default(),
        };
        if objects.source.skip_blanks()? == Some(b'[') {
            objects
                .source
                .read_piece(&mut objects.row, |byte| byte == b'[')?;
            objects.layout = Layout::Array;
        }
        Ok(objects)
    }

    fn next_object(&mut self) -> Result<Option<(Place<'_>, &str)>, RowError> {
        let line = match self.layout {
            Layout::Lines => self.read_line()?,
            Layout::Array | Layout::NextElement => self.read_element()?,
            Layout::AfterArray => None,
        };
        let Some(line) = line else {
            return Ok(None);
        };
        let place = Place {
            path: self.source.path(),
            line,
        };
        let bytes = self.row.get().ok_or_else(|| place.too_long())?;
        Ok(Some((place, place.utf8(bytes)?)))
    }

    /// Reads the next line that is not blank into `row`, and tells its number.
    fn read_line(&mut self) -> Result<Option<u64>, DataError> {
        loop {
            let line = self.source.line();
            if !self.source.read_line(&mut self.row)? {
                return Ok(None);
            }
            if !self.row.is_blank() {
                return Ok(Some(line));
            }
        }
    }

    /// Reads the next element of the array into `row`, and tells the line it starts on.
    fn read_element(&mut self) -> Result<Option<u64>, DataError> {
        self.source.skip_blanks()?;
        let line = self.source.line();
        let mut cut = Cut::default();
        let end = self
            .source
            .read_piece(&mut self.row, |byte| cut.is_end(byte))?;
        match end {
            End::File => return Err(self.not_an_array("the array is not closed")),
            End::Byte(b']') => {
                if self.source.skip_blanks()?.is_some() {
                    return Err(self.not_an_array("text behind the array"));
                }
                let is_empty = self.layout == Layout::Array && self.row.is_blank();
                self.layout = Layout::AfterArray;
                return Ok((!is_empty).then_some(line));
            }
            End::Byte(_) => self.layout = Layout::NextElement,
        }
        Ok(Some(line))
    }

    fn not_an_array(&self, why: &str) -> DataError {
        let place = Place {
            path: self.source.path(),
            line: self.source.line(),
        };
        place.not_json(serde_json::Error::custom(why))
    }
}

/// How deep in an element of an array its next byte stands.
#[derive(Debug, Default)]
struct Cut {
    n_open: usize,
    is_in_string: bool,
    is_escaped: bool,
}

impl Cut {
    /// Whether `byte` is the comma or bracket behind the element.
    fn is_end(&mut self, byte: u8) -> bool {
        if self.is_in_string {
            self.is_in_string = byte != b'"' || self.is_escaped;
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return false;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.n_open += 1,
            b',' | b']' if self.n_open == 0 => return true,
            b'}' | b']' => self.n_open = self.n_open.saturating_sub(1),
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use crate::fixtures::fixture;
    use crate::source::MAX_DOCUMENT_BYTES;
    use crate::source::samples::{Sample, assert_ends, assert_error, texts};

    #[test]
    fn lines_become_documents() {
        let content = "\u{feff}\n{\"text\": \"a\\u00e9\", \"id\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"c\"}";
        let expected = ["aé", "", "c"];
        assert_eq!(texts("a.jsonl", content.as_bytes()).unwrap(), expected);
        assert!(texts("a.jsonl", b"\n \r\n").unwrap().is_empty());
    }

    #[test]
    fn the_fixture_has_its_documents() {
        let content = std::fs::read(fixture("tiny.jsonl")).unwrap();
        let documents = texts("tiny.jsonl", &content).unwrap();
        assert_eq!(documents.len(), 584);
        assert_eq!(documents.iter().filter(|text| text.is_empty()).count(), 2);
        assert!(documents.iter().any(|text| text.contains("白鯨")));
    }

    #[test]
    fn elements_of_an_array_become_documents() {
        let content = br#"
            [ {"text": "a, ] \" \\", "more": [{"b": [1, 2]}, "]"]},
              {"text": "c"} ,{"text":"d"}
            ]
        "#;
        assert_eq!(texts("a.json", content).unwrap(), [r#"a, ] " \"#, "c", "d"]);
        assert!(texts("a.json", b"[ ]\n").unwrap().is_empty());
    }

    #[test]
    fn broken_arrays_are_named() {
        let bad_element = b"[{\"text\": \"a\"},\n\n {\"text\": 3},\n {\"text\": \"b\"},]";
        assert_error("a.json", bad_element, "NotText", "a.json:3: column `text`");
        let skipping = Sample::new(&[("a.json", bad_element)]).skip();
        assert_eq!(skipping.texts().unwrap(), ["a", "b"]);
        for content in [
            "[{\"text\": \"a\"}\n,",
            "[{\"text\": \"a\"}\n]x",
            "[\n{\"text\"",
        ] {
            let sample = Sample::new(&[("a.json", content.as_bytes())]).skip();
            assert_ends(&sample.error(), "NotJson", "a.json:2: not a JSON object");
        }
    }

    #[test]
    fn a_missing_column_names_file_line_and_columns() {
        let sample = Sample::new(&[(
            "a.jsonl",
            b"{\"text\": \"a\"}\n{\"body\": \"b\", \"meta\": {\"id\": 1}}\n",
        )]);
        let error = sample.error();
        assert_ends(&error, "MissingColumn", "a.jsonl:2: no column `text`");
        assert_eq!(
            error.hint().unwrap(),
            "set `text_column` to one of `body`, `meta.id`"
        );
    }

    #[test]
    fn values_that_are_no_text_are_named() {
        for (value, got) in [
            ("3", "a number"),
            ("null", "null"),
            ("true", "a boolean"),
            ("[\"a\"]", "a list"),
            ("{}", "an object"),
        ] {
            let content = format!("{{\"text\": {value}}}\n");
            let message = format!("a.jsonl:1: column `text` holds {got}, not a string");
            assert_error("a.jsonl", content.as_bytes(), "NotText", &message);
        }
    }

    #[test]
    fn broken_lines_are_named() {
        for content in [
            "{\"text\": \"a\"}\n\n{\"text\": \"b\n",
            "{\"text\": \"a\"}\n\n{\"text\": \"b\"} {}\n",
            "{\"text\": \"a\"}\n\n[1]\n",
            "{\"text\": \"a\"}\n\n{\"text\": \"\\ud800\"}\n",
        ] {
            assert_error("a.jsonl", content.as_bytes(), "NotJson", "a.jsonl:3: not");
        }
        let content = b"{\"text\": \"a\"}\n{\"text\": \"b\", \"c\": \"\xff\"}\n";
        assert_error("a.jsonl", content, "NotUtf8", "a.jsonl:2: not UTF-8");
        let deep = "{\"text\": ".to_string() + &"[".repeat(100_000);
        assert_error("a.jsonl", deep.as_bytes(), "NotJson", "a.jsonl:1: not");
    }

    #[test]
    fn a_long_line_is_a_bad_row() {
        let mut content = b"{\"text\": \"a\"}\n".to_vec();
        content.resize(MAX_DOCUMENT_BYTES + 100, b'x');
        content.extend_from_slice(b"\n{\"text\": \"b\"}\n");
        let sample = Sample::new(&[("a.jsonl", &content)]);
        assert_ends(&sample.error(), "DocumentTooLong", "a.jsonl:2: longer than");
        assert_eq!(sample.skip().texts().unwrap(), ["a", "b"]);
        content.insert(0, b'[');
        content[14] = b',';
        let array = Sample::new(&[("a.json", &content)]).skip();
        assert_ends(&array.error(), "NotJson", "not a JSON object");
    }
}
