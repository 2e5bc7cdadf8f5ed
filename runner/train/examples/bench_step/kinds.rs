//! An update of each kind of SAE in updates of TopK, in the same rounds.

use crate::Result;
use crate::measure::{Case, activations, config, median, seconds_of};
use plan::{Activation, Optimizer, TrainConfig};
use sae_run_train::Stepper;
use serde::Serialize;
use tch::Device;

/// What was measured of a kind, by round.
#[derive(Debug, Serialize)]
pub(crate) struct MeasuredKind {
    #[serde(flatten)]
    case: Case,
    optimizer: Optimizer,
    kind: &'static str,
    /// Mean number of active latents of a token.
    l0: f64,
    step_s: Vec<f64>,
    /// Over the update of TopK just before.
    ratio: Vec<f64>,
}

/// Kinds with the same number of active latents. JumpReLU is as it is when its thresholds have settled: a learning rate
/// of nearly 0 keeps it there.
fn kinds(case: Case, optimizer: Optimizer) -> Vec<(&'static str, TrainConfig)> {
    let topk = TrainConfig {
        optimizer,
        lr_warmup_steps: 0,
        ..config(case)
    };
    let batchtopk = TrainConfig {
        activation: Activation::BatchTopK,
        ..topk.clone()
    };
    let matryoshka = TrainConfig {
        matryoshka_widths: vec![0.0625, 0.125, 0.25],
        ..batchtopk.clone()
    };
    let jumprelu = TrainConfig {
        activation: Activation::JumpRelu,
        init_l0: Some(case.k as f64),
        jumprelu_bandwidth: 0.02,
        lr: Some(1e-9),
        ..topk.clone()
    };
    vec![
        ("topk", topk),
        ("batchtopk", batchtopk),
        ("matryoshka of 4 widths", matryoshka),
        ("jumprelu", jumprelu),
    ]
}

pub(crate) fn measure(
    case: Case,
    optimizer: Optimizer,
    device: Device,
    n_rounds: usize,
) -> Result<Vec<MeasuredKind>> {
    let x = activations(case, device)?;
    let mut steppers = Vec::new();
    let mut measured = Vec::new();
    for (kind, config) in kinds(case, optimizer) {
        let mut stepper = Stepper::new(&config, case.d_in as usize, device)?;
        for _ in 0..2 {
            stepper.step(&x)?;
        }
        let stats = stepper.take_stats()?.ok_or("an update has statistics")?;
        measured.push(MeasuredKind {
            case,
            optimizer,
            kind,
            l0: stats.l0 / stats.n_tokens as f64,
            step_s: Vec::new(),
            ratio: Vec::new(),
        });
        steppers.push(stepper);
    }
    for _ in 0..n_rounds {
        let mut of_topk = 0.0;
        for (stepper, measured) in steppers.iter_mut().zip(&mut measured) {
            let seconds = seconds_of(device, || Ok(stepper.step(&x)?))?;
            if measured.kind == "topk" {
                of_topk = seconds;
            }
            measured.step_s.push(seconds);
            measured.ratio.push(seconds / of_topk);
        }
    }
    Ok(measured)
}

impl MeasuredKind {
    pub(crate) const HEADER: &str = "\n     N  latents    k  optimizer  kind                        L0   step ms  updates of topk";

    /// Medians.
    pub(crate) fn row(&self) -> String {
        let Case {
            n_tokens,
            num_latents,
            k,
            ..
        } = self.case;
        let optimizer = format!("{:?}", self.optimizer).to_lowercase();
        format!(
            "{n_tokens:>6}  {num_latents:>7}  {k:>3}  {optimizer:<9}  {:<22}  {:>6.1}  {:>8.1}  {:>15.2}",
            self.kind,
            self.l0,
            1e3 * median(&self.step_s),
            median(&self.ratio),
        )
    }
}
