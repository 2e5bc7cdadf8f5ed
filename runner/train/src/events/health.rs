//! Recognises when training goes wrong: NaN or infinity, and reconstructions worse than the mean.

use crate::TrainError;
use crate::early_end::EarlyEnd;
use crate::optimizer::Optimizer;
use plan::{EventKind, SaeStats, TrainConfig};
use sae::Sae;
use std::collections::BTreeSet;
use tch::{Kind, TchError, Tensor};

/// Optimizer updates before a high FVU counts.
const LEAST_WARMUP_STEPS: u64 = 100;

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
    /// SAEs whose FVU was reported to be above 1.
    flagged: BTreeSet<String>,
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
            flagged: BTreeSet::new(),
        }
    }

    /// The SAEs whose FVU was reported to be above 1.
    pub(crate) fn flagged(&self) -> &BTreeSet<String> {
        &self.flagged
    }

    /// Continues where an earlier worker was.
    pub(crate) fn restore(&mut self, flagged: BTreeSet<String>) {
        self.flagged = flagged;
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
        let loss = stats.squared_error + stats.auxk + stats.multi_topk + stats.output_loss;
        if !loss.is_finite() {
            return Some(self.fail(sae, EarlyEnd::of_training("the loss")));
        }
        if !gradients_are_finite {
            return Some(self.fail(sae, EarlyEnd::of_training("a gradient")));
        }
        let fvu = stats.fvu();
        let is_high = self.minimises_fvu && step > self.n_warmup_steps && fvu > 1.0;
        if !is_high || !self.flagged.insert(sae.to_owned()) {
            return None;
        }
        let step_text = format!("after update {step}");
        Some(Verdict {
            sae: sae.into(),
            reason: format!("FVU is {fvu:.3} {step_text}: worse than the mean; is lr too high?"),
            is_fatal: false,
            hint: None,
        })
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
            ..SaeStats::default()
        }
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
            verdict.reason.contains("FVU is 1.500 after update 101"),
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
