//! Adam (Kingma and Ba 2015, arXiv:1412.6980), as `torch.optim.Adam` with its defaults computes it.
//!
//! ```text
//! m = beta_1 m + (1 - beta_1) g          v = beta_2 v + (1 - beta_2) g^2
//! w = w - lr_t m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps)
//! ```
//!
//! `lr_t` rises linearly over the warm-up and then does what the schedule says.

use crate::TrainError;
use crate::optimizer::{Remembered, Take};
use plan::{LrSchedule, TrainConfig};
use sae::Rule;
use tch::Tensor;

const EPS: f64 = 1e-8;

/// The optimizer's memory of one SAE.
#[derive(Debug)]
pub(crate) struct Adam {
    lr: f64,
    schedule: LrSchedule,
    betas: Betas,
    /// By weight; empty before the first update.
    moments: Vec<Moments>,
}

/// How much of the means of gradients, and of their squares, stays in an update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Betas([f64; 2]);

impl Betas {
    pub(crate) fn of(config: &TrainConfig) -> Self {
        Self([config.adam_beta1, config.adam_beta2])
    }
}

/// Running means of one weight's gradient.
#[derive(Debug)]
pub(crate) struct Moments {
    /// `exp_avg` and `exp_avg_sq`.
    means: [Tensor; 2],
}

impl Adam {
    pub(crate) fn new(config: &TrainConfig, lr: f64) -> Self {
        Self {
            lr,
            schedule: LrSchedule::of(config),
            betas: Betas::of(config),
            moments: Vec::new(),
        }
    }

    /// By what update number `step` changes `weights`.
    pub(crate) fn rules<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a Tensor>,
        step: u64,
        n_steps: u64,
    ) -> Result<Vec<Rule<'_>>, TrainError> {
        if self.moments.is_empty() {
            let fresh = weights.map(Moments::zeros);
            self.moments = fresh.collect::<Result<_, _>>()?;
        }
        let lr = self.lr * self.schedule.at(step, n_steps);
        let (moments, betas) = (self.moments.iter_mut(), self.betas);
        Ok(moments
            .map(|moments| moments.rule(lr, step, betas))
            .collect())
    }

    pub(crate) fn state(&self) -> Vec<Remembered<'_>> {
        let moments = self.moments.iter().enumerate();
        moments
            .flat_map(|(idx, moments)| moments.state(idx))
            .collect()
    }

    pub(crate) fn restore(&mut self, n_weights: usize, take: Take<'_>) -> Result<(), TrainError> {
        let moments = (0..n_weights).map(|idx| Moments::restore(idx, take));
        self.moments = moments.collect::<Result<_, _>>()?;
        Ok(())
    }
}

impl Moments {
    pub(crate) fn zeros(weight: &Tensor) -> Result<Self, TrainError> {
        let means = [weight.f_zeros_like()?, weight.f_zeros_like()?];
        Ok(Self { means })
    }

    /// By what update number `step`, from 0, changes the weight that they belong to.
    pub(crate) fn rule(&mut self, lr: f64, step: u64, Betas([beta_1, beta_2]): Betas) -> Rule<'_> {
        let n_updates = (step + 1) as f64;
        let constants = sae::Adam {
            lr: lr / (1.0 - beta_1.powf(n_updates)),
            to_gradient: 1.0 - beta_1,
            to_square: 1.0 - beta_2,
            correction: (1.0 - beta_2.powf(n_updates)).sqrt(),
            eps: EPS,
        };
        Rule::Adam(constants, &mut self.means)
    }

    /// What they remember for the weight `idx`.
    pub(crate) fn state(&self, idx: usize) -> [Remembered<'_>; 2] {
        let [exp_avg, exp_avg_sq] = &self.means;
        [("exp_avg", idx, exp_avg), ("exp_avg_sq", idx, exp_avg_sq)]
    }

    pub(crate) fn restore(idx: usize, take: Take<'_>) -> Result<Self, TrainError> {
        let means = [take("exp_avg", idx)?, take("exp_avg_sq", idx)?];
        Ok(Self { means })
    }
}
