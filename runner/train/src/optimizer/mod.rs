//! Optimizers: one small file each, and one enum of them all.

mod adam;
mod muon;
mod signum;

use crate::TrainError;
use adam::Adam;
use muon::Muon;
use plan::TrainConfig;
use sae::{Rule, Sae, SparseGradients, VectorGradients};
use signum::Signum;
use tch::Tensor;

/// The optimizer of one SAE. Weights and gradients always come in the order of `Sae::named_weights`;
/// nothing waits for the device.
#[derive(Debug)]
pub(crate) enum Optimizer {
    /// Schedule-free sign descent.
    Signum(Signum),
    /// Adam on all weights.
    Adam(Adam),
    /// Muon on matrices, Adam on vectors.
    Muon(Muon),
}

/// A tensor that an optimizer remembers: the name of its kind, the index of the weight it belongs to.
pub(crate) type Remembered<'a> = (&'static str, usize, &'a Tensor);

/// Gives a tensor that was remembered, by kind and weight.
pub(crate) type Take<'a> = &'a mut dyn FnMut(&'static str, usize) -> Result<Tensor, TrainError>;

impl Optimizer {
    /// That of a job; `lr`: the learning rate, at its peak.
    pub(crate) fn new(config: &TrainConfig, lr: f64) -> Self {
        match config.optimizer {
            plan::Optimizer::Signum => Self::Signum(Signum::new(lr)),
            plan::Optimizer::Adam => Self::Adam(Adam::new(config, lr)),
            plan::Optimizer::Muon => Self::Muon(Muon::new(config, lr)),
        }
    }

    /// Update number `step`, from 0, of `n_steps`.
    pub(crate) fn step(
        &mut self,
        weights: &mut [&mut Tensor],
        gradients: &[&Tensor],
        step: u64,
        n_steps: u64,
    ) -> Result<(), TrainError> {
        if let Self::Muon(muon) = self {
            return muon.step(weights, gradients, step, n_steps);
        }
        let rules = self.rules(weights.iter().map(|weight| &**weight), step, n_steps)?;
        step_each(rules, weights, gradients)
    }

    /// The same by gradients that are not in memory, where [`Sae::is_updated_by_rows`]. `rounded`: as
    /// [`SparseGradients::step`] takes and gives it.
    pub(crate) fn step_rows(
        &mut self,
        (sae, rounded): (&mut Sae, Option<Tensor>),
        (gradients, divisor): (SparseGradients, &Tensor),
        step: u64,
        n_steps: u64,
    ) -> Result<(VectorGradients, Option<Tensor>), TrainError> {
        let weights = sae.named_weights().into_iter();
        let rules = self.rules(weights.map(|(_, weight)| weight), step, n_steps)?;
        Ok(gradients.step(sae, (rules, rounded), divisor)?)
    }

    /// By what the next update, number `step`, changes `weights`, each by itself.
    fn rules<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a Tensor>,
        step: u64,
        n_steps: u64,
    ) -> Result<Vec<Rule<'_>>, TrainError> {
        match self {
            Self::Signum(signum) => signum.rules(weights),
            Self::Adam(adam) => adam.rules(weights, step, n_steps),
            Self::Muon(_) => unreachable!("Muon changes a matrix as a whole"),
        }
    }

    /// Which one it is.
    pub(crate) fn kind(&self) -> plan::Optimizer {
        match self {
            Self::Signum(_) => plan::Optimizer::Signum,
            Self::Adam(_) => plan::Optimizer::Adam,
            Self::Muon(_) => plan::Optimizer::Muon,
        }
    }

    /// Copies of the weights as they are published: signum's average, else the weights themselves.
    pub(crate) fn published(&self, weights: &[&Tensor]) -> Result<Vec<Tensor>, TrainError> {
        match self {
            Self::Signum(signum) => signum.averaged(weights),
            Self::Adam(_) | Self::Muon(_) => copies(weights),
        }
    }

    /// What it remembers between updates.
    pub(crate) fn state(&self) -> Vec<Remembered<'_>> {
        match self {
            Self::Signum(signum) => signum.state(),
            Self::Adam(adam) => adam.state(),
            Self::Muon(muon) => muon.state(),
        }
    }

    /// Restores what an equal optimizer remembered after `n_updates` updates. `n_dims`: the number of
    /// dimensions of each weight.
    pub(crate) fn restore(
        &mut self,
        n_updates: u64,
        n_dims: &[usize],
        take: Take<'_>,
    ) -> Result<(), TrainError> {
        if n_updates == 0 {
            return Ok(());
        }
        match self {
            Self::Signum(signum) => signum.restore(n_updates, n_dims.len(), take),
            Self::Adam(adam) => adam.restore(n_dims.len(), take),
            Self::Muon(muon) => muon.restore(n_dims, take),
        }
    }
}

/// One update of each weight by its rule and its gradient.
fn step_each(
    rules: Vec<Rule<'_>>,
    weights: &mut [&mut Tensor],
    gradients: &[&Tensor],
) -> Result<(), TrainError> {
    for ((rule, weight), gradient) in rules.into_iter().zip(weights).zip(gradients) {
        rule.step(weight, gradient)?;
    }
    Ok(())
}

