//! Recognises when training goes wrong: NaN or infinity, reconstructions worse than the mean, and no active latent.

use crate::TrainError;
use crate::early_end::EarlyEnd;
use crate::optimizer::Optimizer;
use plan::{Activation, EventKind, SaeStats, TrainConfig};
use sae::Sae;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tch::{Kind, TchError, Tensor};

/// Optimizer updates before a high FVU or an L0 of about 0 counts.
const LEAST_WARMUP_STEPS: u64 = 100;

/// With fewer active latents a token than this, an SAE gives nothing but its bias.
const LEAST_L0: f64 = 0.01;

/// Numbers that are looked at together.
const NUMBERS_AT_ONCE: i64 = 1 << 20;

/// How a job fares.
#[derive(Debug)]
pub(crate) struct Health {
    n_warmup_steps: u64,
    /// Whether the loss is at the hookpoint: else the FVU is not what gets smaller.
    minimises_fvu: bool,
    /// Why the job is trained no further; with the SAE's name.
    failure: Option<EarlyEnd>,
    remarks: Remarks,
    /// What to do where no latent is active.
    against_silence: &'static str,
}

/// The SAEs that a remark was made on. Each is made once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remarks {
    /// That their FVU is above 1.
    #[serde(default)]
    pub(crate) flagged: BTreeSet<String>,
    /// That hardly one of their latents is active.
    #[serde(default)]
    pub(crate) silent: BTreeSet<String>,
}

/// What is wrong with an SAE.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    sae: String,
    reason: String,
    is_fatal: bool,
    hint: Option<String>,
}

impl Health {
    pub(crate) fn new(config: &TrainConfig) -> Self {
        let n_warmup_steps = match config.optimizer {
            plan::Optimizer::Signum => 0,
            plan::Optimizer::Adam | plan::Optimizer::Muon => config.lr_warmup_steps,
        };
        Self {
            n_warmup_steps: n_warmup_steps.max(LEAST_WARMUP_STEPS),
            minimises_fvu: !config.loss_fn.is_end_to_end(),
            failure: None,
            remarks: Remarks::default(),
            against_silence: match config.activation {
                Activation::JumpRelu => {
                    "lower `l0_coefficient`, or let it rise more slowly (`l0_warm_up_steps`)"
                }
                Activation::Relu | Activation::Gated => {
                    "lower `l1_coefficient`, or let it rise more slowly (`l1_warm_up_steps`)"
                }
                Activation::TopK | Activation::GroupMax | Activation::BatchTopK => {
                    "lower `lr`, or set `auxk_alpha`, which revives dead latents"
                }
            },
        }
    }

    /// The SAEs that a remark was made on.
    pub(crate) fn remarks(&self) -> &Remarks {
        &self.remarks
    }

