//! A sweep as the user wrote it, after all layers of configuration are merged.

use crate::Nproc;
use crate::Pool;
use crate::Slurm;
use crate::TrackerKind;
use crate::TrainConfig;
use crate::byte_count::{self, ByteCount};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// One sweep file, merged with the layers below and above it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Name; also its folder below the runs folder. By default that of the file.
    #[schemars(default)]
    pub name: String,
    /// Name of a recipe, or path of a `.py` or `.wasm` file.
    #[serde(default = "default_recipe")]
    pub recipe: String,
    /// Seed handed to the recipe.
    #[serde(default)]
    pub seed: u64,
    /// Folder of the database and the checkpoints.
    #[serde(default = "default_runs_dir")]
    pub runs_dir: String,
    /// What all jobs share.
    #[serde(default)]
    pub train: TrainConfig,
    /// The settings of `train` that the user gave; the others are defaults.
    #[serde(skip)]
    pub given: BTreeSet<String>,
    /// What varies; given to the recipe unchanged.
    #[serde(default)]
    pub vary: Map<String, Value>,
    /// How workers are started.
    #[serde(default)]
    pub launch: Launch,
    /// What the recipe may use; unset: the host's defaults.
    #[serde(default)]
    pub recipe_limits: RecipeLimits,
}

/// What a recipe may use of the machine; `None`: the host's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecipeLimits {
    /// Instructions, in wasmtime's fuel.
    pub fuel: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<usize>,
    /// Bytes of its answer.
    pub output_bytes: Option<usize>,
    /// Jobs in one answer.
    pub max_jobs: Option<usize>,
    /// How deep lists and tables may be nested in a job.
    pub max_nesting: Option<usize>,
    /// Bytes of stack; at most 1048576.
    pub stack_bytes: Option<usize>,
    /// How often a recipe may be asked for another round; by default 20 times.
    pub max_rounds: Option<u32>,
}

/// How workers are started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Launch {
    /// What starts a worker.
    pub launcher: Launcher,
    /// Processes that torchrun starts on this machine: a number, or `gpu`.
    pub nproc_per_node: Nproc,
    /// Machines that train a stream together, for a plan. Processes that train have it from their launcher.
    #[serde(skip)]
    pub n_nodes: usize,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// The PyTorch that workers run on: its folder, an environment or a Python; by default that of the environment that
    /// `sae-run` is installed in, of the active one, or of `python3`. Not in a sweep file, which may come from anyone.
    #[schemars(skip)]
    pub libtorch: Option<String>,
    /// Devices to train streams on side by side; empty: `device` alone.
    pub devices: Vec<String>,
    /// Workers at the same time; 0: one for each device. Several share a device as far as its memory is
    /// predicted to suffice.
    pub jobs: usize,
    /// Threads of a worker on the CPU, of each of its processes; 0: all cores, or an equal share if
    /// several run at the same time.
    pub threads: usize,
    /// What a worker, each of its processes, may be predicted to take of its device's memory; by default
    /// nine tenths of it, which processes on the CPU share. Jobs that would take more side by side become
    /// several streams. A number of bytes, or a text such as "46 GB".
    #[serde(deserialize_with = "byte_count::optional")]
    #[schemars(with = "Option<ByteCount>")]
    pub memory_bytes: Option<u64>,
    /// How often a stream whose worker crashed, or ended for the machine's reasons, is tried again from
    /// its last checkpoints.
    pub retries: u32,
    /// How long the ranks of a worker wait for each other.
    pub timeout_minutes: f64,
    /// Whether the language model's next forward pass runs next to the SAEs' updates, on a second stream of
    /// a GPU. It takes more memory and changes no bit.
    pub overlap_forward: bool,
    /// Trackers that get the curves of the jobs while they are trained.
    pub log_to: Vec<TrackerKind>,
    /// What jobs of Slurm ask for, if that is the launcher.
    pub slurm: Slurm,
    /// How machines share streams, if `launcher` is `pool`.
    pub pool: Pool,
}

/// What starts a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Launcher {
    /// A child process on this machine.
    #[default]
    Local,
    /// torchrun, which starts several on this machine.
    Torchrun,
    /// Slurm: each stream is a job of the cluster.
    Slurm,
    /// Any machine that runs `sae-run worker-pool` on the runs folder.
    Pool,
}

impl Launch {
    /// The device of each worker that may run at the same time.
    pub fn lanes(&self) -> Vec<String> {
        let devices = if self.devices.is_empty() {
            std::slice::from_ref(&self.device)
        } else {
            &self.devices
        };
        let n_lanes = if self.jobs == 0 {
            devices.len()
        } else {
            self.jobs
        };
        devices.iter().cycle().take(n_lanes).cloned().collect()
    }
}

