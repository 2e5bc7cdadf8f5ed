//! `sae-run show`: all that is known about a job, or about a sweep.

use crate::error::CliError;
use crate::run::left_over;
use crate::show::as_toml::as_toml;
use crate::show::json;
use crate::show::plot::plot;
use crate::show::table::{self, escaped, time};
use crate::show::whole_sweep;
use crate::sweep::config;
use args::{ShowArgs, StoreArgs};
use plan::HookpointThreshold;
use plan::runs_layout::DATABASE;
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use store::{
    AttemptRow, CalibratedSae, CheckpointRow, EvaluatedSae, Extension, JobDetails, JobPublication,
    SaeRow, Store, Subject,
};

/// Opens the database of a runs folder for reading.
///
/// # Errors
/// The database does not exist, or is not ours.
pub(crate) async fn open(args: &StoreArgs) -> Result<Store, CliError> {
    open_in(&config::runs_dir(args)?).await
}

/// The same, of the folder `runs_dir`.
///
/// # Errors
/// As [`open`].
pub(crate) async fn open_in(runs_dir: &Path) -> Result<Store, CliError> {
    leave_out_driver();
    let store = Store::open_read_only(&runs_dir.join(DATABASE)).await?;
    left_over::close(runs_dir, &store).await?;
    Ok(store)
}

/// The driver's thread panics if SQLite has no memory for the copy of a row; the query then ends in an
/// error that says so.
fn leave_out_driver() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let message = info.payload_as_str().unwrap_or_default();
        if !message.contains("SQLite failed to allocate memory") {
            usual(info);
        }
    }));
}

/// `sae-run show JOB|SWEEP`.
///
/// # Errors
/// No database or no such job.
pub(crate) async fn show(args: &ShowArgs) -> Result<u8, CliError> {
    let store = open(&args.store).await?;
    let subject = store.subject(&args.target).await?;
    let job_id = match &subject {
        Subject::Sweep(_) if args.toml => {
            let message = format!("`{}` is a sweep, and `--toml` is for a job", args.target);
            return Err(CliError::input(message)
                .with_hint(format!("`sae-run show {}` shows its file", args.target)));
        }
        Subject::Sweep(name) => return whole_sweep::print(&store.sweep(name).await?, args.json),
        Subject::Job(job_id) => job_id,
    };
    let job = store.job(job_id).await?;
    if args.toml {
        return table::print(&as_toml(&job)?);
    }
    let folder = config::runs_dir(&args.store)?.join(&job.dir);
    let files = files(&job, &folder);
    if args.json {
        let mut whole = store.job_json(&job.job_id).await?;
        whole["job"] = json!(job.newest_name().map(|name| &name.job));
        let file = |(path, n_bytes): &(PathBuf, u64)| json!({"path": path, "n_bytes": n_bytes});
        whole["files"] = files.iter().map(file).collect();
        return json::print(&whole);
    }
    let config = serde_json::to_string_pretty(&job.config).expect("JSON serialises");
    let parts = [
        head(&job, &folder),
        saes(&job),
        curves(&job),
        calibrations(&job),
        evaluations(&job),
        attempts(&job),
        remarks(&job),
        checkpoints(&job),
        publications(&job),
        table::render(&["folder", "size"], sizes(&files), 1),
        format!("configuration {config}\n"),
    ];
    let parts = parts.into_iter().filter(|part| !part.is_empty());
    table::print(&parts.collect::<Vec<_>>().join("\n"))
}

fn head(job: &JobDetails, folder: &Path) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<10} {}", escaped(value));
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
    match &job.failure {
        Some(failure) => line("status", &format!("{}: {}", job.status, failure.text)),
        None => line("status", &job.status.to_string()),
    }
    if let Some(hint) = job
        .failure
        .as_ref()
        .and_then(|failure| failure.hint.as_deref())
    {
        line("hint", hint);
    }
    if folder.is_dir() {
        line("folder", &folder.display().to_string());
    } else {
        line("folder", "none yet: there is no checkpoint");
    }
    line("kind", &job.kind);
    if let Some(Extension { base_job_id, step }) = &job.extension {
        line("extends", &format!("{base_job_id}, from step {step} on"));
    }
    if let Some(tokens) = job.config["tokens_per_update"].as_u64() {
        line("update", &format!("{tokens} tokens"));
    }
    line("created", &format!("{} UTC", time(job.created_ms)));
    if let Some(done_ms) = job.done_ms {
        line("done", &format!("{} UTC", time(done_ms)));
    }
    if !job.tags.is_empty() {
        line("tags", &job.tags.join(" "));
    }
    for note in &job.user_notes {
        line(
            "your note",
            &format!("{}: {}", time(note.created_ms), note.text),
        );
    }
    text
}

