//! Parts of a data set by expressions such as `train[:5%]+test`, as `load_dataset` of Python's `datasets`
//! takes them.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Rows of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPart {
    /// The split.
    pub name: String,
    /// Its rows.
    pub rows: RowRange,
}

/// Some of the rows of a split, by their numbers or in percent. Negative bounds count from the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRange {
    from: Option<i64>,
    to: Option<i64>,
    unit: Unit,
}

/// What the bounds of a range count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Unit {
    #[default]
    Rows,
    /// Hundredths of the rows, rounded to the nearest row.
    Percent,
    /// Hundredths of equal length; the rows that are left over at the end are never taken.
    EqualPercent,
}

impl SplitPart {
    /// Reads an expression: parts with `+` between them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(expression: &str) -> Result<Vec<Self>, String> {
        let parts = expression.split('+');
        parts.map(|part| Self::parse_one(part.trim())).collect()
    }

    fn parse_one(part: &str) -> Result<Self, String> {
        let end_of_name = part.find(['[', '(']).unwrap_or(part.len());
        let (name, slice) = part.split_at(end_of_name);
        if name.is_empty() || name.contains([']', ')']) {
            return Err(format!("expected the name of a split, got `{part}`"));
        }
        Ok(Self {
            name: name.into(),
            rows: RowRange::parse(slice)?,
        })
    }
}

impl RowRange {
    /// Whether it is all rows.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the number of rows decides which ones they are.
    pub fn is_relative(&self) -> bool {
        let is_negative = |bound: Option<i64>| bound.is_some_and(|bound| bound < 0);
        self.unit != Unit::Rows || is_negative(self.from) || is_negative(self.to)
    }

    /// The rows of a split that has `n_rows`, which only counts if the range is relative. `None`: equal
    /// parts of fewer than 100 rows.
    pub fn of(&self, n_rows: u64) -> Option<Range<u64>> {
        let n_rows = if self.is_relative() {
            i64::try_from(n_rows).unwrap_or(i64::MAX)
        } else {
            i64::MAX
        };
        if self.unit == Unit::EqualPercent && n_rows < 100 {
            return None;
        }
        let from = self.bound(self.from, n_rows).unwrap_or(0);
        let to = self.bound(self.to, n_rows).unwrap_or(n_rows);
        Some(from as u64..to as u64)
    }

    /// Whether no row of a split is in both, however many rows it has. False also if that depends on it.
    pub(crate) fn is_apart_from(&self, other: &Self) -> bool {
        let ends_before = |first: &Self, second: &Self| match (first.to, second.from) {
            (Some(to), Some(from)) => (to < 0) == (from < 0) && to <= from,
            _ => false,
        };
        self.unit == other.unit && (ends_before(self, other) || ends_before(other, self))
    }

    fn bound(&self, bound: Option<i64>, n_rows: i64) -> Option<i64> {
        let bound = bound?;
        let row = match self.unit {
            Unit::Rows => bound,
            // As in Python, where halves are rounded to even numbers.
            Unit::Percent => (bound as f64 * n_rows as f64 / 100.0).round_ties_even() as i64,
            Unit::EqualPercent => bound * (n_rows / 100),
        };
        let row = if row < 0 {
            n_rows.saturating_add(row)
        } else {
            row
        };
        Some(row.clamp(0, n_rows))
    }

    /// Reads `[FROM:TO]`, with `(ROUNDING)` after it for percents; an empty text means all rows.
    fn parse(slice: &str) -> Result<Self, String> {
        if slice.is_empty() {
            return Ok(Self::default());
        }
        let odd = || format!("expected rows such as `[10:20]` or `[:5%]`, got `{slice}`");
        let rest = slice.strip_prefix('[').ok_or_else(odd)?;
        let (bounds, rounding) = rest.split_once(']').ok_or_else(odd)?;
        let (from, to) = bounds.split_once(':').ok_or_else(odd)?;
        let ((from, is_from_percent), (to, is_to_percent)) = (
            bound_of(from).ok_or_else(odd)?,
            bound_of(to).ok_or_else(odd)?,
        );
        let unit = match (is_from_percent || is_to_percent, rounding) {
            (false, "") => Unit::Rows,
            (true, "" | "(closest)") => Unit::Percent,
            (true, "(pct1_dropremainder)") => Unit::EqualPercent,
            _ => return Err(odd()),
        };
        let is_beyond = |bound: Option<i64>| bound.is_some_and(|bound| bound.abs() > 100);
        if unit != Unit::Rows && (is_beyond(from) || is_beyond(to)) {
            return Err(format!("`{slice}` has a bound of more than 100 %"));
        }
        Ok(Self { from, to, unit })
    }
}

