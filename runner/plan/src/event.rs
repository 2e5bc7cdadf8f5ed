//! What a worker reports: one JSON object a line in `events.jsonl`, numbered.
//!
//! Numbers grow over all attempts of a stream, so folding a file twice changes nothing.

use crate::EvalStats;
use serde::{Deserialize, Deserializer, Serialize};

/// One line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// 1, 2, 3, ... without gaps, over all attempts of the stream.
    pub seq: u64,
    /// When it was written, ms since the epoch, UTC.
    pub time_ms: i64,
    /// Which attempt wrote it; numbered from 1 within the stream.
    pub attempt: u32,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The worker runs; nothing is loaded yet.
    Started {
        /// Device it trains on, such as `cpu` or `cuda:0`.
        device: String,
        /// Version of libtorch.
        libtorch: String,
        /// Process id.
        pid: u32,
        /// Host name.
        host: String,
    },
    /// The data set is being tokenised; reported now and then.
    Tokenising {
        /// Tokens so far.
        n_tokens: u64,
        /// Bytes of the data files read so far.
        n_bytes_read: u64,
        /// Bytes of all data files.
        n_bytes_total: u64,
    },
    /// Something the user should know that is no error.
    Note {
        /// What.
        message: String,
    },
    /// Model and tokens are there; training begins at `first_step`.
    Ready {
        /// Optimizer updates done before this attempt (0 for a fresh start).
        first_step: u64,
        /// Optimizer updates in all.
        n_steps: u64,
        /// Tokens of one optimizer update.
        tokens_per_step: u64,
    },
    /// Statistics of one SAE since its last metric event.
    Metric {
        /// The job.
        job_id: String,
        /// Name of the SAE: hookpoint, and seed where there are several.
        sae: String,
        /// Optimizer updates done, this interval included.
        step: u64,
        /// The interval's sums.
        stats: SaeStats,
    },
    /// Speed since the last such event.
    Progress {
        /// Optimizer updates done.
        step: u64,
        /// Tokens that went through the language model since the last such event.
        n_tokens: u64,
        /// Wall time since the last such event, ms.
        elapsed_ms: u64,
    },
    /// A job's checkpoint is complete on disk.
    Checkpoint {
        /// The job.
        job_id: String,
        /// Optimizer updates done.
        step: u64,
        /// The job's folder, relative to the runs folder.
        path: String,
        /// True when training of the job is over.
        is_final: bool,
    },
    /// Something is wrong with an SAE in training.
    Unhealthy {
        /// The job.
        job_id: String,
        /// Name of the SAE.
        sae: String,
        /// Optimizer updates done.
        step: u64,
        /// What is wrong, in one line.
        reason: String,
        /// True where the job is trained no further.
        is_fatal: bool,
    },
    /// SAEs are being evaluated; reported now and then.
    Evaluating {
        /// Held-out sequences done.
        n_done: u64,
        /// Held-out sequences in all.
        n_sequences: u64,
    },
    /// An SAE of a job that is trained was evaluated on held-out sequences.
    Evaluation {
        /// The job.
        job_id: String,
        /// Name of the SAE.
        sae: String,
        /// Optimizer updates behind the checkpoint.
        step: u64,
        /// The sums.
        stats: EvalStats,
        /// File with the firing density of each latent, relative to the runs folder.
        density: String,
    },
    /// The attempt ends in an error.
    Failed {
        /// Whose fault, hence whether a retry makes sense.
        kind: FailureKind,
        /// What went wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The attempt stopped on request after a checkpoint.
    Interrupted {
        /// Optimizer updates done.
        step: u64,
    },
    /// All jobs of the stream are done, and evaluated where that was asked for.
    Finished,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The user's input: a retry would fail the same way.
    Input,
    /// The machine's or the program's.
    Internal,
}

/// Sufficient statistics of one SAE over an interval: sums, so that any ratio over any union of
/// intervals, ranks or micro-batches is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SaeStats {
    /// Tokens the sums run over.
    pub n_tokens: u64,
    /// Sum over steps and tokens of the squared error, `|sae_out - x|^2`.
    #[serde(deserialize_with = "null_is_nan")]
    pub squared_error: f64,
    /// Sum over steps of the step's total variance, `sum |x - mean(x)|^2`.
    #[serde(deserialize_with = "null_is_nan")]
    pub total_variance: f64,
    /// Sum over tokens of the number of latents with activation > 0.
    #[serde(deserialize_with = "null_is_nan")]
    pub l0: f64,
    /// Latents that have not fired for more than `dead_feature_threshold` tokens, at the end.
    pub n_dead: u64,
    /// Sum over steps of the dead latents' squared error, scaled as in the loss; 0 without `auxk_alpha`.
    #[serde(default, deserialize_with = "null_is_nan")]
    pub auxk: f64,
    /// Sum over steps and tokens of the squared error of `4 * k` latents; 0 without `multi_topk`.
    #[serde(default, deserialize_with = "null_is_nan")]
    pub multi_topk: f64,
    /// Sum of the loss on the model's output (cross-entropy or KL divergence, in nats) over
    /// `n_output` positions; 0 where that is not what is minimised.
    #[serde(default, deserialize_with = "null_is_nan")]
    pub output_loss: f64,
    /// Positions of that sum.
    #[serde(default)]
    pub n_output: u64,
}

/// JSON has no NaN and no infinity; `serde_json` writes null for both. Training that diverged must not
/// stop its own report.
pub(crate) fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl SaeStats {
    /// Fraction of variance unexplained.
    pub fn fvu(&self) -> f64 {
        self.squared_error / self.total_variance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diverged_sums_survive_json() {
        let stats = SaeStats {
            squared_error: f64::NAN,
            total_variance: 2.0,
            ..Default::default()
        };
        let json = serde_json::to_string(&stats).unwrap();
        let read: SaeStats = serde_json::from_str(&json).unwrap();
        assert!(read.fvu().is_nan());
        assert_eq!(read.total_variance, 2.0);
    }
}
