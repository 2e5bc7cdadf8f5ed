//! Tables that fit the terminal: what says least is shortened or left out.

use crate::show::table::{escaped, note, render};
use std::env;
use std::io;
use terminal_size::{Width, terminal_size_of};

/// Between two columns.
const GAP: usize = 3;
/// A name is never cut to less.
const SHORTEST_NAME: usize = 16;
/// A longer one is cut before a column is left out for it.
const LONGEST_NAME: usize = 40;

/// A column of a table.
pub(crate) struct Column {
    heading: String,
    cells: Vec<String>,
    /// What is shown if there is no space for the cells.
    short: Option<Vec<String>>,
    is_number: bool,
    /// The least goes first; 0 is always shown.
    rank: usize,
}

impl Column {
    /// A column of texts.
    pub(crate) fn text(heading: &str, cells: impl IntoIterator<Item = String>) -> Self {
        let cells = cells.into_iter().map(|cell| escaped(&cell));
        Self {
            heading: escaped(heading),
            cells: cells.collect(),
            short: None,
            is_number: false,
            rank: 0,
        }
    }

    /// A column of numbers, which are aligned on the right.
    pub(crate) fn number(heading: &str, cells: impl IntoIterator<Item = String>) -> Self {
        Self {
            is_number: true,
            ..Self::text(heading, cells)
        }
    }

    /// It may be left out, the greater `rank` is the sooner.
    pub(crate) fn rank(self, rank: usize) -> Self {
        Self { rank, ..self }
    }

    /// Other texts in case there is no space.
    pub(crate) fn or_short(self, short: Vec<String>) -> Self {
        Self {
            short: Some(short),
            ..self
        }
    }

    /// Names that lose their middle before a column is left out for them.
    pub(crate) fn or_cut(self) -> Self {
        let short = self.cells.iter().map(|cell| cut(cell, LONGEST_NAME));
        Self {
            short: Some(short.collect()),
            ..self
        }
    }

    /// Itself, if there is a value in it.
    pub(crate) fn with_values(self) -> Option<Self> {
        let has_values = self.cells.iter().any(|cell| cell != "-");
        has_values.then_some(self)
    }

    /// Whether rows differ in it.
    fn tells_apart(&self) -> bool {
        self.cells.windows(2).any(|pair| pair[0] != pair[1])
    }

    fn width_of(&self, cells: &[String]) -> usize {
        let widths = cells.iter().map(|cell| cell.chars().count());
        widths.fold(self.heading.chars().count(), usize::max)
    }

    fn width(&self) -> usize {
        self.width_of(&self.cells)
    }

    fn least_width(&self) -> usize {
        let short = self.short.as_ref().map(|short| self.width_of(short));
        short.map_or(self.width(), |short| short.min(self.width()))
    }
}

/// A table, and the headings of what it left out.
pub(crate) struct Fitted {
    pub(crate) text: String,
    left_out: Vec<String>,
}

impl Fitted {
    /// Says what was left out. `elsewhere`: which command has it.
    pub(crate) fn note(&self, elsewhere: &str) {
        if !self.left_out.is_empty() {
            let headings: Vec<_> = self.left_out.iter().map(|it| format!("`{it}`")).collect();
            note(&format!(
                "no space for {}: {elsewhere} shows all",
                headings.join(", ")
            ));
        }
    }

    /// Two tables, one after the other.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.text += &format!("\n{}", other.text);
        self.left_out.extend(other.left_out);
        self
    }
}

/// The width of the terminal; without one that of `COLUMNS`, or no limit: a file or another program gets all columns.
pub(crate) fn width() -> usize {
    let of_terminal = terminal_size_of(io::stdout()).map(|(Width(width), _)| usize::from(width));
    let said = env::var("COLUMNS").ok().and_then(|said| said.parse().ok());
    let mut widths = [of_terminal, said].into_iter().flatten();
    widths.find(|width| *width > 0).unwrap_or(usize::MAX)
}

/// A table of at most `width` characters in a line, if that can be. The longest names are cut if nothing else can be
/// left out.
pub(crate) fn fit(columns: Vec<Column>, width: usize) -> Fitted {
    let (mut shown, left_out) = chosen(columns, width);
    let used = |shown: &[Column]| needed(shown.iter().map(Column::width));
    for index in 0..shown.len() {
        let is_too_wide = used(&shown) > width;
        if let Some(short) = shown[index].short.take_if(|_| is_too_wide) {
            shown[index].cells = short;
        }
    }
    let over = used(&shown).saturating_sub(width);
    let names = shown.iter_mut().filter(|column| !column.is_number);
    if let Some(names) = names.max_by_key(|column| column.width())
        && over > 0
    {
        let length = names.width().saturating_sub(over).max(SHORTEST_NAME);
        for name in &mut names.cells {
            *name = cut(name, length);
        }
    }
    Fitted {
        text: drawn(&shown, width),
        left_out: left_out.into_iter().map(|column| column.heading).collect(),
    }
}

