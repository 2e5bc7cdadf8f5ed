//! What trackers such as TensorBoard are given: a run for each job, and points of its curves.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use std::fmt;

/// A program that shows the curves of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrackerKind {
    /// TensorBoard: event files in a folder for each job.
    Tensorboard,
    /// Trackio: lines in the inbox of its folder.
    Trackio,
    /// Weights & Biases, by its Python package.
    Wandb,
    /// MLflow, by its Python package.
    Mlflow,
}

impl TrackerKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tensorboard, Self::Trackio, Self::Wandb, Self::Mlflow];

    /// As settings and options have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensorboard => "tensorboard",
            Self::Trackio => "trackio",
            Self::Wandb => "wandb",
            Self::Mlflow => "mlflow",
        }
    }

    /// The kind with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl<'de> Deserialize<'de> for TrackerKind {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let name = String::deserialize(value)?;
        Self::by_name(&name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join("`, `");
            de::Error::custom(format!("`{name}` is not a tracker; known are `{names}`"))
        })
    }
}

impl fmt::Display for TrackerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A job, as a tracker has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrackedRun {
    /// Differs from that of the same job in another sweep, and before it was trained again from the start.
    pub id: String,
    /// Name of the sweep: the run's group.
    pub sweep: String,
    /// Name of the job in the sweep.
    pub job: String,
    /// The job.
    pub job_id: String,
    /// All settings of the job.
    pub config: Map<String, Value>,
    /// When its training began, ms since the epoch, UTC.
    pub started_ms: i64,
}

/// What is known of all SAEs of a job at one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrackedPoint {
    /// Optimizer updates done.
    pub step: u64,
    /// When it was reported, ms since the epoch, UTC.
    pub time_ms: i64,
    /// Whether it is of held-out sequences, and not of training.
    pub is_evaluation: bool,
    /// Names such as `layers.3/fvu`, and finite numbers. The last one of training is [`N_TOKENS`].
    pub values: Vec<(String, f64)>,
}

/// How much of a run a tracker has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedSoFar {
    /// The last step of training; `None`: there is no step yet.
    pub step: Option<u64>,
    /// The step of the last evaluation.
    pub evaluated: Option<u64>,
}

impl TrackedSoFar {
    /// The same, with `point` as well.
    pub fn with(self, point: &TrackedPoint) -> Self {
        let step = Some(point.step);
        if point.is_evaluation {
            Self {
                evaluated: self.evaluated.max(step),
                ..self
            }
        } else {
            Self {
                step: self.step.max(step),
                ..self
            }
        }
    }

    /// Whether it lacks `point`.
    pub fn lacks(self, point: &TrackedPoint) -> bool {
        self.with(point) != self
    }
}

/// How a run ends, or pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunEnd {
    /// The job is done.
    Done,
    /// The job has failed.
    Failed,
    /// It was cut off, and may continue.
    Stopped,
}

/// The tokens trained on, of all SAEs of the job.
pub const N_TOKENS: &str = "n_tokens";

/// What the view `result` calls the numbers of an evaluation.
pub const OF_EVALUATION: [&str; 11] = [
    "threshold",
    "l0_calibrated",
    "threshold_ema",
    "l0_ema",
    "fvu_eval",
    "l0_eval",
    "dead_pct_eval",
    "ce_clean",
    "ce_spliced",
    "ce_recovered",
    "kl",
];

/// Whether a number of this name, such as `layers.3/fvu_eval`, is of an evaluation.
pub fn is_of_evaluation(name: &str) -> bool {
    let last = name.rsplit('/').next();
    last.is_some_and(|last| OF_EVALUATION.contains(&last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_settings() {
        for kind in TrackerKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            let read: TrackerKind = serde_json::from_value(kind.name().into()).unwrap();
            assert_eq!(read, kind);
        }
        let error = serde_json::from_value::<TrackerKind>("aim".into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`aim` is not a tracker; known are `tensorboard`, `trackio`, `wandb`, `mlflow`"
        );
    }

    #[test]
    fn a_point_is_lacking_until_it_is_there() {
        let point = |step, is_evaluation| TrackedPoint {
            step,
            time_ms: 0,
            is_evaluation,
            values: Vec::new(),
        };
        let so_far = TrackedSoFar::default()
            .with(&point(5, false))
            .with(&point(10, false));
        assert!(!so_far.lacks(&point(5, false)) && !so_far.lacks(&point(10, false)));
        assert!(so_far.lacks(&point(11, false)) && so_far.lacks(&point(10, true)));
        assert!(!so_far.with(&point(10, true)).lacks(&point(10, true)));
    }

    #[test]
    fn evaluations_are_known_by_their_names() {
        assert!(is_of_evaluation("layers.1/fvu_eval") && is_of_evaluation("layers.1/seed0/kl"));
        assert!(!is_of_evaluation("layers.1/fvu") && !is_of_evaluation(N_TOKENS));
    }
}