    /// Continues where an earlier worker was.
    pub(crate) fn restore(&mut self, remarks: Remarks) {
        self.remarks = remarks;
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(crate) fn failure(&self) -> Option<&EarlyEnd> {
        self.failure.as_ref()
    }

    /// Judges the statistics of an SAE up to `step`. Once a job has failed, there is no more to say.
    pub(crate) fn judge(
        &mut self,
        sae: &str,
        stats: &SaeStats,
        gradients_are_finite: bool,
        step: u64,
    ) -> Option<Verdict> {
        if self.has_failed() {
            return None;
        }
        let terms = [
            stats.auxk,
            stats.multi_topk,
            stats.output_loss,
            stats.sparsity,
        ];
        let loss = stats.squared_error + terms.iter().sum::<f64>();
        if !loss.is_finite() {
            return Some(self.fail(sae, EarlyEnd::of_training("the loss")));
        }
        if !gradients_are_finite {
            return Some(self.fail(sae, EarlyEnd::of_training("a gradient")));
        }
        if step <= self.n_warmup_steps {
            return None;
        }
        self.remark(sae, stats, step)
    }

    /// What to say of an SAE that trains, if it was not said yet.
    fn remark(&mut self, sae: &str, stats: &SaeStats, step: u64) -> Option<Verdict> {
        let verdict = |reason, hint| Verdict {
            sae: sae.into(),
            reason,
            is_fatal: false,
            hint,
        };
        let l0 = stats.l0 / stats.n_tokens as f64;
        if l0 < LEAST_L0 && self.remarks.silent.insert(sae.to_owned()) {
            let reason = format!("L0 is {l0:.3} after step {step}: almost no latent is active");
            return Some(verdict(reason, Some(self.against_silence.into())));
        }
        let fvu = stats.fvu();
        let is_high = self.minimises_fvu && fvu > 1.0;
        if !is_high || !self.remarks.flagged.insert(sae.to_owned()) {
            return None;
        }
        let step_text = format!("after step {step}");
        let reason = format!("FVU is {fvu:.3} {step_text}: worse than the mean; is lr too high?");
        Some(verdict(reason, None))
    }

    /// The job's end.
    pub(crate) fn fail(&mut self, sae: &str, fault: EarlyEnd) -> Verdict {
        let EarlyEnd { reason, hint } = fault;
        self.failure = Some(EarlyEnd {
            reason: format!("`{sae}`: {reason}"),
            hint: hint.clone(),
        });
        Verdict {
            sae: sae.into(),
            reason,
            is_fatal: true,
            hint: Some(hint),
        }
    }
}

impl Verdict {
    pub(crate) fn event(self, job_id: &str, step: u64) -> EventKind {
        EventKind::Unhealthy {
            job_id: job_id.into(),
            sae: self.sae,
            step,
            reason: self.reason,
            is_fatal: self.is_fatal,
            hint: self.hint,
        }
    }
}

/// Sums of an SAE's weights and of what its optimizer remembers, by name.
pub(crate) struct WeightSums(Vec<(String, f64)>);

impl WeightSums {
    /// The first that is not finite.
    pub(crate) fn first_not_finite(self) -> Option<String> {
        let bad = self.0.into_iter().find(|(_, sum)| !sum.is_finite());
        bad.map(|(name, _)| name)
    }

