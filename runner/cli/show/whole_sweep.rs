//! `sae-run show SWEEP`: all that is known about a sweep.

use crate::error::CliError;
use crate::show::fitted::{Column, fit, width};
use crate::show::json;
use crate::show::names::ShortNames;
use crate::show::table::{self, count, escaped, number, time};
use serde_json::{Value, json};
use std::fmt::Write;
use store::{SweepDetails, SweepJobRow};

/// Prints a sweep.
///
/// # Errors
/// Standard output that cannot be written.
pub(crate) fn print(sweep: &SweepDetails, as_json_object: bool) -> Result<u8, CliError> {
    if as_json_object {
        return json::print(&as_json(sweep));
    }
    let jobs = fit(columns(&sweep.jobs), width());
    let names = ShortNames::of(sweep.jobs.iter().map(|job| job.job.as_str()));
    let text = sweep.versions.last().map_or("", |version| &version.text);
    let parts = [
        head(sweep),
        jobs.text.clone() + &names.remark(),
        failures(&sweep.jobs),
        format!("file\n{}", indented(text)),
    ];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    let code = table::print(&parts.collect::<Vec<_>>().join("\n"))?;
    jobs.note("`--json`");
    Ok(code)
}

fn head(sweep: &SweepDetails) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<10} {}", escaped(value));
    };
    line("sweep", &sweep.sweep);
    if let (Some(first), Some(last)) = (sweep.versions.first(), sweep.versions.last()) {
        line("recipe", &last.recipe);
        let versions = count(sweep.versions.len(), "version");
        line(
            "versions",
            &format!("{versions}, the first of {} UTC", time(first.created_ms)),
        );
        if sweep.versions.len() > 1 {
            line(
                "current",
                &format!("version {} of {} UTC", last.revision, time(last.created_ms)),
            );
        }
    }
    let of = |status: &str| {
        sweep
            .jobs
            .iter()
            .filter(|job| job.status.to_string() == status)
            .count()
    };
    let statuses = [
        "done",
        "running",
        "failed",
        "stopped",
        "interrupted",
        "queued",
    ];
    let counts = statuses.iter().filter(|status| of(status) > 0);
    let counts: Vec<_> = counts
        .map(|status| format!("{} {status}", of(status)))
        .collect();
    line("jobs", &counts.join(", "));
    if !sweep.tags.is_empty() {
        line("tags", &sweep.tags.join(" "));
    }
    for note in &sweep.notes {
        line("note", &format!("{}: {}", time(note.created_ms), note.text));
    }
    text
}

fn columns(jobs: &[SweepJobRow]) -> Vec<Column> {
    let names = ShortNames::of(jobs.iter().map(|job| job.job.as_str()));
    vec![
        Column::text("job", jobs.iter().map(|job| names.shortened(&job.job))),
        Column::text("id", jobs.iter().map(|job| job.job_id.clone())),
        Column::text("status", jobs.iter().map(|job| job.status.to_string())).rank(1),
        Column::number("SAEs", jobs.iter().map(|job| job.n_saes.to_string())).rank(2),
        Column::number("best FVU", jobs.iter().map(|job| number(job.best_fvu, 4))),
    ]
}

/// Why jobs failed.
fn failures(jobs: &[SweepJobRow]) -> String {
    let failed = jobs
        .iter()
        .filter_map(|job| Some((job, job.failure.as_ref()?)));
    let lines =
        failed.map(|(job, failure)| table::failure_line(&job.job, &job.job_id, &failure.text));
    lines.collect()
}

fn indented(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| format!("    {line}").trim_end().to_owned() + "\n");
    lines.collect()
}

fn as_json(sweep: &SweepDetails) -> Value {
    let versions = sweep.versions.iter().map(|version| {
        json!({
            "revision": version.revision,
            "recipe": version.recipe,
            "text": version.text,
            "n_jobs": version.n_jobs,
            "created_ms": version.created_ms,
        })
    });
    let jobs = sweep.jobs.iter().map(|job| {
        json!({
            "job": job.job,
            "job_id": job.job_id,
            "status": job.status.to_string(),
            "n_saes": job.n_saes,
            "best_fvu": job.best_fvu,
            "reason": job.failure.as_ref().map(|failure| &failure.text),
        })
    });
    let notes = sweep
        .notes
        .iter()
        .map(|note| json!({"text": note.text, "created_ms": note.created_ms}));
    json!({
        "sweep": sweep.sweep,
        "versions": versions.collect::<Vec<_>>(),
        "jobs": jobs.collect::<Vec<_>>(),
        "tags": sweep.tags,
        "notes": notes.collect::<Vec<_>>(),
    })
}
