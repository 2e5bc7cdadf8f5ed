//! Language models by the names that sweeps have for them: a folder of this machine, or a model of
//! the Hugging Face Hub.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::download;
use crate::sweep::hub_access::hub;
use crate::sweep::paths;
use fault::Remedy;
use hub::{HubError, Snapshot};
use std::path::{Path, PathBuf};

/// A model that was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundModel {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Its snapshot, if it is one of the Hub; its weights need not be there yet.
    snapshot: Option<Snapshot>,
}

impl FoundModel {
    /// The commit of a model of the Hub.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.snapshot
            .as_ref()
            .map(|snapshot| snapshot.commit.as_str())
    }
}

/// Finds the model called `name`: a folder next to the sweep, below the current folder or on the
/// `shelf`; else, if the name can be the id of one, a model of the Hub at `revision`. Of the
/// latter, what planning needs is downloaded.
///
/// # Errors
/// The model does not exist, or not at that revision; a folder has no revisions.
pub(crate) fn find_model(
    name: &str,
    revision: Option<&str>,
    sweep_dir: &Path,
    shelf: &Path,
) -> Result<FoundModel, CliError> {
    let missing = match paths::find("model", name, sweep_dir, Some(shelf)) {
        Ok(dir) => return of_folder(name, revision, dir),
        Err(missing) => missing,
    };
    if !hub::is_repo_id(name) {
        return Err(missing.about("model".to_owned()));
    }
    let found = hub().and_then(|hub| hub.model_files(name, revision));
    let snapshot = found.map_err(|error| of_hub_or_folder(error, &missing, "model", "revision"))?;
    if let Some(notice) = &snapshot.notice {
        table::note(&notice.to_string());
    }
    Ok(FoundModel {
        dir: snapshot.dir.clone(),
        snapshot: Some(snapshot),
    })
}

fn of_folder(name: &str, revision: Option<&str>, dir: PathBuf) -> Result<FoundModel, CliError> {
    let Some(revision) = revision else {
        let snapshot = None;
        return Ok(FoundModel { dir, snapshot });
    };
    let message = format!(
        "`{name}` is the folder `{}`, which has no revision `{revision}`",
        dir.display()
    );
    let hint = "leave `revision` out, or move the folder away if the model of the Hub is meant";
    Err(CliError::input(message)
        .with_hint(hint.to_owned())
        .about("revision".to_owned()))
}

/// What the Hub refuses may have been meant as a folder, which is `missing`. The keys are those of
/// the settings that have the name and the revision.
pub(crate) fn of_hub_or_folder(
    error: HubError,
    missing: &CliError,
    name_key: &str,
    revision_key: &str,
) -> CliError {
    let setting = match error {
        HubError::NoSuchRevision { .. } | HubError::BadRevision { .. } => revision_key,
        _ => name_key,
    };
    let is_doubtful = matches!(
        error,
        HubError::NoSuchRepo { .. } | HubError::NotCached { .. } | HubError::Network { .. }
    );
    let hint = error.hint();
    let hint = match (hint, missing.hint()) {
        (Some(hint), Some(looked)) if is_doubtful => {
            Some(format!("{hint}; if a folder is meant: {looked}"))
        }
        (hint, _) => hint,
    };
    CliError::from(error)
        .with_hint(hint)
        .about(setting.to_owned())
}

/// Downloads the weights of a model of the Hub, as far as they are not in the cache.
///
/// # Errors
/// As [`find_model`], and a download that fails.
pub(crate) fn fetch_weights(model: &FoundModel, quiet: bool) -> Result<(), CliError> {
    let Some(snapshot) = &model.snapshot else {
        return Ok(());
    };
    download::shown(&snapshot.repo, quiet, |show| {
        hub()?.download_weights(snapshot, show)
    })
}
