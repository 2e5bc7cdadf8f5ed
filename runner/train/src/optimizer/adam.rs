//! Adam (Kingma and Ba 2015, arXiv:1412.6980), as `torch.optim.Adam` with its defaults computes it.
//!
//! ```text
//! m = beta_1 m + (1 - beta_1) g          v = beta_2 v + (1 - beta_2) g^2
//! w = w - lr_t m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps)
//! ```
//!
//! `lr_t` rises linearly over the warm-up and then falls linearly to 0 at the last update.

use crate::TrainError;
use crate::optimizer::{Remembered, Take};
use plan::linear_schedule;
use sae::Rule;
use tch::Tensor;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// The optimizer's memory of one SAE.
#[derive(Debug)]
pub(crate) struct Adam {
    lr: f64,
    n_warmup_steps: u64,
    /// By weight; empty before the first update.
    moments: Vec<Moments>,
}

/// Running means of one weight's gradient.
#[derive(Debug)]
pub(crate) struct Moments {
    /// `exp_avg` and `exp_avg_sq`.
    means: [Tensor; 2],
}

impl Adam {
    pub(crate) fn new(lr: f64, n_warmup_steps: u64) -> Self {
        Self {
            lr,
            n_warmup_steps,
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
        let lr = self.lr * linear_schedule(step, self.n_warmup_steps, n_steps);
        let moments = self.moments.iter_mut();
        Ok(moments.map(|moments| moments.rule(lr, step)).collect())
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
    pub(crate) fn rule(&mut self, lr: f64, step: u64) -> Rule<'_> {
        let n_updates = (step + 1) as f64;
        let constants = sae::Adam {
            lr: lr / (1.0 - BETA_1.powf(n_updates)),
            to_gradient: 1.0 - BETA_1,
            to_square: 1.0 - BETA_2,
            correction: (1.0 - BETA_2.powf(n_updates)).sqrt(),
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