fn copies(weights: &[&Tensor]) -> Result<Vec<Tensor>, TrainError> {
    let copies = weights.iter().map(|weight| weight.f_detach_copy());
    Ok(copies.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Optimizer as Kind;
    use sae::tensors_by_name;
    use std::collections::HashMap;
    use std::path::Path;

    const KINDS: [(Kind, &str); 3] = [
        (Kind::Signum, "signum"),
        (Kind::Adam, "adam"),
        (Kind::Muon, "muon"),
    ];
    const N_WEIGHTS: usize = 5;
    const N_STEPS: u64 = 12;
    const N_WARMUP_STEPS: u64 = 4;
    const LR: f64 = 0.01;

    /// Made by `tests/fixtures/make_optimizer_golden.py`.
    fn golden() -> HashMap<String, Tensor> {
        let path = "../../tests/fixtures/golden/optimizers.safetensors";
        tensors_by_name(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    fn new(optimizer: Kind, lr: f64, lr_warmup_steps: u64) -> Optimizer {
        let config = TrainConfig {
            optimizer,
            lr_warmup_steps,
            ..TrainConfig::default()
        };
        Optimizer::new(&config, lr)
    }

    fn first_weights(golden: &HashMap<String, Tensor>) -> Vec<Tensor> {
        let weight = |idx| golden[&format!("weight.{idx}")].copy();
        (0..N_WEIGHTS).map(weight).collect()
    }

    /// Updates from `first` on, below `end`; gives the weights that are published after each.
    fn run(
        optimizer: &mut Optimizer,
        weights: &mut [Tensor],
        golden: &HashMap<String, Tensor>,
        steps: std::ops::Range<u64>,
    ) -> Vec<Vec<Tensor>> {
        let mut published = Vec::new();
        for step in steps {
            let gradient = |idx| &golden[&format!("gradient.{step}.{idx}")];
            let gradients: Vec<_> = (0..N_WEIGHTS).map(gradient).collect();
            let mut refs: Vec<_> = weights.iter_mut().collect();
            optimizer
                .step(&mut refs, &gradients, step, N_STEPS)
                .unwrap();
            let refs: Vec<_> = weights.iter().collect();
            published.push(optimizer.published(&refs).unwrap());
        }
        published
    }

    #[test]
    fn updates_are_those_of_sparsifys_optimizers() {
        let golden = golden();
        for (kind, name) in KINDS {
            let mut weights = first_weights(&golden);
            let mut optimizer = new(kind, LR, N_WARMUP_STEPS);
            let published = run(&mut optimizer, &mut weights, &golden, 0..N_STEPS);
            for (step, published) in published.iter().enumerate() {
                for (idx, ours) in published.iter().enumerate() {
                    let theirs = &golden[&format!("{name}.{step}.{idx}")];
                    let difference = (ours - theirs).abs().max().double_value(&[]);
                    // Newton-Schulz runs in 16 bit: its products are rounded by how a library sums.
                    let tolerance = if kind == Kind::Muon { 2e-4 } else { 1e-6 };
                    assert!(difference < tolerance, "{name} {step} {idx}: {difference}");
                }
            }
        }
    }

    #[test]
    fn what_is_remembered_goes_on_as_if_nothing_had_happened() {
        let golden = golden();
        for (kind, name) in KINDS {
            let new = || new(kind, LR, N_WARMUP_STEPS);
            let (mut whole, mut weights) = (new(), first_weights(&golden));
            run(&mut whole, &mut weights, &golden, 0..5);
            let saved = whole.state().into_iter();
            let saved: HashMap<_, _> = saved
                .map(|(slot, idx, t)| ((slot, idx), t.copy()))
                .collect();
            let mut resumed_weights: Vec<_> = weights.iter().map(Tensor::copy).collect();
            let n_dims: Vec<_> = weights.iter().map(Tensor::dim).collect();
            let mut resumed = new();
            let take = &mut |slot, idx| Ok(saved[&(slot, idx)].copy());
            resumed.restore(5, &n_dims, take).unwrap();
            run(&mut whole, &mut weights, &golden, 5..N_STEPS);
            run(&mut resumed, &mut resumed_weights, &golden, 5..N_STEPS);
            for (a, b) in weights.iter().zip(&resumed_weights) {
                assert!(a.equal(b), "{name}");
            }
        }
    }

    #[test]
    fn a_learning_rate_of_zero_moves_nothing_and_gradients_stay() {
        let golden = golden();
        for (kind, name) in KINDS {
            let mut weights = first_weights(&golden);
            let before = golden["gradient.0.0"].copy();
            run(&mut new(kind, 0.0, 0), &mut weights, &golden, 0..3);
            for (weight, first) in weights.iter().zip(first_weights(&golden)) {
                assert!(weight.allclose(&first, 0.0, 1e-6, false), "{name}");
            }
            assert!(golden["gradient.0.0"].equal(&before), "{name}");
        }
    }

    #[test]
    fn a_state_without_updates_is_fresh() {
        let mut optimizer = new(Kind::Adam, LR, 0);
        let nothing = &mut |_: &'static str, _: usize| panic!("nothing is remembered");
        optimizer.restore(0, &[2, 1], nothing).unwrap();
        assert!(optimizer.state().is_empty());
    }
}
