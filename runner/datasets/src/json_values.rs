//! Cutting a JSON file into its values, without parsing them.

use super::rows::{RowError, RowLocation};
use super::unpack::{End, RowBytes, Source, is_blank};
use crate::DatasetError;
use plan::DataFile;
use serde::de::Error as _;
use std::ops::Range;

/// The values of a JSON file, one after the other: the elements of an array if the file begins with `[`,
/// else objects, however they are laid out. Blanks between them and a byte order mark are skipped.
///
/// No more than a value is held in memory, and at most as much again if an object is never closed.
/// Such an object is a bad row of its first line alone: what follows is read from the next line on.
pub(super) struct Values {
    source: Source,
    layout: Layout,
    row: RowBytes,
    /// The line after those in `row`, if it was read and is too much to be added to them.
    ahead: Option<RowBytes>,
    /// Where in `row` the value is.
    value: Range<usize>,
    /// The line of the end of the value.
    line: u64,
    /// Objects that begin before this line have to end on it: up to there, one was looked for in vain.
    lines_until: u64,
}

/// A value of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct JsonValue<'a> {
    /// The file and the line it starts on.
    pub(super) location: RowLocation<'a>,
    /// As the file has it.
    pub(super) text: &'a str,
    /// Whether it is an element of an array.
    pub(super) is_element: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Objects,
    /// After the `[`.
    Array,
    /// After a comma of the array.
    NextElement,
    /// After the `]`.
    AfterArray,
}

impl Values {
    pub(super) fn open(file: &DataFile) -> Result<Self, DatasetError> {
        let mut values = Self {
            source: Source::open_after_mark(file)?,
            layout: Layout::Objects,
            row: RowBytes::default(),
            ahead: None,
            value: 0..0,
            line: 1,
            lines_until: 0,
        };
        if values.source.skip_blanks()? == Some(b'[') {
            values
                .source
                .read_piece(&mut values.row, |byte| byte == b'[')?;
            values.layout = Layout::Array;
        }
        Ok(values)
    }

    pub(super) fn n_bytes_read(&self) -> u64 {
        self.source.n_bytes_read()
    }

