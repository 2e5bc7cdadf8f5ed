//! Language models by the names that sweeps have for them: a folder of this machine, or a model of
//! the Hugging Face Hub.

use crate::error::CliError;
use crate::show::table;
use crate::sweep::download;
use crate::sweep::hub_access::{Asked, hub, hub_asked, remember_reach};
use crate::sweep::paths::{self, Near};
use fault::Remedy;
use hub::{HubError, Snapshot};
use plan::{Order, TrainConfig};
use std::path::{Path, PathBuf};

/// How a job names a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModelName {
    pub(crate) name: String,
    pub(crate) revision: Option<String>,
}

impl ModelName {
    /// That of the model of a job with the settings `config`.
    pub(crate) fn of(config: &TrainConfig) -> Self {
        Self {
            name: config.model.clone(),
            revision: config.revision.clone(),
        }
    }

    /// One that was typed.
    pub(crate) fn typed(name: &str, revision: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
        }
    }

    /// The same, if one was typed.
    pub(crate) fn if_typed(name: Option<&str>, revision: Option<&str>) -> Option<Self> {
        name.map(|name| Self::typed(name, revision))
    }

    /// The models of an order, where its worker found them.
    pub(crate) fn of_order(order: &Order) -> (Self, Option<Self>) {
        let here = |dir: &Path| Self::typed(&dir.to_string_lossy(), None);
        let second = order.second_model.as_ref();
        (here(&order.model_dir), second.map(|own| here(&own.dir)))
    }

    /// That of its second model.
    pub(crate) fn of_second(config: &TrainConfig) -> Option<Self> {
        let revision = config.crosscoder_revision.as_deref();
        Self::if_typed(config.crosscoder_model.as_deref(), revision)
    }
}

/// The settings that name a model and its revision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelKeys {
    name: &'static str,
    revision: &'static str,
}

/// Those of a job's model.
pub(crate) const MODEL_KEYS: ModelKeys = ModelKeys {
    name: "model",
    revision: "revision",
};

/// Those of the second model of a crosscoder.
pub(crate) const SECOND_MODEL_KEYS: ModelKeys = ModelKeys {
    name: "crosscoder_model",
    revision: "crosscoder_revision",
};

/// Where the models of a job are.
#[derive(Clone, Debug)]
pub(crate) struct ModelDirs {
    pub(crate) first: PathBuf,
    pub(crate) second: Option<PathBuf>,
}

/// A model that was found.
#[derive(Clone, Debug)]
pub(crate) struct FoundModel {
    /// Its folder.
    pub(crate) dir: PathBuf,
    /// Its snapshot, if it is one of the Hub; its weights need not be there yet.
    snapshot: Option<Snapshot>,
}

impl FoundModel {
    /// One of which no file is available, with the path of a folder that is not there.
    pub(crate) fn without_files(dir: PathBuf) -> Self {
        let snapshot = None;
        Self { dir, snapshot }
    }

    /// The commit of a model of the Hub.
    pub(crate) fn commit(&self) -> Option<&str> {
        self.snapshot
            .as_ref()
            .map(|snapshot| snapshot.commit.as_str())
    }
}

/// Where models are looked for, and how the Hub is asked for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search<'a> {
    /// Where relative paths lead.
    pub(crate) near: &'a Near,
    /// A folder of ready models.
    pub(crate) shelf: &'a Path,
    pub(crate) hub: Asked,
}

impl<'a> Search<'a> {
    /// For a command that takes no sweep.
    pub(crate) fn from(near: &'a Near, shelf: &'a Path) -> Self {
        Self {
            near,
            shelf,
            hub: Asked::Patiently,
        }
    }
}

/// Finds a model by its `name`, which the settings `keys` have: a folder next to the sweep, below the
/// current folder or on the shelf; else, if the name can be the id of one, a model of the Hub at its
/// revision. Of the latter, what planning needs is downloaded.
///
/// # Errors
/// The model does not exist, or not at that revision; a folder has no revisions.
pub(crate) fn find_model(
    wanted: &ModelName,
    keys: ModelKeys,
    search: Search<'_>,
) -> Result<FoundModel, CliError> {
    let ModelName { name, revision } = wanted;
    let missing = match paths::find("model", name, search.near, Some(search.shelf)) {
        Ok(dir) => return of_folder(wanted, keys, dir),
        Err(missing) => missing,
    };
    if !hub::is_repo_id(name) {
        return Err(missing.about(keys.name.to_owned()));
    }
    let hub = hub_asked(search.hub);
    let found = hub.and_then(|hub| hub.model_files(name, revision.as_deref()));
    let snapshot = found.map_err(|error| {
        remember_reach(&error);
        of_hub_or_folder(error, &missing, keys.name, keys.revision)
    })?;
    if let Some(notice) = &snapshot.notice {
        table::note(&notice.to_string());
    }
    Ok(FoundModel {
        dir: snapshot.dir.clone(),
        snapshot: Some(snapshot),
    })
}

fn of_folder(
    ModelName { name, revision }: &ModelName,
    keys: ModelKeys,
    dir: PathBuf,
) -> Result<FoundModel, CliError> {
    let Some(revision) = revision else {
        let snapshot = None;
        return Ok(FoundModel { dir, snapshot });
    };
    let message = format!(
        "`{name}` is the folder `{}`, which has no revision `{revision}`",
        dir.display()
    );
    let key = keys.revision;
    let hint =
        format!("leave `{key}` out, or move the folder away if the model of the Hub is meant");
    Err(CliError::input(message)
        .with_hint(hint)
        .about(key.to_owned()))
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
