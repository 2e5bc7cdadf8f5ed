//! `sae-run ls` and `sae-run show`: what past runs were.

use crate::args::{ShowArgs, StoreArgs};
use crate::error::CliError;
use crate::runs_folder::DATABASE;
use crate::table;
use std::fmt::Write;
use store::{AttemptRow, JobDetails, SaeRow, Store, SweepSummary};

/// Opens the database of a runs folder for reading.
///
/// # Errors
/// There is none, or it is not ours.
pub(crate) async fn open(args: &StoreArgs) -> Result<Store, CliError> {
    Ok(Store::open_read_only(&args.runs_dir()?.join(DATABASE)).await?)
}

/// `sae-run ls`.
///
/// # Errors
/// No database.
pub(crate) async fn ls(args: &StoreArgs) -> Result<u8, CliError> {
    let sweeps = open(args).await?.sweeps().await?;
    let row = |sweep: &SweepSummary| {
        vec![
            sweep.sweep.clone(),
            sweep.recipe.clone(),
            format!("{}/{}", sweep.n_done, sweep.n_jobs),
            sweep.n_failed.to_string(),
            sweep.n_running.to_string(),
            time(sweep.last_activity_ms),
        ]
    };
    let header = [
        "sweep",
        "recipe",
        "done",
        "failed",
        "running",
        "last activity (UTC)",
    ];
    table::print(&table::render(&header, sweeps.iter().map(row).collect(), 2))
}

/// `sae-run show JOB`.
///
/// # Errors
/// No database or no such job.
pub(crate) async fn show(args: &ShowArgs) -> Result<u8, CliError> {
    let job = open(&args.store).await?.job(&args.job).await?;
    let folder = args.store.runs_dir()?.join(&job.dir);
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<10} {value}");
    };
    line("job", &job.job_id);
    for name in &job.names {
        let edited = if name.is_current {
            ""
        } else {
            " (in an earlier version)"
        };
        line("sweep", &format!("{}: {}{edited}", name.sweep, name.job));
    }
    line("status", &job.status.to_string());
    line("folder", &folder.display().to_string());
    line("created", &time(job.created_ms));
    if let Some(done_ms) = job.done_ms {
        line("done", &time(done_ms));
    }
    let config = serde_json::to_string_pretty(&job.config).expect("JSON serialises");
    let saes = saes(&job);
    let attempts = attempts(&job);
    table::print(&format!(
        "{text}\n{saes}\n{attempts}\nconfiguration {config}\n"
    ))
}

fn saes(job: &JobDetails) -> String {
    let row = |sae: &SaeRow| {
        vec![
            sae.name.clone(),
            sae.d_in.to_string(),
            sae.num_latents.to_string(),
            sae.k.to_string(),
            format!("{:.2e}", sae.lr),
            sae.step
                .map_or_else(|| "-".to_owned(), |step| step.to_string()),
            table::number(sae.fvu, 4),
            table::number(sae.l0, 1),
            table::number(sae.dead_pct, 1),
        ]
    };
    let header = [
        "SAE", "d_in", "latents", "k", "lr", "step", "FVU", "L0", "dead %",
    ];
    table::render(&header, job.saes.iter().map(row).collect(), 1)
}

fn attempts(job: &JobDetails) -> String {
    let row = |attempt: &AttemptRow| {
        vec![
            format!("{} #{}", attempt.stream_id, attempt.number),
            attempt.status.to_string(),
            attempt.device.clone().unwrap_or_default(),
            attempt.host.clone().unwrap_or_default(),
            time(attempt.started_ms),
            attempt.ended_ms.map(time).unwrap_or_default(),
            attempt.reason.clone().unwrap_or_default(),
        ]
    };
    let header = [
        "attempt",
        "status",
        "device",
        "host",
        "started (UTC)",
        "ended (UTC)",
        "reason",
    ];
    table::render(&header, job.attempts.iter().map(row).collect(), usize::MAX)
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| ms.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}
