//! What an earlier run left of a job: its settings, its SAEs, and the last order of its worker.

use crate::error::CliError;
use files::bound;
use plan::FoundSae;
use plan::Order;
use plan::TrainConfig;
use plan::runs_layout::ORDER;
use std::path::Path;
use store::{CheckpointRow, JobDetails, StoreError};

/// The settings of a job.
///
/// # Errors
/// A record that is damaged.
pub(crate) fn config(job: &JobDetails) -> Result<TrainConfig, CliError> {
    serde_json::from_value(job.config.clone()).map_err(|error| {
        CliError::environment(format!("the settings of the job are damaged: {error}"))
    })
}

/// The newest checkpoint of a job.
///
/// # Errors
/// It has no checkpoint.
pub(crate) fn newest_checkpoint(job: &JobDetails) -> Result<&CheckpointRow, CliError> {
    job.checkpoints.last().ok_or_else(|| {
        let message = format!("job `{}` has no checkpoint", job.job_id);
        match &job.failure {
            Some(failure) => CliError::input(format!("{message}: it failed, {}", failure.text))
                .with_hint(failure.hint.clone()),
            None => CliError::input(message).with_hint("run its sweep first".to_owned()),
        }
    })
}

/// What names no job may have been meant as a folder.
pub(crate) fn or_folder(error: StoreError, target: &str) -> CliError {
    let error = CliError::from(error);
    if !target.contains('/') {
        return error;
    }
    let hint = error.hint().unwrap_or_default().to_owned();
    error.with_hint(format!("`{target}` is not a folder either; {hint}"))
}

/// The SAEs of a job at one of its checkpoints.
pub(crate) fn saes_at(
    job: &JobDetails,
    checkpoint: &CheckpointRow,
    runs_dir: &Path,
) -> Vec<FoundSae> {
    let dir = runs_dir.join(&checkpoint.path);
    let saes = job.saes.iter().map(|sae| FoundSae {
        name: sae.name.clone(),
        hookpoint: sae.hookpoint.clone(),
        dir: dir.join(&sae.name),
    });
    saes.collect()
}

/// The last order of a job's worker: it has every name resolved.
///
/// # Errors
/// No worker was started yet, or its order is gone.
pub(crate) fn last_order(runs_dir: &Path, job: &JobDetails) -> Result<Order, CliError> {
    let dirs = job.stream_dirs.iter();
    let orders = dirs.map(|dir| runs_dir.join(dir).join(ORDER));
    let texts = orders.filter_map(|path| files::read(&path, bound::OWN).ok());
    let mut orders = texts.filter_map(|text| serde_json::from_slice(&text).ok());
    orders.next().ok_or_else(|| {
        let message = format!("the order of job `{}` is lost", job.job_id);
        CliError::environment(message).with_hint("run its sweep again".to_owned())
    })
}
