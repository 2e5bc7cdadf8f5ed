//! The threshold of BatchTopK as training estimates it, from the least score that was chosen in each update: after
//! training, tokens are encoded one by one, and a latent is active above the threshold.

use crate::TrainError;
use plan::{ThresholdEma, TrainConfig};
use tch::{Device, Kind, Tensor};

/// A running estimate.
#[derive(Debug)]
pub(crate) struct ThresholdEstimate {
    rule: ThresholdEma,
    /// Weight of the new value.
    rate: f64,
    start_step: u64,
    /// Double, a scalar, or one for each hookpoint, if each has its own; below 0: not estimated yet.
    pub(crate) value: Tensor,
}

impl ThresholdEstimate {
    /// One that begins with `known`, of an SAE that was trained before. `n_hookpoints`: those that have their own.
    pub(crate) fn new(
        config: &TrainConfig,
        known: Option<f64>,
        (n_hookpoints, device): (Option<usize>, Device),
    ) -> Result<Self, TrainError> {
        let first = known.unwrap_or(match config.threshold_ema {
            ThresholdEma::Saelens | ThresholdEma::Saev => 0.0,
            ThresholdEma::DictionaryLearning | ThresholdEma::Overcomplete => -1.0,
        });
        let shape: Vec<i64> = n_hookpoints.into_iter().map(|n| n as i64).collect();
        Ok(Self {
            rule: config.threshold_ema,
            rate: config.topk_threshold_lr,
            start_step: config.threshold_start_step,
            value: Tensor::f_full(shape, first, (Kind::Double, device))?,
        })
    }

    /// Takes note of update number `step`. `least`: the least score that was chosen: Float, shaped as the estimate;
    /// infinity if none was.
    pub(crate) fn note(&mut self, least: &Tensor, step: u64) -> Result<(), TrainError> {
        if self.rule == ThresholdEma::DictionaryLearning && step <= self.start_step {
            return Ok(());
        }
        let least = least.f_to_kind(Kind::Double)?;
        let moved = self.value.f_lerp(&least, self.rate)?;
        let moved = match self.rule {
            ThresholdEma::Saelens | ThresholdEma::Saev => moved,
            ThresholdEma::DictionaryLearning | ThresholdEma::Overcomplete => {
                least.f_where_self(&self.value.f_lt(0.0)?, &moved)?
            }
        };
        self.value = moved.f_where_self(&least.f_isfinite()?, &self.value)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rule: ThresholdEma, least: &[f64]) -> f64 {
        let config = TrainConfig {
            threshold_ema: rule,
            topk_threshold_lr: 0.25,
            threshold_start_step: 0,
            ..TrainConfig::default()
        };
        let mut estimate = ThresholdEstimate::new(&config, None, (None, Device::Cpu)).unwrap();
        let at = (Some(2), Device::Cpu);
        let mut of_two = ThresholdEstimate::new(&config, None, at).unwrap();
        for (step, least) in (0u64..).zip(least) {
            let least = Tensor::from(*least as f32);
            estimate.note(&least, step).unwrap();
            let with_twice = Tensor::stack(&[&least, &(&least * 2.0)], 0);
            of_two.note(&with_twice, step).unwrap();
        }
        let [one, other] = [0, 1].map(|idx| of_two.value.double_value(&[idx]));
        assert_eq!(one, estimate.value.double_value(&[]));
        assert_eq!(other, if one < 0.0 { one } else { 2.0 * one });
        estimate.value.double_value(&[])
    }

    #[test]
    fn each_rule_has_its_start() {
        let none = f64::INFINITY;
        assert_eq!(after(ThresholdEma::Saelens, &[4.0, 8.0]), 0.75 + 2.0);
        assert_eq!(after(ThresholdEma::Saev, &[4.0, none, 8.0]), 0.75 + 2.0);
        assert_eq!(after(ThresholdEma::Overcomplete, &[none, 4.0, 8.0]), 5.0);
        assert_eq!(
            after(ThresholdEma::DictionaryLearning, &[9.0, 4.0, 8.0]),
            5.0
        );
        assert_eq!(after(ThresholdEma::DictionaryLearning, &[9.0]), -1.0);
    }
}
