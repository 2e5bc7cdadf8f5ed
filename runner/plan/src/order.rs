//! What a worker has to do: one JSON file, written once per attempt.

use crate::runs_layout::density_path;
use crate::{DataFiles, Job, Launch, RowSpec, StreamKey};
use fault::Fault;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// All that a worker needs. Every name is resolved to a local path.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The stream.
    pub stream_id: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// What the jobs share.
    pub key: StreamKey,
    /// Folder of the model.
    pub model_dir: PathBuf,
    /// The commit of a model of the Hub; `None` for any other folder.
    pub model_commit: Option<String>,
    /// The model of `crosscoder_model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_model: Option<ModelFolder>,
    /// Files of the data set.
    pub dataset: DataFiles,
    /// Files of the data set to evaluate on, if it is another one.
    pub eval_dataset: Option<DataFiles>,
    /// How their rows are read.
    pub rows: RowSpec,
    /// Folder of the token cache.
    pub cache_dir: PathBuf,
    /// Folder that job paths are relative to.
    pub runs_dir: PathBuf,
    /// File that events are appended to.
    pub events: PathBuf,
    /// Number of the last event of the stream that is in the database; numbers continue after it.
    pub last_event_seq: u64,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Threads on the CPU; 0: all cores.
    pub threads: usize,
    /// How long ranks wait for each other.
    #[serde(default = "default_timeout_minutes")]
    pub timeout_minutes: f64,
    /// Whether the next forward pass begins while SAEs train, on a GPU.
    #[serde(default)]
    pub overlap_forward: bool,
    /// Memory that was predicted for the worker.
    #[serde(default)]
    pub predicted_bytes: u64,
    /// The jobs to train, and to evaluate then if they ask for it.
    pub jobs: Vec<OrderJob>,
    /// Jobs that are trained, and only to be evaluated.
    #[serde(default)]
    pub evaluate: Vec<OrderJob>,
}

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFolder {
    /// Its folder.
    pub dir: PathBuf,
    /// The commit of a model of the Hub; `None` for any other folder.
    pub commit: Option<String>,
}

/// Of orders before there were several ranks.
fn default_timeout_minutes() -> f64 {
    Launch::default().timeout_minutes
}

impl Order {
    /// The same order without the jobs of some ids.
    pub fn without(&self, job_ids: &[String]) -> Self {
        let mut order = self.clone();
        order.jobs.retain(|job| !job_ids.contains(&job.job.job_id));
        order
    }

    /// The jobs whose final checkpoints are evaluated in the end.
    pub fn jobs_to_evaluate(&self) -> impl Iterator<Item = &OrderJob> {
        let trained = self.jobs.iter();
        trained
            .filter(|job| job.job.config.wants_evaluation())
            .chain(&self.evaluate)
    }
}

/// One job of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderJob {
    /// The job.
    pub job: Job,
    /// Its folder, relative to the runs folder: what sparsify loads, and nothing else.
    pub dir: PathBuf,
    /// Folder of what a resume needs, relative to the runs folder.
    pub state_dir: PathBuf,
    /// Folder of the SAEs with the lowest loss, relative to the runs folder.
    pub best_dir: PathBuf,
    /// Folder of the SAEs to begin with.
    pub finetune_dir: Option<PathBuf>,
    /// Jobs that differ from it only in how long they are trained, and have kept a state.
    #[serde(default)]
    pub bases: Vec<BaseJob>,
}

/// A job whose state another may continue from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BaseJob {
    /// The job.
    pub job_id: String,
    /// Folder of the state that it has kept, relative to the runs folder.
    pub kept_dir: PathBuf,
}

impl OrderJob {
    /// Where the firing density of the SAE called `sae` is kept, relative to the runs folder.
    pub fn density_path(&self, sae: &str) -> PathBuf {
        density_path(&self.dir, sae)
    }
}

/// The error for an input that is no longer what the plan was made of. `what`: which input.
pub fn changed(what: &str, path: &Path) -> Fault {
    let message = format!(
        "{what} `{}` changed since the plan was made",
        path.display()
    );
    Fault::input(message).with_hint("run the sweep again: changed inputs make new jobs")
}
