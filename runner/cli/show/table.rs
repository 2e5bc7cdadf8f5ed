//! Tables for people. Data goes to standard output, remarks to standard error.

use crate::error::CliError;
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use plan::Evaluated;
use plan::{escaped_lines, kind_has_k};
use std::io::{ErrorKind, Write};

pub(crate) use crate::show::remark::{note, note_with_hint, remark};
pub(crate) use plan::{bytes, count, escaped};

/// Writes text to standard output, with what steers a terminal spelt out; JSON stays the same JSON. A reader
/// that has seen enough (`| head`) is not an error.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn print(text: &str) -> Result<u8, CliError> {
    let text = escaped_lines(text);
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::environment(format!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(0),
    }
}

/// A table with right-aligned columns from `first_number` on.
pub(crate) fn render(header: &[&str], rows: Vec<Vec<String>>, first_number: usize) -> String {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table
        .load_style(TableStyle::new().header_separator(rule))
        .set_header(header.iter().map(|cell| escaped(cell)))
        .add_rows(rows.iter().map(|row| row.iter().map(|cell| escaped(cell))));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= first_number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// The first few of `names`.
pub(crate) fn first_of(names: &[String]) -> String {
    let first = names.iter().take(5).map(|name| format!("`{name}`"));
    let more = if names.len() > 5 { ", ..." } else { "" };
    first.collect::<Vec<_>>().join(", ") + more
}

/// A time in UTC, to the second.
pub(crate) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| ms.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// A number with `digits` digits after the point; a dash for `None`.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// `k` of an SAE; a dash for a kind that has none.
pub(crate) fn k_of(kind: &str, k: impl ToString) -> String {
    if kind_has_k(kind) {
        k.to_string()
    } else {
        "-".to_owned()
    }
}

/// Whether a table says of which kind SAEs are: if not all are of the default one.
pub(crate) fn has_kinds<'a>(mut kinds: impl Iterator<Item = &'a str>) -> bool {
    kinds.any(|kind| kind != "topk")
}

/// One row per evaluated SAE.
pub(crate) fn evaluations(evaluated: &[Evaluated]) -> String {
    let row = |evaluated: &Evaluated| {
        let stats = &evaluated.stats;
        let share = number(stats.ce_recovered(), 4);
        let number = |value: f64, digits| number(value.is_finite().then_some(value), digits);
        vec![
            evaluated.name.clone(),
            number(stats.fvu(), 4),
            number(stats.mean_l0(), 1),
            number(stats.dead_pct(evaluated.num_latents), 1),
            number(stats.mean_ce_clean(), 4),
            number(stats.mean_ce_spliced(), 4),
            number(stats.mean_ce_ablated(), 4),
            share,
            number(stats.mean_kl(), 4),
        ]
    };
    let header = [
        "SAE",
        "FVU",
        "L0",
        "dead %",
        "CE clean",
        "CE spliced",
        "CE ablated",
        "CE recovered",
        "KL",
    ];
    render(&header, evaluated.iter().map(row).collect(), 1)
}

/// A line that says why a job failed.
pub(crate) fn failure_line(job: &str, job_id: &str, reason: &str) -> String {
    escaped(&format!("{job} ({job_id}) failed: {reason}")) + "\n"
}

/// How often something was begun again, as the end of a line about it.
pub(crate) fn begun_again(n_times: u32) -> String {
    match n_times {
        0 => String::new(),
        1 => ", begun again once".to_owned(),
        n => format!(", begun again {n} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_the_terminal() {
        let name = "a\n\x1b[2J\r\u{9b}\u{202e}\"ß'";
        assert_eq!(escaped(name), r#"a\n\u001b[2J\r\u009b\u202e"ß'"#);
        let table = render(&["\x07"], vec![vec![name.into()]], 9);
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(!table.contains('\x1b') && !table.contains('\x07'));
    }
}
