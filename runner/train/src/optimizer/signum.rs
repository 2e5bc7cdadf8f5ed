//! Schedule-free sign descent, sparsify's default optimizer.
//!
//! Schedule-free (Defazio et al. 2024, arXiv:2405.15682) keeps two forms of every weight: `z`, which
//! takes the steps, and `x`, the average of all `z`, which is what gets saved. Gradients are taken at
//! `y = (1 - beta) z + beta x`, and `y` is what the SAE holds while it trains. One update with
//! gradient `g` of `y`, learning rate `lr`, as update number `t` (from 1):
//!
//! ```text
//! x = y + (1 - 1/beta) (z - y)
//! z = z - lr sign(g)                 (signum: steepest descent in the L-infinity norm)
//! x = x + (z - x) / t                (constant lr: the plain mean)
//! y = x + (1 - beta) (z - x)
//! ```
//!
//! The form is that of `schedulefree.ScheduleFreeWrapper` 1.4.1, which stores `y` and `z` and
//! recomputes `x`: projecting `y`'s decoder between updates then moves `x` in the same way.

use crate::TrainError;
use crate::optimizer::{Remembered, Take, copies};
use sae::Rule;
use tch::Tensor;

const BETA: f64 = 0.95;

/// The optimizer's memory of one SAE.
#[derive(Debug)]
pub(crate) struct Signum {
    lr: f64,
    n_updates: u64,
    /// In the order of `Sae::named_weights`; empty before the first update.
    z: Vec<Tensor>,
}

impl Signum {
    pub(crate) fn new(lr: f64) -> Self {
        Self {
            lr,
            n_updates: 0,
            z: Vec::new(),
        }
    }

    pub(crate) fn state(&self) -> Vec<Remembered<'_>> {
        let z = self.z.iter().enumerate();
        z.map(|(idx, z)| ("z", idx, z)).collect()
    }

    pub(crate) fn restore(
        &mut self,
        n_updates: u64,
        n_weights: usize,
        take: Take<'_>,
    ) -> Result<(), TrainError> {
        let z = (0..n_weights).map(|idx| take("z", idx));
        self.z = z.collect::<Result<_, _>>()?;
        self.n_updates = n_updates;
        Ok(())
    }

    /// By what the next update changes `weights`, which are in the form `y`; before the first one, `z` is a copy of
    /// them.
    pub(crate) fn rules<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a Tensor>,
    ) -> Result<Vec<Rule<'_>>, TrainError> {
        if self.z.is_empty() {
            let z = weights.map(Tensor::f_detach_copy);
            self.z = z.collect::<Result<_, _>>()?;
        }
        self.n_updates += 1;
        let constants = sae::Signum {
            lr: self.lr,
            to_x: 1.0 - 1.0 / BETA,
            average: 1.0 / self.n_updates as f64,
            to_y: 1.0 - BETA,
        };
        let z = self.z.iter_mut();
        Ok(z.map(|z| Rule::Signum(constants, z)).collect())
    }

    /// The averaged weights `x` of the weights in the form `y`.
    pub(crate) fn averaged(&self, weights: &[&Tensor]) -> Result<Vec<Tensor>, TrainError> {
        if self.z.is_empty() {
            return copies(weights);
        }
        let x = weights
            .iter()
            .zip(&self.z)
            .map(|(y, z)| y.f_lerp(z, 1.0 - 1.0 / BETA));
        Ok(x.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::step_each;
    use tch::{Device, Kind};

    /// Four one-number weights that start at 1 and always see a positive gradient.
    fn run(n_updates: usize, lr: f64) -> (Signum, Vec<Tensor>) {
        let one = || Tensor::ones([1], (Kind::Double, Device::Cpu));
        let mut weights: Vec<Tensor> = (0..4).map(|_| one()).collect();
        let gradients: Vec<Tensor> = (0..4).map(|_| one() * 3.0).collect();
        let mut signum = Signum::new(lr);
        for _ in 0..n_updates {
            let rules = signum.rules(weights.iter()).unwrap();
            let mut weights: Vec<_> = weights.iter_mut().collect();
            let gradients: Vec<_> = gradients.iter().collect();
            step_each(rules, &mut weights, &gradients).unwrap();
        }
        (signum, weights)
    }

    #[test]
    fn x_is_the_mean_of_all_z() {
        let (signum, weights) = run(3, 0.1);
        // z: 0.9, 0.8, 0.7; their mean is 0.8.
        assert!((signum.z[0].double_value(&[0]) - 0.7).abs() < 1e-12);
        let refs: Vec<_> = weights.iter().collect();
        let x = signum.averaged(&refs).unwrap();
        assert!((x[3].double_value(&[0]) - 0.8).abs() < 1e-12);
        let y = weights[3].double_value(&[0]);
        assert!((y - (0.95 * 0.8 + 0.05 * 0.7)).abs() < 1e-12);
    }

    #[test]
    fn a_learning_rate_of_zero_moves_nothing() {
        let (_, weights) = run(5, 0.0);
        assert!((weights[0].double_value(&[0]) - 1.0).abs() < 1e-12);
    }
}
