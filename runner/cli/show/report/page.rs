//! The page: a template, with styles, scripts and numbers inside.

use super::columns::{self, Cell, grouped};
use super::comparison;
use super::plots::Plots;
use super::provenance::{self, ATTEMPT_HEADER};
use crate::error::CliError;
use crate::show::doubts::{Measured, doubts};
use crate::show::table;
use crate::show::table::time;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;
use std::collections::HashSet;
use std::path::Path;
use store::{JobStatus, Report};

/// Its name ends in `.html`, which makes minijinja escape every value.
const NAME: &str = "page.html";

#[derive(Serialize)]
struct Row {
    /// Index of its SAE in the plots.
    sae: usize,
    cells: Vec<Cell>,
}

/// The page of a report whose files are in `runs_dir`.
///
/// # Errors
/// None that a report can cause.
pub(super) fn render(report: &Report, runs_dir: &Path) -> Result<String, CliError> {
    let plots = Plots::new(report, runs_dir);
    let columns = columns::of(&report.saes);
    let row = |(sae, &index)| Row {
        sae: index,
        cells: columns.iter().map(|column| column.cell(sae)).collect(),
    };
    let rows: Vec<_> = report.saes.iter().zip(&plots.of_row).map(row).collect();
    let page = context! {
        title => title(report),
        summary => value(summary(report)),
        doubts => value(doubts_of(report)),
        columns => value(&columns),
        rows => value(&rows),
        comparisons => value(comparison::of(report)),
        sweeps => value(provenance::of(report)),
        attempt_header => value(ATTEMPT_HEADER),
        version => env!("CARGO_PKG_VERSION"),
        written => time(jiff::Timestamp::now().as_millisecond()),
        plots => Value::from_safe_string(json(&plots)),
        css => verbatim(include_str!("page.css")),
        js => verbatim(include_str!("page.js")),
        export_js => verbatim(include_str!("export.js")),
        uplot_css => verbatim(include_str!("uplot/uPlot.min.css")),
        uplot_js => verbatim(include_str!("uplot/uPlot.iife.min.js")),
        uplot_licence => verbatim(include_str!("uplot/LICENSE")),
    };
    fill(page).map_err(|error| CliError::environment(format!("cannot make the page: {error}")))
}

fn fill(page: Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_template(NAME, include_str!("page.html"))?;
    environment.get_template(NAME)?.render(page)
}

fn value(of: impl Serialize) -> Value {
    Value::from(Serde(of))
}

/// Numbers that mislead, each with what to do about it.
fn doubts_of(report: &Report) -> Vec<String> {
    let measured: Vec<_> = report.saes.iter().map(Measured::of_report).collect();
    let said = doubts(&measured).into_iter().map(|doubt| match doubt.hint {
        Some(hint) => format!("{}; {hint}", doubt.message),
        None => doubt.message,
    });
    said.collect()
}

/// A file of ours, which must not be escaped.
fn verbatim(file: &str) -> Value {
    Value::from_safe_string(file.to_owned())
}

/// JSON that cannot end the script element it is in, nor open another: a `<` is only ever within a string.
fn json(plots: &Plots) -> String {
    let json = serde_json::to_string(plots).expect("numbers and text serialise");
    json.replace('<', "\\u003c")
}

fn title(report: &Report) -> String {
    match &report.sweeps[..] {
        [sweep] => sweep.sweep.clone(),
        sweeps => table::count(sweeps.len(), "sweep"),
    }
}

/// SAEs, each once though several sweeps or names may ask for it.
pub(super) fn n_saes(report: &Report) -> usize {
    let saes = report.saes.iter().map(|sae| sae.sae_id);
    saes.collect::<HashSet<_>>().len()
}

/// Numbers in a line: what, and how much.
fn summary(report: &Report) -> Vec<(&'static str, String)> {
    let n_jobs = |is: &dyn Fn(JobStatus) -> bool| {
        let jobs = report.saes.iter().filter(|sae| is(sae.status));
        jobs.map(|sae| &sae.job_id).collect::<HashSet<_>>().len()
    };
    let n_done = n_jobs(&|status| status == JobStatus::Done);
    // A stream that several sweeps share is there once for each.
    let mut attempts: Vec<_> = report.attempts.iter().collect();
    attempts.sort_by_key(|attempt| (&attempt.stream_id, attempt.number));
    attempts.dedup_by_key(|attempt| (&attempt.stream_id, attempt.number));
    let n_tokens: u64 = attempts.iter().map(|attempt| attempt.n_tokens).sum();
    let elapsed_ms: u64 = attempts.iter().map(|attempt| attempt.elapsed_ms).sum();
    vec![
        ("SAEs", n_saes(report).to_string()),
        ("jobs done", format!("{n_done} of {}", n_jobs(&|_| true))),
        ("tokens through the model", grouped(n_tokens)),
        (
            "minutes of training",
            format!("{:.1}", elapsed_ms as f64 / 60_000.0),
        ),
        (
            "tokens/s",
            match elapsed_ms {
                0 => String::new(),
                ms => grouped(n_tokens.saturating_mul(1000) / ms),
            },
        ),
    ]
}
