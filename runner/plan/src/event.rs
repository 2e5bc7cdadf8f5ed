//! What a worker reports: one JSON object a line in `events.jsonl`, numbered.
//!
//! Numbers grow over all attempts of a stream, so folding a file twice changes nothing.

use crate::EvalStats;
use crate::not_finite::null_is_nan;
use fault::FailureKind;
use serde::{Deserialize, Serialize};
use thiserror::Error;

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

/// Bytes of the longest line that is read; those of a worker have some hundred, and a few thousand if
/// they report a failure.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// No count of a run comes near it, and the sum of very many of them still is an integer.
const MAX_COUNT: u64 = 1 << 48;

/// A line that is not taken for an event.
#[derive(Debug, Error)]
pub enum BadEvent {
    /// A line without an end, or nearly.
    #[error("it is longer than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// Not JSON, or not an event that this version knows.
    #[error("it is not an event: {0}")]
    Unknown(#[from] serde_json::Error),
    /// A count that no run has.
    #[error("{0} is not a count of a run")]
    Count(i128),
}

impl Event {
    /// Reads a line, with or without its end.
    ///
    /// # Errors
    /// A line that is too long, that is not an event, or that has a count that no run has.
    pub fn from_line(line: &[u8]) -> Result<Self, BadEvent> {
        if line.len() > MAX_EVENT_BYTES {
            return Err(BadEvent::TooLong);
        }
        let event: Self = serde_json::from_slice(line)?;
        let is_count = |count: &u64| (0..=MAX_COUNT).contains(count);
        if let Some(count) = event.kind.counts().iter().find(|count| !is_count(count)) {
            return Err(BadEvent::Count((*count).into()));
        }
        let numbers = [event.seq, event.attempt.into()];
        match numbers
            .into_iter()
            .find(|number| *number == 0 || !is_count(number))
        {
            Some(number) => Err(BadEvent::Count(number.into())),
            None if (0..MAX_COUNT as i64).contains(&event.time_ms) => Ok(event),
            None => Err(BadEvent::Count(event.time_ms.into())),
        }
    }
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
    /// Something the user should know that is not an error.
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
    /// A job continues from a state of another one, which differs only in how long it was trained.
    Extended {
        /// The job.
        job_id: String,
        /// The other one.
        base_job_id: String,
        /// Optimizer updates that they have in common.
        step: u64,
    },
    /// Statistics of one SAE since its last metric event.
    Metric {
        /// The job.
        job_id: String,
        /// Name of the SAE: hookpoint, and seed if there are several.
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
        /// True if the job is trained no further.
        is_fatal: bool,
        /// What to do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// SAEs are being evaluated; reported now and then.
    Evaluating {
        /// Held-out sequences done.
        n_done: u64,
        /// Held-out sequences in all.
        n_sequences: u64,
    },
    /// The threshold of a trained SAE was found at which held-out tokens have `k` active latents on average; with a
    /// threshold for each hookpoint, `k` at each, and the two thresholds here are means over the hookpoints. It comes
    /// after the checkpoint's event, without which it does not count, and before the SAE's `Evaluation`.
    Calibration {
        /// The job.
        job_id: String,
        /// Name of the SAE.
        sae: String,
        /// Optimizer updates up to the checkpoint.
        step: u64,
        /// Held-out tokens that it was found on.
        n_tokens: u64,
        /// Mean number of active latents a token that was wanted.
        #[serde(deserialize_with = "null_is_nan")]
        k: f64,
        /// Threshold that training estimated; not finite if it made no estimate.
        #[serde(deserialize_with = "null_is_nan")]
        ema_threshold: f64,
        /// Mean number of active latents a token with that threshold.
        #[serde(deserialize_with = "null_is_nan")]
        ema_l0: f64,
        /// The threshold that was found; the checkpoint has it.
        #[serde(deserialize_with = "null_is_nan")]
        threshold: f64,
        /// Mean number of active latents a token with it.
        #[serde(deserialize_with = "null_is_nan")]
        l0: f64,
        /// Those of each hookpoint, if each has its own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hookpoints: Vec<HookpointThreshold>,
    },
    /// An SAE of a job that is trained was evaluated on held-out sequences.
    Evaluation {
        /// The job.
        job_id: String,
        /// Name of the SAE.
        sae: String,
        /// Optimizer updates up to the checkpoint.
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
    /// All jobs of the stream are done, and evaluated if that was asked for.
    Finished,
}

impl EventKind {
    /// Every count that it has.
    fn counts(&self) -> Vec<u64> {
        match self {
            Self::Tokenising {
                n_tokens,
                n_bytes_read,
                n_bytes_total,
            } => vec![*n_tokens, *n_bytes_read, *n_bytes_total],
            Self::Ready {
                first_step,
                n_steps,
                tokens_per_step,
            } => vec![*first_step, *n_steps, *tokens_per_step],
            Self::Metric { step, stats, .. } => {
                vec![*step, stats.n_tokens, stats.n_dead, stats.n_output]
            }
            Self::Progress {
                step,
                n_tokens,
                elapsed_ms,
            } => vec![*step, *n_tokens, *elapsed_ms],
            Self::Evaluating {
                n_done,
                n_sequences,
            } => vec![*n_done, *n_sequences],
            Self::Calibration { step, n_tokens, .. } => vec![*step, *n_tokens],
            Self::Evaluation { step, stats, .. } => {
                vec![*step, stats.n_tokens, stats.n_dead, stats.n_predicted]
            }
            Self::Checkpoint { step, .. }
            | Self::Extended { step, .. }
            | Self::Unhealthy { step, .. }
            | Self::Interrupted { step } => vec![*step],
            Self::Started { .. } | Self::Note { .. } | Self::Failed { .. } | Self::Finished => {
                Vec::new()
            }
        }
    }
}

/// The threshold of one hookpoint of a crosscoder, of those that have one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookpointThreshold {
    /// The hookpoint.
    pub hookpoint: String,
    /// Threshold that training estimated; not finite if it made no estimate.
    #[serde(deserialize_with = "null_is_nan")]
    pub threshold_ema: f64,
    /// Mean number of latents a token that are active at the hookpoint with that threshold.
    #[serde(deserialize_with = "null_is_nan")]
    pub l0_ema: f64,
    /// The threshold that was found; the checkpoint has it.
    #[serde(deserialize_with = "null_is_nan")]
    pub threshold: f64,
    /// Mean number of latents a token that are active at the hookpoint with it.
    #[serde(deserialize_with = "null_is_nan")]
    pub l0: f64,
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
    /// `n_output` positions; 0 if that is not what is minimised.
    #[serde(default, deserialize_with = "null_is_nan")]
    pub output_loss: f64,
    /// Positions of that sum.
    #[serde(default)]
    pub n_output: u64,
    /// Sum over steps of the sparsity penalty with its coefficient, scaled as `squared_error`; 0 without one.
    #[serde(default, deserialize_with = "null_is_nan")]
    pub sparsity: f64,
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
    use proptest::prelude::*;

    const LINE: &str = r#"{"seq":7,"time_ms":5,"attempt":2,"event":"interrupted","step":3}"#;

    #[test]
    fn a_line_is_read_with_its_end_and_without() {
        for line in [LINE.to_owned(), format!("{LINE}\n"), format!("{LINE}\r\n")] {
            let event = Event::from_line(line.as_bytes()).unwrap();
            assert_eq!((event.seq, event.attempt), (7, 2));
            assert_eq!(event.kind, EventKind::Interrupted { step: 3 });
        }
    }

    #[test]
    fn what_no_worker_writes_is_refused() {
        let of = |from: &str, to: &str| LINE.replace(from, to);
        for (line, words) in [
            (String::new(), "not an event"),
            ("[]".into(), "not an event"),
            ("\0\0\0".into(), "not an event"),
            (of(":3}", ":3"), "not an event"),
            (of("interrupted", "rewound"), "not an event"),
            (of("\"step\":3", "\"steps\":3"), "not an event"),
            (of(":3}", ":-3}"), "not an event"),
            (of(":3}", ":3e300}"), "not an event"),
            (of(":3}", ":9007199254740993}"), "9007199254740993"),
            (of(":7", ":0"), "0 is not a count"),
            (of(":7", ":18446744073709551615"), "18446744073709551615"),
            (of("\"attempt\":2", "\"attempt\":0"), "0 is not a count"),
            (of(":5", ":-5"), "-5 is not a count"),
            ("[".repeat(100_000), "not an event"),
            (LINE.to_owned() + &" ".repeat(MAX_EVENT_BYTES), "longer"),
        ] {
            let error = Event::from_line(line.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(words), "{line:.99}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_none(bytes in any::<Vec<u8>>(), at in 0..LINE.len(), with: u8) {
            let _ = Event::from_line(&bytes);
            let mut line = LINE.as_bytes().to_vec();
            line[at] = with;
            if let Ok(event) = Event::from_line(&line) {
                let again = serde_json::to_vec(&event).unwrap();
                prop_assert_eq!(Event::from_line(&again).unwrap(), event);
            }
        }
    }

    #[test]
    fn a_threshold_that_does_not_exist_survives_json() {
        let line = r#"{"seq":1,"time_ms":5,"attempt":1,"event":"calibration","job_id":"j","sae":"layers.0",
            "step":20,"n_tokens":64,"k":4.5,"ema_threshold":null,"ema_l0":null,"threshold":0.25,"l0":4.5}"#;
        let line = line.replace('\n', "");
        let event = Event::from_line(line.as_bytes()).unwrap();
        let EventKind::Calibration {
            k,
            ema_threshold,
            l0,
            ..
        } = event.kind
        else {
            panic!("{event:?}");
        };
        assert!(ema_threshold.is_nan());
        assert_eq!((k, l0), (4.5, 4.5));
        let written = serde_json::to_value(&event).unwrap();
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(written, read);
        let too_many = line.replace(":64", ":9007199254740993");
        let error = Event::from_line(too_many.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("not a count"), "{error}");
    }

    #[test]
    fn statistics_of_an_earlier_version_have_no_sparsity() {
        let json = r#"{"n_tokens":1,"squared_error":1.0,"total_variance":1.0,"l0":1.0,"n_dead":0}"#;
        let stats: SaeStats = serde_json::from_str(json).unwrap();
        assert_eq!((stats.auxk, stats.sparsity), (0.0, 0.0));
    }

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
