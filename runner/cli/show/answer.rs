//! Rows of the database as a table, JSON or CSV.

use crate::error::CliError;
use crate::show::json::SCHEMA;
use crate::show::table;
use args::Format;
use plan::escaped_lines;
use serde_json::{Map, Value};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::ops::ControlFlow;
use store::{QueryTable, RowSink};

/// Prints rows as asked for. `what`: the key under which an object has them.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn print(
    found: &QueryTable,
    format: Format,
    what: &'static str,
) -> Result<u8, CliError> {
    let Some(mut rows) = RowPrinter::of(format, what) else {
        return table::print(&as_table(found));
    };
    rows.begin(found.columns.clone());
    let mut found = found.rows.iter();
    while found
        .next()
        .is_some_and(|row| rows.take(row.clone()).is_continue())
    {}
    rows.end()
}

/// Prints rows as they come, as JSON or CSV.
pub(crate) struct RowPrinter {
    out: Out,
    columns: Vec<String>,
    what: &'static str,
    n_rows: u64,
    written: io::Result<()>,
    /// Whether it goes to a terminal, which some characters would steer. JSON has them spelt out anyway.
    is_shown: bool,
}

enum Out {
    Csv(Box<csv::Writer<Stdout>>),
    Json(BufWriter<Stdout>),
}

impl RowPrinter {
    /// `None`: a table is asked for, which needs all rows at once. `what`: the key of the rows.
    pub(crate) fn of(format: Format, what: &'static str) -> Option<Self> {
        let out = match format {
            Format { json: true, .. } => Out::Json(BufWriter::new(io::stdout())),
            Format { csv: true, .. } => Out::Csv(Box::new(csv::Writer::from_writer(io::stdout()))),
            _ => return None,
        };
        Some(Self {
            out,
            columns: Vec::new(),
            what,
            n_rows: 0,
            written: Ok(()),
            is_shown: io::stdout().is_terminal(),
        })
    }

    /// Prints what is left. A reader that has seen enough (`| head`) is not an error.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(crate) fn end(mut self) -> Result<u8, CliError> {
        let written = std::mem::replace(&mut self.written, Ok(()));
        match written.and_then(|()| self.write_end()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::environment(
                format!("cannot write to standard output: {error}"),
            )),
            _ => Ok(0),
        }
    }

    fn write_end(&mut self) -> io::Result<()> {
        match &mut self.out {
            Out::Csv(writer) => writer.flush(),
            Out::Json(writer) => {
                let end = if self.n_rows == 0 {
                    "]\n}\n"
                } else {
                    "\n  ]\n}\n"
                };
                writer.write_all(end.as_bytes())?;
                writer.flush()
            }
        }
    }

    fn write(&mut self, row: Vec<Value>) -> io::Result<()> {
        match &mut self.out {
            Out::Csv(writer) => {
                let is_shown = self.is_shown;
                let cells = row.iter().map(|cell| {
                    if is_shown {
                        escaped_lines(&plain(cell))
                    } else {
                        plain(cell)
                    }
                });
                writer.write_record(cells).map_err(of_writing)
            }
            Out::Json(writer) => {
                let object: Map<_, _> = self.columns.iter().cloned().zip(row).collect();
                let object = escaped_lines(&serde_json::to_string_pretty(&object)?);
                let before = if self.n_rows == 0 {
                    "\n    "
                } else {
                    ",\n    "
                };
                writer.write_all(before.as_bytes())?;
                writer.write_all(object.replace('\n', "\n    ").as_bytes())
            }
        }
    }
}

/// What the system said, which csv's own conversion hides.
fn of_writing(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

impl RowSink for RowPrinter {
    fn begin(&mut self, columns: Vec<String>) {
        self.written = match &mut self.out {
            Out::Csv(writer) => writer.write_record(&columns).map_err(of_writing),
            Out::Json(writer) => {
                let names = format!("{:#}", Value::from(columns.as_slice()));
                let names = escaped_lines(&names).replace('\n', "\n  ");
                let head = format!(
                    "{{\n  \"schema\": {SCHEMA},\n  \"columns\": {names},\n  \"{}\": [",
                    self.what
                );
                writer.write_all(head.as_bytes())
            }
        };
        self.columns = columns;
    }

    fn take(&mut self, row: Vec<Value>) -> ControlFlow<()> {
        if self.written.is_ok() {
            self.written = self.write(row);
            self.n_rows += 1;
        }
        match self.written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

fn as_table(found: &QueryTable) -> String {
    let header: Vec<&str> = found.columns.iter().map(String::as_str).collect();
    let rows = found
        .rows
        .iter()
        .map(|row| row.iter().map(plain).collect())
        .collect();
    table::render(&header, rows, usize::MAX)
}

/// A value without quotes; NULL is empty.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
