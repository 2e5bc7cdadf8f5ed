//! Where trackers are.

use crate::libtorch;
use crate::run::worker_program::SECRETS;
use fault::Fault;
use plan::runs_layout::TRACKERS;
use plan::{TrackerKind, redacted};
use std::env;
use std::path::{Path, PathBuf};
use trackers::{Bridge, BridgeSite, PYTHON_VARIABLE, TensorBoard, Tracker, TrackerFolder, Trackio};

/// Where the trackers of a sweep are.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) folder: TrackerFolder,
    /// Whether the user named the folder: then all is written there.
    is_own: bool,
    pub(crate) sweep: String,
}

impl Places {
    /// In the folder `dir`, or where the user has them for all programs; else in the runs folder.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub(crate) fn new(runs_dir: &Path, dir: Option<&Path>, sweep: &str) -> Result<Self, Fault> {
        let of_runs = runs_dir.join(TRACKERS);
        Ok(Self {
            folder: TrackerFolder::open(dir.unwrap_or(&of_runs))?,
            is_own: dir.is_some(),
            sweep: sweep.to_owned(),
        })
    }

    /// # Errors
    /// No Python that has its package.
    pub(crate) fn open(&self, kind: TrackerKind) -> Result<Box<dyn Tracker>, Fault> {
        Ok(match kind {
            TrackerKind::Tensorboard => Box::new(TensorBoard::new(&self.folder)),
            TrackerKind::Trackio => Box::new(Trackio::new(&self.trackio_dir()?)),
            TrackerKind::Wandb | TrackerKind::Mlflow => Box::new(Bridge::start(
                kind,
                &BridgeSite {
                    folder: &self.folder,
                    is_own: self.is_own,
                    sweep: &self.sweep,
                    pythons: &pythons(),
                    secrets: &SECRETS,
                },
            )?),
        })
    }

    fn trackio_dir(&self) -> Result<PathBuf, Fault> {
        if self.is_own {
            return Ok(self.folder.path().join("trackio"));
        }
        let usual = || hub::hf_home().map(|home| home.join("trackio"));
        variable("TRACKIO_DIR").or_else(usual).ok_or_else(|| {
            Fault::input("there is no home folder for Trackio")
                .with_hint("name a folder in `TRACKIO_DIR`")
        })
    }

    /// How to look at it.
    pub(crate) fn look(&self, kind: TrackerKind) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        match kind {
            TrackerKind::Tensorboard => {
                format!("`tensorboard --logdir {}`", path("tensorboard"))
            }
            TrackerKind::Trackio if self.is_own => {
                format!("`TRACKIO_DIR={} trackio show`", path("trackio"))
            }
            TrackerKind::Trackio => "`trackio show`".to_owned(),
            TrackerKind::Wandb => {
                let usual = variable("WANDB_DIR").filter(|_| !self.is_own);
                let dir = usual.unwrap_or_else(|| self.folder.path().to_path_buf());
                let runs = dir.join("wandb/offline-run-*");
                let runs = runs.display();
                format!("in your account, or if it is offline `wandb sync {runs}`")
            }
            TrackerKind::Mlflow => {
                let usual = env::var("MLFLOW_TRACKING_URI").ok();
                let usual = usual.filter(|address| !self.is_own && !address.is_empty());
                let address = usual.unwrap_or_else(|| format!("sqlite:///{}", path("mlflow.db")));
                format!("`mlflow ui --backend-store-uri {}`", redacted(&address))
            }
        }
    }
}

fn pythons() -> Vec<PathBuf> {
    match variable(PYTHON_VARIABLE) {
        Some(python) => vec![python],
        None => libtorch::pythons(),
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}
