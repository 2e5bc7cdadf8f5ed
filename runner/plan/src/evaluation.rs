//! What held-out evaluation measures of one SAE: sums, and the ratios made of them.

use crate::not_finite::null_is_nan;
use crate::{Activation, TrainConfig};
use serde::{Deserialize, Serialize};

/// Nats a token that the mean in place of a hookpoint's output has to cost the model, for a share of it to mean
/// something. Some thousand tokens do not measure less, and a share of it may be any number. The view
/// `sae_evaluation` has the same.
pub const LEAST_ABLATION_COST: f64 = 0.01;

/// Sufficient statistics of one SAE over held-out sequences. Excluded tokens do not count in any of them.
///
/// Cross-entropies are in nats, of the next token, by the language model with the hookpoint's output
/// as it is (clean), with the SAE's output in its place (spliced), and with its mean over all
/// evaluated tokens in its place (ablated).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalStats {
    /// Tokens that the sums over activations run over.
    pub n_tokens: u64,
    /// Sum over tokens of the squared error, `|sae_out - y|^2`.
    #[serde(deserialize_with = "null_is_nan")]
    pub squared_error: f64,
    /// Sum over tokens of `|y - mean(y)|^2`, the mean being that of all evaluated tokens.
    #[serde(deserialize_with = "null_is_nan")]
    pub total_variance: f64,
    /// Sum over tokens of the number of latents with activation > 0.
    #[serde(deserialize_with = "null_is_nan")]
    pub l0: f64,
    /// Latents that fired on no evaluated token.
    pub n_dead: u64,
    /// Positions with a next token, which the sums over predictions run over.
    pub n_predicted: u64,
    /// Sum of the clean cross-entropy.
    #[serde(deserialize_with = "null_is_nan")]
    pub ce_clean: f64,
    /// Sum of the spliced cross-entropy.
    #[serde(deserialize_with = "null_is_nan")]
    pub ce_spliced: f64,
    /// Sum of the ablated cross-entropy.
    #[serde(deserialize_with = "null_is_nan")]
    pub ce_ablated: f64,
    /// Sum of the divergence KL(clean || spliced) of the distributions of the next token, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub kl: f64,
}

impl EvalStats {
    /// Fraction of variance unexplained; NaN without variance.
    pub fn fvu(&self) -> f64 {
        self.squared_error / self.total_variance
    }

    /// Mean number of active latents a token.
    pub fn mean_l0(&self) -> f64 {
        self.l0 / self.n_tokens as f64
    }

    /// Latents that fired on no evaluated token, in percent of `num_latents`.
    pub fn dead_pct(&self, num_latents: usize) -> f64 {
        100.0 * self.n_dead as f64 / num_latents as f64
    }

    /// Mean clean cross-entropy, nats a token.
    pub fn mean_ce_clean(&self) -> f64 {
        self.ce_clean / self.n_predicted as f64
    }

    /// Mean spliced cross-entropy, nats a token.
    pub fn mean_ce_spliced(&self) -> f64 {
        self.ce_spliced / self.n_predicted as f64
    }

    /// Mean ablated cross-entropy, nats a token.
    pub fn mean_ce_ablated(&self) -> f64 {
        self.ce_ablated / self.n_predicted as f64
    }

    /// Share of the cross-entropy that ablation costs which the SAE recovers:
    /// `(ablated - spliced) / (ablated - clean)`. 1 is as good as the output itself, 0 as its mean. `None`: ablation
    /// costs less than [`LEAST_ABLATION_COST`], or nothing at all.
    pub fn ce_recovered(&self) -> Option<f64> {
        let cost = self.ce_ablated - self.ce_clean;
        let is_enough = cost >= LEAST_ABLATION_COST * self.n_predicted as f64;
        let recovered = (self.ce_ablated - self.ce_spliced) / cost;
        Some(recovered).filter(|share| is_enough && share.is_finite())
    }

    /// Mean divergence KL(clean || spliced), nats a token.
    pub fn mean_kl(&self) -> f64 {
        self.kl / self.n_predicted as f64
    }
}

impl TrainConfig {
    /// Whether there is data to evaluate on.
    pub fn has_eval_data(&self) -> bool {
        self.eval_fraction > 0.0 || self.eval_data().is_some()
    }

    /// Whether the thresholds of the job's SAEs are chosen on held-out sequences.
    pub fn calibrates_threshold(&self) -> bool {
        let chooses = self.activation == Activation::BatchTopK && self.calibrate_threshold;
        chooses && self.has_eval_data()
    }

    /// Sequences that it is evaluated on at most, if it is trained on `n_training`: by default a tenth of these.
    pub fn most_eval_sequences(&self, n_training: u64) -> u64 {
        most_eval_sequences(self.eval_max_examples, n_training)
    }

    /// Whether the job's SAEs are evaluated when it is trained.
    pub fn wants_evaluation(&self) -> bool {
        self.evaluate && self.has_eval_data()
    }
}

/// Sequences that are evaluated on at most after a training on `n_training`; `limit`: the setting.
pub fn most_eval_sequences(limit: Option<u64>, n_training: u64) -> u64 {
    limit.unwrap_or(n_training / 10).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_sums() {
        let stats = EvalStats {
            n_tokens: 8,
            squared_error: 3.0,
            total_variance: 12.0,
            l0: 20.0,
            n_dead: 4,
            n_predicted: 4,
            ce_clean: 8.0,
            ce_spliced: 10.0,
            ce_ablated: 16.0,
            kl: 1.0,
        };
        assert_eq!((stats.fvu(), stats.mean_l0()), (0.25, 2.5));
        assert_eq!(stats.dead_pct(16), 25.0);
        assert_eq!(stats.ce_recovered(), Some(0.75));
        // No share of next to nothing, of nothing, or of a gain.
        for ce_ablated in [8.039, 8.0, 4.0, f64::NAN] {
            let close = EvalStats {
                ce_ablated,
                ..stats
            };
            assert_eq!(close.ce_recovered(), None, "{ce_ablated}");
        }
        let ce = (stats.mean_ce_clean(), stats.mean_ce_spliced());
        assert_eq!(ce, (2.0, 2.5));
        assert_eq!((stats.mean_ce_ablated(), stats.mean_kl()), (4.0, 0.25));
    }

    #[test]
    fn sums_that_are_not_finite_survive_json() {
        let stats = EvalStats {
            ce_spliced: f64::INFINITY,
            kl: f64::NAN,
            ce_clean: 0.1,
            ..Default::default()
        };
        let json = serde_json::to_string(&stats).unwrap();
        let read: EvalStats = serde_json::from_str(&json).unwrap();
        assert!(read.ce_spliced.is_nan() && read.kl.is_nan());
        assert_eq!(read.ce_clean, 0.1);
        assert!(read.fvu().is_nan(), "0 / 0");
    }

    #[test]
    fn evaluation_needs_data_and_may_be_switched_off() {
        let config = |eval_fraction, evaluate| TrainConfig {
            eval_fraction,
            evaluate,
            ..Default::default()
        };
        assert!(!config(0.0, true).wants_evaluation());
        assert!(config(0.1, true).wants_evaluation());
        assert!(!config(0.1, false).wants_evaluation());
        let by_split = TrainConfig {
            eval_split: Some("test".into()),
            ..Default::default()
        };
        assert!(by_split.wants_evaluation());
    }
}
