//! The rows that are taken of a part of a data set.

use plan::RowRange;
use std::ops::Range;

/// How far a part of a data set is read.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// Number of the part among those that the split names.
    pub(super) part: usize,
    /// Numbers of the rows that are taken; `None`: all of them.
    rows: Option<Range<u64>>,
    n_read: u64,
}

impl Slice {
    /// The first row of a part comes next.
    ///
    /// `n_rows` counts the rows of the part, if it has to. `None`: equal parts of too few rows.
    pub(super) fn new<E>(
        part: usize,
        range: &RowRange,
        n_rows: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Option<Self>, E> {
        let n_rows = if range.is_relative() { n_rows()? } else { 0 };
        let rows = range.of(n_rows);
        Ok(rows.map(|rows| Self {
            part,
            rows: Some(rows),
            n_read: 0,
        }))
    }

    /// Whether no further row is taken.
    pub(super) fn is_over(&self) -> bool {
        self.rows
            .as_ref()
            .is_some_and(|rows| self.n_read >= rows.end)
    }

    /// Counts a row, and tells whether it is taken.
    pub(super) fn takes_next(&mut self) -> bool {
        let row = self.n_read;
        self.n_read += 1;
        self.rows.as_ref().is_none_or(|rows| rows.contains(&row))
    }
}