    /// All of them, for a comparison; NaNs are alike.
    pub(crate) fn bits(&self) -> Vec<i64> {
        let sums = self
            .0
            .iter()
            .map(|(_, sum)| if sum.is_nan() { f64::NAN } else { *sum });
        sums.map(|sum| sum.to_bits().cast_signed()).collect()
    }
}

/// The sums of an SAE's weights and of what its optimizer remembers.
pub(crate) fn weight_sums(sae: &Sae, optimizer: &Optimizer) -> Result<WeightSums, TrainError> {
    let weights = sae.named_weights();
    let of_optimizer = optimizer.state().into_iter();
    let of_optimizer = of_optimizer.map(|(slot, idx, tensor)| {
        let weight = weights[idx].0;
        (format!("`{slot}` of `{weight}`"), tensor)
    });
    let named = weights
        .iter()
        .map(|(name, weight)| (format!("`{name}`"), *weight));
    let named: Vec<_> = named.chain(of_optimizer).collect();
    let sums = named.iter().map(|(_, tensor)| sum(tensor));
    let sums = Tensor::f_stack(&sums.collect::<Result<Vec<_>, _>>()?, 0)?;
    // Sync: once a checkpoint, for all tensors of an SAE. In Double no sum of finite numbers overflows.
    let sums = Vec::<f64>::try_from(sums)?;
    let named = named.into_iter().map(|(name, _)| name);
    Ok(WeightSums(named.zip(sums).collect()))
}

/// Scalar, Double. Part by part: libtorch first makes a Double of each number.
fn sum(tensor: &Tensor) -> Result<Tensor, TchError> {
    let mut sum = Tensor::f_zeros([0i64; 0], (Kind::Double, tensor.device()))?;
    for part in tensor.f_flatten(0, -1)?.f_split(NUMBERS_AT_ONCE, 0)? {
        let _ = sum.f_add_(&part.f_sum(Kind::Double)?)?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(squared_error: f64) -> SaeStats {
        SaeStats {
            n_tokens: 8,
            squared_error,
            total_variance: 2.0,
            l0: 8.0,
            ..SaeStats::default()
        }
    }

    #[test]
    fn an_l0_of_about_0_is_told_once_and_only_after_warm_up() {
        let config = TrainConfig {
            activation: Activation::JumpRelu,
            ..TrainConfig::default()
        };
        let mut health = Health::new(&config);
        let silent = SaeStats {
            l0: 0.0,
            ..stats(3.0)
        };
        assert_eq!(health.judge("layers.0", &silent, true, 100), None);
        let verdict = health.judge("layers.0", &silent, true, 101).unwrap();
        assert!(!verdict.is_fatal && !health.has_failed());
        assert!(verdict.reason.starts_with("L0 is 0.000 after step 101"));
        assert!(verdict.hint.unwrap().contains("`l0_coefficient`"));
        // What else is wrong comes next.
        let verdict = health.judge("layers.0", &silent, true, 102).unwrap();
        assert!(verdict.reason.starts_with("FVU is 1.500"));
        assert_eq!(health.judge("layers.0", &silent, true, 103), None);
        let mut resumed = Health::new(&config);
        resumed.restore(health.remarks().clone());
        assert_eq!(resumed.judge("layers.0", &silent, true, 104), None);
    }

    #[test]
    fn a_penalty_that_is_no_number_ends_the_job() {
        let bad = SaeStats {
            sparsity: f64::NAN,
            ..stats(1.0)
        };
        let mut health = Health::new(&TrainConfig::default());
        assert!(health.judge("layers.0", &bad, true, 3).unwrap().is_fatal);
    }

    #[test]
    fn a_loss_that_is_no_number_ends_the_job() {
        for bad in [f64::NAN, f64::INFINITY] {
            let mut health = Health::new(&TrainConfig::default());
            let verdict = health.judge("layers.0", &stats(bad), true, 3).unwrap();
            assert!(verdict.is_fatal && health.has_failed());
            assert!(verdict.reason.starts_with("the loss is NaN"), "{verdict:?}");
            assert_eq!(health.judge("layers.1", &stats(bad), true, 3), None);
        }
        let mut health = Health::new(&TrainConfig::default());
        assert!(
            health
                .judge("layers.0", &stats(1.0), false, 3)
                .unwrap()
                .is_fatal
        );
    }

    #[test]
    fn an_fvu_above_1_is_told_once_and_only_after_warm_up() {
        let mut health = Health::new(&TrainConfig::default());
        assert_eq!(health.judge("layers.0", &stats(3.0), true, 100), None);
        let verdict = health.judge("layers.0", &stats(3.0), true, 101).unwrap();
        assert!(!verdict.is_fatal && !health.has_failed());
        assert!(
            verdict.reason.contains("FVU is 1.500 after step 101"),
            "{verdict:?}"
        );
        assert_eq!(health.judge("layers.0", &stats(3.0), true, 102), None);
        assert!(health.judge("layers.1", &stats(3.0), true, 102).is_some());
        assert_eq!(health.judge("layers.2", &stats(1.9), true, 102), None);
    }

    #[test]
    fn warm_up_is_that_of_the_optimizer() {
        let config = TrainConfig {
            optimizer: plan::Optimizer::Adam,
            lr_warmup_steps: 500,
            ..TrainConfig::default()
        };
        let mut health = Health::new(&config);
        assert_eq!(health.judge("layers.0", &stats(3.0), true, 500), None);
        assert!(health.judge("layers.0", &stats(3.0), true, 501).is_some());
    }
}
