//! The upload, as people see it.

use crate::error::CliError;
use crate::show::progress;
use crate::show::table::{self, bytes, count};
use hub::{FileUpload, Hub, HubError, Upload, UploadPlan, UploadProgress, UploadStep, Uploaded};
use serde_json::{Value, json};
use std::fmt::Write;

/// What [`run`] would do, compared with what the Hub has if it answers.
///
/// # Errors
/// As [`Hub::plan_upload`].
pub(super) fn plan(hub: &Hub, upload: &Upload, quiet: bool) -> Result<UploadPlan, CliError> {
    with_bar(quiet, |progress| {
        if hub.settings().offline {
            return hub.plan_upload_alone(upload, progress);
        }
        match hub.plan_upload(upload, progress) {
            Err(HubError::Network(_)) => hub.plan_upload_alone(upload, progress),
            planned => planned,
        }
    })
}

/// Uploads, and shows how far it is.
///
/// # Errors
/// As [`Hub::upload`].
pub(super) fn run(hub: &Hub, upload: &Upload, quiet: bool) -> Result<Uploaded, CliError> {
    with_bar(quiet, |progress| hub.upload(upload, progress))
}

fn with_bar<T>(
    quiet: bool,
    work: impl FnOnce(&mut dyn FnMut(UploadProgress)) -> Result<T, HubError>,
) -> Result<T, CliError> {
    let template = "{prefix:20!} {bar:30} {decimal_bytes}/{decimal_total_bytes}, \
                    {decimal_bytes_per_sec}, {eta} left, {msg}";
    let bar = progress::bar(template, quiet);
    let mut step = None;
    let done = work(&mut |now| {
        if step.replace(now.step) != Some(now.step) {
            bar.set_prefix(match now.step {
                UploadStep::Hashing => "hashing",
                UploadStep::Sending => "sending",
                UploadStep::Committing => "committing",
            });
            bar.reset_eta();
        }
        bar.set_length(now.total_bytes);
        bar.set_position(now.done_bytes);
        let message = format!("file {} of {}", now.n_files_done, now.n_files);
        progress::label(&bar, &message);
    });
    bar.finish_and_clear();
    Ok(done?)
}

/// What an upload would do: its files, then the card, and whether that has the text of sweeps in it.
pub(super) fn shown(plan: &UploadPlan, card: &str, include_sweep: bool) -> String {
    let row = |file: &FileUpload| {
        let state = match (plan.is_compared, file.is_new) {
            (false, _) => "",
            (true, true) => "new",
            (true, false) => "there already",
        };
        vec![file.path.clone(), bytes(file.n_bytes), state.to_owned()]
    };
    let rows = plan.files.iter().map(row).collect();
    let mut text = table::render(&["file", "size", ""], rows, 1);
    let made = match (plan.makes_repo, plan.makes_branch) {
        _ if !plan.is_compared => "\nthe Hub was not asked; files that it already has are not sent",
        (true, _) => ", which would be created",
        (false, true) => ", whose branch would be created",
        (false, false) => "",
    };
    let with_sweep = if include_sweep {
        "with the text of the sweep, its comments and folders included"
    } else {
        "without the text of the sweep, which `--include-sweep` adds"
    };
    let _ = writeln!(
        text,
        "\n{} to {}, branch {}{made}\nmodel card, {with_sweep}:\n\n{card}",
        sent(&plan.files),
        plan.page,
        plan.branch
    );
    text
}

/// The same for programs.
pub(super) fn planned_as_json(plan: &UploadPlan, card: &str) -> Value {
    json!({
        "is_sent": false,
        "repo": plan.repo,
        "branch": plan.branch,
        "page": plan.page,
        "commit": null,
        "is_compared": plan.is_compared,
        "files": files_as_json(&plan.files),
        "card": card,
    })
}

/// What was done, for programs.
pub(super) fn as_json(uploaded: &Uploaded) -> Value {
    json!({
        "is_sent": true,
        "repo": uploaded.repo,
        "branch": uploaded.branch,
        "page": uploaded.page,
        "commit": uploaded.commit,
        "is_new_commit": uploaded.is_new_commit,
        "files": files_as_json(&uploaded.files),
    })
}

fn files_as_json(files: &[FileUpload]) -> Value {
    let file = |file: &FileUpload| {
        json!({
            "path": file.path,
            "n_bytes": file.n_bytes,
            "sha256": file.sha256,
            "is_new": file.is_new,
        })
    };
    files.iter().map(file).collect()
}

/// Says what was done, and prints where it is.
///
/// # Errors
/// Standard output that cannot be written.
pub(super) fn conclude(uploaded: &Uploaded) -> Result<u8, CliError> {
    let text = if uploaded.is_new_commit {
        format!("sent {}", sent(&uploaded.files))
    } else {
        "everything was there already".to_owned()
    };
    table::note(&text);
    table::print(&format!("{} {}\n", uploaded.page, uploaded.commit))
}

/// How many files and bytes are sent, and how many are not.
fn sent(files: &[FileUpload]) -> String {
    let new: Vec<_> = files.iter().filter(|file| file.is_new).collect();
    let n_bytes = new.iter().map(|file| file.n_bytes).sum();
    let rest = match files.len() - new.len() {
        0 => String::new(),
        n => format!("; {} there already", count(n, "file")),
    };
    format!("{}, {}{rest}", count(new.len(), "file"), bytes(n_bytes))
}
