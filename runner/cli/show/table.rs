//! Tables for people. Data goes to standard output, remarks to standard error.

use crate::error::CliError;
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use plan::Evaluated;
use plan::{Plan, Stream, escaped_lines};
use std::io::{ErrorKind, Write};
use store::ResultRow;

pub(crate) use crate::show::remark::{note, note_with_hint, remark};
pub(crate) use plan::escaped;

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

/// The jobs and streams of a plan.
pub(crate) fn plan(plan: &Plan) -> String {
    let job_row = |job: &plan::Job| {
        let hookpoints: Vec<_> = job.saes.iter().map(|sae| sae.name.as_str()).collect();
        let latents = job
            .saes
            .iter()
            .map(|sae| sae.num_latents)
            .max()
            .unwrap_or(0);
        vec![
            job.name.clone(),
            job.job_id.clone(),
            hookpoints.join(" "),
            job.config.k.to_string(),
            latents.to_string(),
        ]
    };
    let jobs = plan.jobs.iter().map(job_row).collect();
    let jobs = render(&["job", "id", "hookpoints", "k", "latents"], jobs, 3);
    let streams = plan
        .streams
        .iter()
        .map(|stream| stream_row(plan, stream))
        .collect();
    let header = [
        "stream",
        "jobs",
        "SAEs",
        "layers run",
        "model",
        "SAE state",
        "workspace",
        "memory",
    ];
    let streams = render(&header, streams, 1) + &per_process(plan);
    let plan::RecipeIdentity { recipe, fuel, .. } = &plan.recipe;
    let counts = [
        count(plan.jobs.len(), "job"),
        count(plan.streams.len(), "stream"),
    ]
    .join(" in ");
    format!("{jobs}\n{streams}\n{counts}, by recipe `{recipe}` ({fuel} fuel)\n")
}

/// Which process the memory is of, if several train a stream.
fn per_process(plan: &Plan) -> String {
    match plan.n_ranks() {
        n_ranks @ 2.. => {
            format!("memory is per process: of that one of {n_ranks} which needs the most\n")
        }
        _ => String::new(),
    }
}

fn stream_row(plan: &Plan, stream: &Stream) -> Vec<String> {
    let jobs = plan.jobs_of(stream);
    let n_saes: usize = jobs.iter().map(|job| job.saes.len()).sum();
    let memory = &stream.memory;
    vec![
        stream.stream_id.clone(),
        stream.job_ids.len().to_string(),
        n_saes.to_string(),
        blocks_run(stream),
        megabytes(memory.model_bytes),
        megabytes(memory.sae_bytes),
        megabytes(memory.workspace_bytes),
        megabytes(memory.total_bytes()),
    ]
}

/// Blocks of the model that are run, and of the second one if there is one: `3`, `3 + 2`.
fn blocks_run(stream: &Stream) -> String {
    let first = stream.n_layers_run;
    match stream.second_n_layers_run {
        Some(second) => format!("{first} + {second}"),
        None => first.to_string(),
    }
}

/// `1 job`, `2 jobs`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// The first few of `names`.
pub(crate) fn first_of(names: &[String]) -> String {
    let first = names.iter().take(5).map(|name| format!("`{name}`"));
    let more = if names.len() > 5 { ", ..." } else { "" };
    first.collect::<Vec<_>>().join(", ") + more
}

/// A number of bytes, in the unit that suits it.
pub(crate) fn bytes(n_bytes: u64) -> String {
    match n_bytes {
        0..1_000 => format!("{n_bytes} B"),
        1_000..1_000_000 => format!("{} kB", n_bytes.div_ceil(1_000)),
        _ => megabytes(n_bytes),
    }
}

fn megabytes(n_bytes: u64) -> String {
    format!("{} MB", n_bytes.div_ceil(1_000_000))
}

/// A number with `digits` digits after the point; a dash for `None`.
pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// One row per SAE, with the results on held-out sequences if some were evaluated.
pub(crate) fn results(rows: &[ResultRow]) -> String {
    let is_evaluated = rows.iter().any(|row| row.fvu_eval.is_some());
    let has_kinds = has_kinds(rows.iter().map(|row| row.kind.as_str()));
    let row = |row: &ResultRow| {
        let mut cells = vec![row.job.clone(), row.sae.clone()];
        if has_kinds {
            cells.push(row.kind.clone());
        }
        cells.extend([
            row.k.to_string(),
            row.num_latents.to_string(),
            number(row.fvu, 4),
            number(row.l0, 1),
            number(row.dead_pct, 1),
        ]);
        if is_evaluated {
            cells.extend([row.fvu_eval, row.ce_recovered].map(|value| number(value, 4)));
        }
        cells.push(number(row.tokens_per_s, 0));
        cells
    };
    let mut header = vec!["job", "hookpoint"];
    if has_kinds {
        header.push("kind");
    }
    let first_number = header.len();
    header.extend(["k", "latents", "FVU", "L0", "dead %"]);
    if is_evaluated {
        header.extend(["FVU held out", "CE recovered"]);
    }
    header.push("tokens/s");
    render(&header, rows.iter().map(row).collect(), first_number)
}

/// Whether a table says of which kind SAEs are: if not all are of the default one.
pub(crate) fn has_kinds<'a>(mut kinds: impl Iterator<Item = &'a str>) -> bool {
    kinds.any(|kind| kind != "topk")
}

/// One row per evaluated SAE.
pub(crate) fn evaluations(evaluated: &[Evaluated]) -> String {
    let row = |evaluated: &Evaluated| {
        let stats = &evaluated.stats;
        let number = |value: f64, digits| number(value.is_finite().then_some(value), digits);
        vec![
            evaluated.name.clone(),
            number(stats.fvu(), 4),
            number(stats.mean_l0(), 1),
            number(stats.dead_pct(evaluated.num_latents), 1),
            number(stats.mean_ce_clean(), 4),
            number(stats.mean_ce_spliced(), 4),
            number(stats.mean_ce_ablated(), 4),
            number(stats.ce_recovered(), 4),
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
        "recovered",
        "KL",
    ];
    render(&header, evaluated.iter().map(row).collect(), 1)
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