/// Those for which there is space, the important ones first, and the others; both in their order.
fn chosen(columns: Vec<Column>, width: usize) -> (Vec<Column>, Vec<Column>) {
    let has_rows = columns.first().is_some_and(|column| column.cells.len() > 1);
    let mut order: Vec<_> = (0..columns.len()).collect();
    order.sort_by_key(|&index| {
        let column = &columns[index];
        let says_little = column.rank > 0 && has_rows && !column.tells_apart();
        (says_little, column.rank)
    });
    let mut is_shown = vec![false; columns.len()];
    for index in order {
        is_shown[index] = true;
        let shown = columns
            .iter()
            .zip(&is_shown)
            .filter(|(_, is_shown)| **is_shown);
        let needed = needed(shown.map(|(column, _)| column.least_width()));
        is_shown[index] = needed <= width || columns[index].rank == 0;
    }
    let mut is_shown = is_shown.into_iter();
    columns
        .into_iter()
        .partition(|_| is_shown.next() == Some(true))
}

/// The width of a table with columns of such widths.
fn needed(widths: impl Iterator<Item = usize>) -> usize {
    let total: usize = widths.map(|width| width + GAP).sum();
    total.saturating_sub(GAP)
}

fn cut(name: &str, length: usize) -> String {
    let n = name.chars().count();
    if n <= length {
        return name.to_owned();
    }
    let head = (length - 1) / 2;
    let tail = length - 1 - head;
    let (head, tail) = (name.chars().take(head), name.chars().skip(n - tail));
    head.chain(['…']).chain(tail).collect()
}

fn drawn(columns: &[Column], width: usize) -> String {
    let n_rows = columns.first().map_or(0, |column| column.cells.len());
    let row = |index: usize| columns.iter().map(|own| own.cells[index].clone()).collect();
    let rows = (0..n_rows).map(row).collect();
    let header: Vec<_> = columns
        .iter()
        .map(|column| column.heading.as_str())
        .collect();
    let first_number = columns.iter().position(|column| column.is_number);
    let text = render(&header, rows, first_number.unwrap_or(usize::MAX));
    // The rule is a little longer than the rows.
    let is_rule = |line: &str| line.starts_with('─');
    let lines = text.lines().map(|line| {
        let n = if is_rule(line) { width } else { usize::MAX };
        line.chars().take(n).chain(['\n']).collect::<String>()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Column> {
        let cells = |of: [&str; 2]| of.map(str::to_owned);
        vec![
            Column::text("job", cells(["k=16,lr=0.001", "k=32,lr=0.001"])),
            Column::text(
                "hookpoints",
                cells(["layers.1 layers.2", "layers.1 layers.2"]),
            )
            .rank(2)
            .or_short(cells(["2", "2"]).into()),
            Column::number("k", cells(["16", "32"])).rank(1),
            Column::number("latents", cells(["64", "64"])).rank(3),
            Column::number("FVU", cells(["0.1", "0.2"])),
        ]
    }

    #[test]
    fn what_says_least_goes_first_and_names_last() {
        let at = |width| {
            let fitted = fit(table(), width);
            for line in fitted.text.lines() {
                assert!(
                    line.chars().count() <= width.max(30),
                    "{width}:\n{}",
                    fitted.text
                );
            }
            let lines: Vec<_> = fitted.text.lines().map(str::to_owned).collect();
            let row = lines[3].split_whitespace().collect::<Vec<_>>().join(" ");
            (row, fitted.left_out)
        };
        let (row, left_out) = at(80);
        assert_eq!(row, "k=32,lr=0.001 layers.1 layers.2 32 64 0.2");
        assert!(left_out.is_empty());
        let (row, left_out) = at(50);
        assert_eq!(row, "k=32,lr=0.001 2 32 64 0.2");
        assert!(left_out.is_empty());
        let (row, left_out) = at(40);
        assert_eq!(row, "k=32,lr=0.001 2 32 0.2");
        assert_eq!(left_out, ["latents"]);
        let (row, left_out) = at(30);
        assert_eq!(row, "k=32,lr=0.001 32 0.2");
        assert_eq!(left_out, ["hookpoints", "latents"]);
        let (row, _) = at(20);
        assert_eq!(row, "k=32,lr=0.001 0.2");
    }

    #[test]
    fn a_name_that_alone_is_too_long_loses_its_middle() {
        let name = "a".repeat(20) + &"b".repeat(20);
        let columns = vec![
            Column::text("job", [name.clone()]),
            Column::number("FVU", ["0.1".to_owned()]),
        ];
        let text = fit(columns, 30).text;
        let row = text.lines().last().unwrap();
        assert_eq!(row, "aaaaaaaaaaa…bbbbbbbbbbbb   0.1");
        assert_eq!(cut("short", 16), "short");
    }
}