/// A bound, and whether it is in percent.
fn bound_of(text: &str) -> Option<(Option<i64>, bool)> {
    if text.is_empty() {
        return Some((None, false));
    }
    let digits = text.strip_suffix('%').unwrap_or(text);
    let number = digits.replace('_', "").parse().ok()?;
    (!digits.starts_with('+')).then_some((Some(number), digits != text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(slice: &str, n_rows: u64) -> Range<u64> {
        let [part] = &SplitPart::parse(slice).unwrap()[..] else {
            panic!("{slice} is one part");
        };
        part.rows.of(n_rows).unwrap()
    }

    #[test]
    fn rows_are_those_of_python() {
        // As `ReadInstruction.from_spec(...).to_absolute` of `datasets` 5.2 gives them.
        for (slice, n_rows, expected) in [
            ("train[10:20]", 584, 10..20),
            ("train[:1_000]", 584, 0..584),
            ("train[-100:]", 584, 484..584),
            ("train[:-100]", 50, 0..0),
            ("train[-1000:10]", 584, 0..10),
            ("train[:5%]", 584, 0..29),
            ("train[:5%]", 10, 0..0),
            ("train[:15%]", 10, 0..2),
            ("train[:25%]", 10, 0..2),
            ("train[50%:]", 7, 4..7),
            ("train[-10%:]", 584, 526..584),
            ("train[10:20%]", 584, 58..117),
            ("train[5%:10%](closest)", 584, 29..58),
            ("train[:5%](pct1_dropremainder)", 584, 0..25),
            ("train[:100%](pct1_dropremainder)", 584, 0..500),
        ] {
            let rows = rows(slice, n_rows);
            let clamped = rows.start.min(n_rows)..rows.end.min(n_rows);
            assert_eq!(clamped, expected, "{slice} of {n_rows}");
        }
    }

    #[test]
    fn parts_are_joined() {
        let parts = SplitPart::parse("train_sft[:10] + test+a.b").unwrap();
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["train_sft", "test", "a.b"]);
        let are_whole: Vec<_> = parts.iter().map(|part| part.rows.is_whole()).collect();
        assert_eq!(are_whole, [false, true, true]);
    }

    #[test]
    fn the_number_of_rows_counts_where_it_has_to() {
        let is_relative = |slice| SplitPart::parse(slice).unwrap()[0].rows.is_relative();
        assert!(!is_relative("train") && !is_relative("train[3:8]"));
        assert!(is_relative("train[:8%]") && is_relative("train[-8:]"));
        let equal = SplitPart::parse("train[:8%](pct1_dropremainder)").unwrap();
        assert_eq!(equal[0].rows.of(99), None);
    }

    #[test]
    fn odd_expressions_are_named() {
        for expression in [
            "",
            "+",
            "train+",
            "[:3]",
            "train[3]",
            "train[",
            "train[:]x",
            "train[a:]",
            "train[:+3]",
            "train[:3](closest)",
            "train[:3%](up)",
            "train[:101%]",
            "train(closest)",
            "train[_:]",
        ] {
            assert!(SplitPart::parse(expression).is_err(), "{expression}");
        }
        let error = SplitPart::parse("train[3]").unwrap_err();
        assert_eq!(
            error,
            "expected rows such as `[10:20]` or `[:5%]`, got `[3]`"
        );
    }
}