fn saes(job: &JobDetails) -> String {
    let row = |sae: &SaeRow| {
        vec![
            sae.name.clone(),
            sae.d_in.to_string(),
            sae.num_latents.to_string(),
            table::k_of(&job.kind, sae.k),
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

/// How the FVU of each SAE fell.
fn curves(job: &JobDetails) -> String {
    let mut text = String::new();
    for sae in &job.saes {
        let points = job.curve.iter().filter(|point| point.sae == sae.name);
        let points: Vec<_> = points
            .filter_map(|point| Some((point.step as f64, point.fvu?)))
            .collect();
        let drawn = plot(&points);
        if let (Some((first, _)), Some((last, _)), false) =
            (points.first(), points.last(), drawn.is_empty())
        {
            let name = escaped(&sae.name);
            let _ = writeln!(text, "FVU of {name}, steps {first} to {last}\n{drawn}");
        }
    }
    text.trim_end_matches('\n').to_owned() + if text.is_empty() { "" } else { "\n" }
}

/// The thresholds found on held-out tokens, and those of training.
fn calibrations(job: &JobDetails) -> String {
    if job.calibrations.is_empty() {
        return String::new();
    }
    let row = |sae: &CalibratedSae| {
        vec![
            sae.sae.clone(),
            sae.step.to_string(),
            sae.n_tokens.to_string(),
            table::number(sae.k, 1),
            table::number(sae.threshold, 4),
            table::number(sae.l0, 1),
            table::number(sae.threshold_ema, 4),
            table::number(sae.l0_ema, 1),
        ]
    };
    let of_hookpoint = |own: HookpointThreshold| {
        vec![
            format!("  {}", own.hookpoint),
            String::new(),
            String::new(),
            String::new(),
            table::number(Some(own.threshold), 4),
            table::number(Some(own.l0), 1),
            table::number(Some(own.threshold_ema).filter(|own| own.is_finite()), 4),
            table::number(Some(own.l0_ema).filter(|own| own.is_finite()), 1),
        ]
    };
    let rows = job.calibrations.iter().flat_map(|sae| {
        let of_hookpoints = sae.hookpoints().into_iter().map(of_hookpoint);
        [row(sae)].into_iter().chain(of_hookpoints)
    });
    let header = [
        "calibrated",
        "step",
        "tokens",
        "k",
        "threshold",
        "L0",
        "EMA threshold",
        "EMA L0",
    ];
    table::render(&header, rows.collect(), 1)
}

fn evaluations(job: &JobDetails) -> String {
    if job.evaluations.is_empty() {
        return String::new();
    }
    let row = |sae: &EvaluatedSae| {
        vec![
            sae.sae.clone(),
            sae.step.to_string(),
            table::number(sae.fvu, 4),
            table::number(sae.l0, 1),
            table::number(sae.dead_pct, 1),
            table::number(sae.ce_clean, 4),
            table::number(sae.ce_spliced, 4),
            table::number(sae.ce_recovered, 4),
            table::number(sae.kl, 4),
        ]
    };
    let header = [
        "held out",
        "step",
        "FVU",
        "L0",
        "dead %",
        "CE clean",
        "CE spliced",
        "CE recovered",
        "KL",
    ];
    table::render(&header, job.evaluations.iter().map(row).collect(), 1)
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

/// What workers found and remarked.
fn remarks(job: &JobDetails) -> String {
    let mut text = String::new();
    for verdict in &job.verdicts {
        let (sae, reason) = (escaped(&verdict.sae), escaped(&verdict.reason));
        let end = if verdict.is_fatal {
            " (trained no further)"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "verdict    {}, {sae} at step {}: {reason}{end}",
            job.names.first().map_or("", |name| name.job.as_str()),
            verdict.step
        );
    }
    for note in &job.notes {
        let _ = writeln!(text, "note       {}", escaped(&note.message));
    }
    text
}

fn checkpoints(job: &JobDetails) -> String {
    let row = |checkpoint: &CheckpointRow| {
        let kind = if checkpoint.is_final { "final" } else { "" };
        vec![
            checkpoint.step.to_string(),
            time(checkpoint.created_ms),
            kind.to_owned(),
        ]
    };
    let rows: Vec<_> = job.checkpoints.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table::render(&["checkpoint", "complete (UTC)", ""], rows, usize::MAX)
}

fn publications(job: &JobDetails) -> String {
    let row = |publication: &JobPublication| {
        vec![
            publication.repo.clone(),
            publication.branch.clone(),
            publication.commit_id.clone(),
            time(publication.created_ms),
            publication.n_saes.to_string(),
        ]
    };
    let rows: Vec<_> = job.publications.iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    table::render(
        &["published", "branch", "commit", "at (UTC)", "SAEs"],
        rows,
        4,
    )
}

/// The folders of the SAEs that there are, and the bytes in each.
fn files(job: &JobDetails, folder: &Path) -> Vec<(PathBuf, u64)> {
    let paths = job.saes.iter().map(|sae| folder.join(&sae.name));
    let paths = paths.filter(|path| path.is_dir());
    paths
        .map(|path| {
            let n_bytes = n_bytes(&path);
            (path, n_bytes)
        })
        .collect()
}

fn sizes(files: &[(PathBuf, u64)]) -> Vec<Vec<String>> {
    let row =
        |(path, n_bytes): &(PathBuf, u64)| vec![path.display().to_string(), table::bytes(*n_bytes)];
    files.iter().map(row).collect()
}

/// Bytes of the files below a folder; what cannot be read counts as 0.
pub(crate) fn n_bytes(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| n_bytes(&entry.path())).sum()
}