    pub(super) fn next_value(&mut self) -> Result<Option<JsonValue<'_>>, RowError> {
        let line = match self.layout {
            Layout::Objects => self.read_object()?,
            Layout::Array | Layout::NextElement => self.read_element()?,
            Layout::AfterArray => None,
        };
        let Some(line) = line else {
            return Ok(None);
        };
        let location = RowLocation {
            path: self.source.path(),
            line,
        };
        let bytes = self.row.get().ok_or_else(|| location.too_long())?;
        Ok(Some(JsonValue {
            location,
            text: location.utf8(&bytes[self.value.clone()])?,
            is_element: self.layout != Layout::Objects,
        }))
    }

    /// Finds the next object, or a line that has no object, and tells the line it starts on.
    fn read_object(&mut self) -> Result<Option<u64>, DatasetError> {
        if !self.go_to_object()? {
            return Ok(None);
        }
        let (start, first_line) = (self.value.end, self.line);
        let may_go_on = first_line >= self.lines_until;
        let mut cut = Cut::default();
        let mut n_seen = start;
        loop {
            let bytes = self.row.get().unwrap_or_default();
            let bytes = &bytes[..if may_go_on {
                bytes.len()
            } else {
                end_of_line(bytes, start)
            }];
            if let Some(n_bytes) = cut.end_of_object(&bytes[n_seen..]) {
                self.value = start..n_seen + n_bytes;
                self.line += count_lines(&bytes[self.value.clone()]);
                return Ok(Some(first_line));
            }
            n_seen = bytes.len();
            if !may_go_on || !cut.is_between_texts() || !self.append_line()? {
                break;
            }
        }
        let bytes = self.row.get().unwrap_or_default();
        let last_line = first_line + count_lines(&bytes[start..]);
        self.lines_until = self.lines_until.max(last_line);
        self.value = start..end_of_line(bytes, start);
        Ok(Some(first_line))
    }

    /// Goes to the first byte that is not blank, which may be in the next line; false at the end.
    fn go_to_object(&mut self) -> Result<bool, DatasetError> {
        loop {
            let rest = self.row.get().unwrap_or_default();
            let rest = &rest[self.value.end.min(rest.len())..];
            let n_blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
            self.line += count_lines(&rest[..n_blanks]);
            if n_blanks < rest.len() {
                self.value.end += n_blanks;
                return Ok(true);
            }
            self.value = 0..0;
            if let Some(row) = self.ahead.take() {
                self.row = row;
            } else {
                self.line = self.source.line();
                if !self.source.read_line(&mut self.row)? {
                    return Ok(false);
                }
            }
            if self.row.get().is_none() {
                return Ok(true);
            }
        }
    }

    /// Adds the next line to `row`; false after the last, or if it is too long.
    fn append_line(&mut self) -> Result<bool, DatasetError> {
        let mut line = RowBytes::default();
        if !self.source.read_line(&mut line)? {
            return Ok(false);
        }
        let is_added = self.row.append(&line);
        self.ahead = (!is_added).then_some(line);
        Ok(is_added)
    }

    /// Reads the next element of the array into `row`, and tells the line it starts on.
    fn read_element(&mut self) -> Result<Option<u64>, DatasetError> {
        self.source.skip_blanks()?;
        let line = self.source.line();
        let mut cut = Cut::default();
        let end = self
            .source
            .read_piece(&mut self.row, |byte| cut.is_end(byte))?;
        self.value = 0..self.row.get().map_or(0, <[u8]>::len);
        match end {
            End::File => return Err(self.not_an_array("the array is not closed")),
            End::Byte(b']') => {
                if self.source.skip_blanks()?.is_some() {
                    return Err(self.not_an_array("text after the array"));
                }
                let is_empty = self.layout == Layout::Array && self.row.is_blank();
                self.layout = Layout::AfterArray;
                return Ok((!is_empty).then_some(line));
            }
            End::Byte(_) => self.layout = Layout::NextElement,
        }
        Ok(Some(line))
    }

    fn not_an_array(&self, why: &str) -> DatasetError {
        let location = RowLocation {
            path: self.source.path(),
            line: self.source.line(),
        };
        location.not_json(serde_json::Error::custom(why))
    }
}

/// Where the line that `start` is in ends.
fn end_of_line(bytes: &[u8], start: usize) -> usize {
    let n_bytes = bytes[start..].iter().position(|byte| *byte == b'\n');
    n_bytes.map_or(bytes.len(), |n_bytes| start + n_bytes)
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// How deep in a value its next byte is.
#[derive(Debug, Default)]
struct Cut {
    n_open: usize,
    is_in_string: bool,
    is_escaped: bool,
}

impl Cut {
    /// Whether `byte` is the comma or bracket after an element of an array.
    fn is_end(&mut self, byte: u8) -> bool {
        let is_outside = self.n_open == 0 && !self.is_in_string;
        self.pass(byte);
        is_outside && matches!(byte, b',' | b']')
    }

    /// The number of bytes up to the end of the object that begins with or before `bytes`; `None` if it
    /// has no end in them.
    fn end_of_object(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            self.pass(*byte);
            if self.n_open == 0 {
                return (*byte == b'}').then_some(at + 1);
            }
        }
        None
    }

    /// Whether the object has not ended and no text in it is open. Texts have no line breaks.
    fn is_between_texts(&self) -> bool {
        self.n_open > 0 && !self.is_in_string
    }

    fn pass(&mut self, byte: u8) {
        if self.is_in_string {
            self.is_in_string = byte != b'"' || self.is_escaped;
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.n_open += 1,
            b'}' | b']' => self.n_open = self.n_open.saturating_sub(1),
            _ => {}
        }
    }
}