impl Default for Launch {
    fn default() -> Self {
        Self {
            launcher: Launcher::Local,
            nproc_per_node: Nproc::Gpu,
            n_nodes: 1,
            device: "auto".into(),
            devices: Vec::new(),
            jobs: 0,
            threads: 0,
            memory_bytes: None,
            retries: 2,
            timeout_minutes: 10.0,
            overlap_forward: false,
            log_to: Vec::new(),
            libtorch: None,
            slurm: Slurm::default(),
            pool: Pool::default(),
        }
    }
}

fn default_recipe() -> String {
    "grid".into()
}

fn default_runs_dir() -> String {
    "runs".into()
}

/// What a setting is if it is not set, as a user would write it; `None` for one that is left out.
pub fn default_of(path: &[&str]) -> Option<String> {
    let sweep: Sweep = serde_json::from_value(json!({"name": ""})).expect("no other is required");
    let mut value = &serde_json::to_value(sweep).expect("a sweep serialises to JSON");
    for key in path {
        value = value.get(key)?;
    }
    // Except for tables, TOML is written like JSON.
    let is_written = !value.is_null() && !value.is_object() && value != "";
    is_written.then(|| value.to_string())
}

/// Whether the setting at `path` is a text of the user's own, such as a name, and not one of a few names.
pub fn takes_text(path: &[&str]) -> bool {
    takes(path, "text".into())
}

/// Whether it is a list of such texts.
pub fn takes_texts(path: &[&str]) -> bool {
    takes(path, vec!["text"].into())
}

fn takes(path: &[&str], value: Value) -> bool {
    // What varies is the recipe's business.
    let Some((table, below)) = path.split_first().filter(|(table, _)| **table != "vary") else {
        return false;
    };
    let value = below
        .iter()
        .rev()
        .fold(value, |value, key| json!({ *key: value }));
    let mut sweep = Map::from_iter([("name".to_owned(), "".into())]);
    sweep.insert((*table).to_owned(), value);
    serde_json::from_value::<Sweep>(sweep.into()).is_ok()
}

/// The value as it is, but numbers and truth values as text if the setting `key` of a job is text.
pub(crate) fn text_where_wanted(key: &str, value: &Value) -> Value {
    match value {
        Value::Number(_) | Value::Bool(_) if takes_text(&["train", key]) => {
            value.to_string().into()
        }
        Value::Array(items) if takes_texts(&["train", key]) => {
            let text = |item: &Value| match item {
                Value::Number(_) | Value::Bool(_) => item.to_string().into(),
                item => item.clone(),
            };
            items.iter().map(text).collect()
        }
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_dealt_to_devices_in_turns() {
        let lanes = |devices: &[&str], jobs| {
            let launch = Launch {
                devices: devices.iter().map(ToString::to_string).collect(),
                jobs,
                ..Launch::default()
            };
            launch.lanes().join(" ")
        };
        assert_eq!(lanes(&[], 0), "auto");
        assert_eq!(lanes(&[], 2), "auto auto");
        assert_eq!(lanes(&["cuda:0", "cuda:1"], 0), "cuda:0 cuda:1");
        assert_eq!(lanes(&["cuda:0", "cuda:1"], 3), "cuda:0 cuda:1 cuda:0");
        assert_eq!(lanes(&["cuda:0", "cuda:1"], 1), "cuda:0");
    }

    #[test]
    fn settings_that_are_text_are_known() {
        for path in [
            &["name"][..],
            &["recipe"],
            &["runs_dir"],
            &["launch", "device"],
            &["train", "model"],
            &["train", "revision"],
            &["train", "dataset"],
            &["train", "split"],
            &["train", "text_column"],
            &["train", "eval_dataset"],
            &["train", "eval_split"],
            &["train", "finetune"],
            &["train", "preset"],
            &["train", "data_args", "name"],
            &["train", "eval_data_args", "revision"],
        ] {
            assert!(takes_text(path), "{path:?}");
        }
        for path in [
            &["seed"][..],
            &["train", "k"],
            &["train", "lr"],
            &["train", "dtype"],
            &["train", "hookpoints"],
            &["train", "max_examples"],
            &["launch", "nproc_per_node"],
            &["vary", "model"],
            &["unknown"],
            &[],
        ] {
            assert!(!takes_text(path), "{path:?}");
        }
        let lists = ["hookpoints", "layers", "model"].map(|key| takes_texts(&["train", key]));
        assert_eq!(lists, [true, false, false]);
        assert!(takes_texts(&["launch", "devices"]));
    }

    #[test]
    fn defaults_are_told_as_one_would_write_them() {
        assert_eq!(default_of(&["train", "ctx_len"]).unwrap(), "2048");
        assert_eq!(default_of(&["launch", "device"]).unwrap(), "\"auto\"");
        assert_eq!(default_of(&["train", "init_seeds"]).unwrap(), "[0]");
        for path in [
            &["train", "lr"][..],
            &["train", "model"],
            &["train"],
            &["nothing"],
        ] {
            assert_eq!(default_of(path), None);
        }
    }
}
