//! Where the numbers of a sweep come from, as tables of text.

use super::columns::grouped;
use crate::show::table::time;
use serde::Serialize;
use store::{Report, ReportAttempt, ReportInput, ReportSweep};

/// A sweep on the page.
#[derive(Serialize)]
pub(super) struct Sweep {
    name: String,
    text: String,
    facts: Vec<(&'static str, String)>,
    attempts: Vec<[String; 10]>,
}

/// The header of a sweep's attempts.
pub(super) const ATTEMPT_HEADER: [&str; 10] = [
    "attempt",
    "status",
    "jobs",
    "host",
    "device",
    "libtorch",
    "started (UTC)",
    "ended (UTC)",
    "tokens/s",
    "reason",
];

/// The sweeps of a report.
pub(super) fn of(report: &Report) -> Vec<Sweep> {
    let sweep = |sweep: &ReportSweep| {
        let name = &sweep.sweep;
        let inputs = report.inputs.iter().filter(|input| input.sweep == *name);
        let attempts = report
            .attempts
            .iter()
            .filter(|attempt| attempt.sweep == *name);
        Sweep {
            name: name.clone(),
            text: sweep.text.clone(),
            facts: facts(sweep)
                .into_iter()
                .chain(inputs.flat_map(input))
                .collect(),
            attempts: attempts.map(attempt).collect(),
        }
    };
    report.sweeps.iter().map(sweep).collect()
}

fn facts(sweep: &ReportSweep) -> [(&'static str, String); 6] {
    [
        (
            "version",
            format!(
                "{}, first run {} UTC",
                sweep.revision,
                time(sweep.created_ms)
            ),
        ),
        ("recipe", sweep.recipe.clone()),
        ("recipe digest", sweep.recipe_digest.clone()),
        ("request digest", sweep.request_digest.clone()),
        ("text digest", sweep.text_digest.clone()),
        ("jobs digest", sweep.jobs_digest.clone()),
    ]
}

fn input(input: &ReportInput) -> [(&'static str, String); 5] {
    [
        ("model", input.model.clone()),
        ("model digest", input.model_digest.clone()),
        ("data", input.dataset.clone()),
        ("token digest", input.token_digest.clone()),
        ("trainer version", input.trainer_version.to_string()),
    ]
}

fn attempt(attempt: &ReportAttempt) -> [String; 10] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let tokens_per_s = match attempt.elapsed_ms {
        0 => String::new(),
        ms => grouped(attempt.n_tokens.saturating_mul(1000) / ms),
    };
    [
        format!("{} #{}", attempt.stream_id, attempt.number),
        attempt.status.to_string(),
        attempt.n_jobs.to_string(),
        text(&attempt.host),
        text(&attempt.device),
        text(&attempt.libtorch),
        time(attempt.started_ms),
        attempt.ended_ms.map(time).unwrap_or_default(),
        tokens_per_s,
        text(&attempt.reason),
    ]
}
