//! `sae-run report`: sweeps as one page of HTML that needs no other file.

mod columns;
mod comparison;
mod density;
mod frontier;
mod page;
mod plots;
mod provenance;
mod titles;

use crate::error::CliError;
use crate::show::{json, several, table};
use args::ReportArgs;
use files::OutputFile;
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;
use store::Report;

/// Intervals of a curve: more than a plot has pixels to tell apart at phone width, and few enough that 200
/// SAEs stay below 1 MB.
const N_POINTS: u32 = 200;

/// `sae-run report`.
///
/// # Errors
/// No database, no such sweep, nothing to show, or a file that cannot be written.
pub(crate) async fn report(args: &ReportArgs) -> Result<u8, CliError> {
    let sweep = args.sweep.as_deref();
    let opened = several::open(&args.store).await?;
    let report = opened.store.report(sweep, N_POINTS).await?;
    check(&report, sweep)?;
    let page = page::render(&report, &opened.runs_dir)?;
    write(&args.out, &page)?;
    let n_saes = table::count(page::n_saes(&report), "SAE");
    let n_sweeps = table::count(report.sweeps.len(), "sweep");
    let out = args.out.display();
    let size = table::bytes(page.len() as u64);
    table::note(&format!("{out}: {n_saes} of {n_sweeps}, {size}"));
    // In the same stream as the page it would be part of it.
    if args.json && args.out.as_os_str() != "-" {
        return json::print(&json!({
            "file": args.out,
            "n_bytes": page.len(),
            "n_sweeps": report.sweeps.len(),
            "n_saes": page::n_saes(&report),
        }));
    }
    Ok(0)
}

/// Refuses to write a page without a number on it.
fn check(report: &Report, sweep: Option<&str>) -> Result<(), CliError> {
    if report.saes.iter().any(|sae| sae.n_tokens.is_some()) {
        return Ok(());
    }
    let what = sweep.map_or("no sweep".to_owned(), |sweep| format!("sweep `{sweep}`"));
    let has = if sweep.is_some() { "has no" } else { "has" };
    let error = CliError::input(format!("{what} {has} results yet"));
    Err(error.with_hint(
        "a job has some once its worker has reported; `sae-run ls` shows how far sweeps are"
            .to_owned(),
    ))
}

fn write(out: &Path, page: &str) -> Result<(), CliError> {
    if out.is_dir() {
        let error = CliError::input(format!("`{}` is a folder", out.display()));
        return Err(error.with_hint("name a file, such as `-o report.html`".to_owned()));
    }
    let write = || {
        let mut file = OutputFile::create(out)?;
        file.write_all(page.as_bytes())?;
        file.finish()
    };
    let written: io::Result<()> = write();
    written.map_err(|error| CliError::io("write", out, &error))
}
