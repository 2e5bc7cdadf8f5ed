//! No figure without it: gradients against autograd through dense latents, and the FVU of some updates
//! against updates that are written down as the paper has them.

use crate::Result;
use crate::measure::{Case, activations, config};
use sae::{Objective, Sae, SaeConfig};
use sae_run_train::Stepper;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

/// Tokens of the gate: the dense reference is slow and large.
const MOST_TOKENS: i64 = 512;
const N_UPDATES: u64 = 3;
/// Relative, in norm.
pub(crate) const MOST_OF_GRADIENT: f64 = 1e-4;
pub(crate) const MOST_OF_FVU: f64 = 0.01;
const BETA: f64 = 0.95;

/// How far off it was.
#[derive(Debug, Serialize)]
pub(crate) struct Gate {
    pub(crate) gradient: f64,
    pub(crate) fvu: f64,
}

pub(crate) fn check(case: Case, device: Device) -> Result<Gate> {
    let case = Case {
        n_tokens: case.n_tokens.min(MOST_TOKENS),
        ..case
    };
    let x = activations(case, device)?;
    let gate = Gate {
        gradient: gradient_difference(case, &x)?,
        fvu: fvu_difference(case, &x)?,
    };
    if gate.gradient <= MOST_OF_GRADIENT && gate.fvu <= MOST_OF_FVU {
        Ok(gate)
    } else {
        Err(format!("{case:?} is not what the reference computes: {gate:?}").into())
    }
}

/// Before the first update on `x`.
pub(crate) fn fresh(case: Case, x: &Tensor) -> Result<Sae> {
    let sizes = [case.d_in, case.num_latents, case.k].map(|n| n as usize);
    let mut sae = Sae::new(SaeConfig::topk(sizes[0], sizes[1], sizes[2]), 0, x.device())?;
    sae.b_dec = x.f_mean_dim(0, false, Kind::Float)?;
    Ok(sae)
}

/// The encoder that finds the latents, if it is not the SAE's own.
pub(crate) fn rounded_encoder(case: Case, sae: &Sae) -> Result<Option<Tensor>> {
    let is_gpu = sae.b_dec.device().is_cuda();
    if case.encoder_dtype.rounds(is_gpu) {
        Ok(sae.rounded_encoder(case.k as usize)?)
    } else {
        Ok(None)
    }
}

/// What an update minimises.
pub(crate) fn objective(case: Case, rounded_encoder: Option<&Tensor>) -> Objective<'_> {
    Objective {
        rounded_encoder,
        ..Objective::squared_error(case.k as usize)
    }
}

/// The largest of the four weights' differences.
fn gradient_difference(case: Case, x: &Tensor) -> Result<f64> {
    let sae = fresh(case, x)?;
    let rounded = rounded_encoder(case, &sae)?;
    let ours = sae.backward(x, x, &objective(case, rounded.as_ref()))?;
    let weights: Vec<Tensor> = sae
        .named_weights()
        .into_iter()
        .map(|(_, w)| leaf(w))
        .collect();
    squared_error(&weights, x, case.k)?.f_backward()?;
    let theirs: Vec<Tensor> = weights.iter().map(Tensor::grad).collect();
    Ok(largest_difference(&ours.gradients.tensors(), &theirs))
}

/// Relative, in norm, of the tensor that differs most.
pub(crate) fn largest_difference(ours: &[&Tensor], theirs: &[Tensor]) -> f64 {
    let whole: f64 = theirs.iter().map(|theirs| norm(theirs).powi(2)).sum();
    let difference = |(ours, theirs): (&&Tensor, &Tensor)| {
        // One that is 0 except for rounding is compared with the whole gradient.
        let size = norm(theirs).max(1e-4 * whole.sqrt());
        norm(&(*ours - theirs)) / size
    };
    ours.iter().zip(theirs).map(difference).fold(0.0, f64::max)
}

/// The largest of the updates'.
fn fvu_difference(case: Case, x: &Tensor) -> Result<f64> {
    let mut stepper = Stepper::new(&config(case), case.d_in as usize, x.device())?;
    let mut reference = Reference::new(case, x)?;
    let mut largest = 0f64;
    for _ in 0..N_UPDATES {
        stepper.step(x)?;
        let stats = stepper.take_stats()?.ok_or("there was an update")?;
        largest = largest.max((stats.fvu() / reference.step(x)? - 1.0).abs());
    }
    Ok(largest)
}

/// Schedule-free sign descent on dense gradients of autograd.
struct Reference {
    k: i64,
    lr: f64,
    /// In the order of `Sae::named_weights`.
    y: Vec<Tensor>,
    z: Vec<Tensor>,
    n_updates: u64,
}

impl Reference {
    fn new(case: Case, x: &Tensor) -> Result<Self> {
        let sae = fresh(case, x)?;
        let copy = || sae.named_weights().into_iter().map(|(_, w)| w.copy());
        Ok(Self {
            k: case.k,
            lr: config(case).lr_for(case.num_latents as usize),
            y: copy().collect(),
            z: copy().collect(),
            n_updates: 0,
        })
    }

    /// FVU before the update.
    fn step(&mut self, x: &Tensor) -> Result<f64> {
        let norms = self.y[2].f_norm_scalaropt_dim(2.0, [1i64], true)?;
        self.y[2] = self.y[2].f_div(&norms)?;
        let leaves: Vec<Tensor> = self.y.iter().map(leaf).collect();
        let variance = (x - x.mean_dim(0, true, Kind::Float))
            .square()
            .sum(Kind::Float);
        let fvu = squared_error(&leaves, x, self.k)?.f_div(&variance)?;
        fvu.f_backward()?;
        self.n_updates += 1;
        for (idx, leaf) in leaves.iter().enumerate() {
            let mut gradient = leaf.grad();
            if idx == 2 {
                let parallel = (&gradient * &self.y[2]).sum_dim_intlist(1, true, Kind::Float);
                gradient -= parallel * &self.y[2];
            }
            // y = (1 - beta) z + beta x
            let average = (&self.y[idx] - &self.z[idx] * (1.0 - BETA)) / BETA;
            self.z[idx] = &self.z[idx] - gradient.sign() * self.lr;
            let average = &average + (&self.z[idx] - &average) / self.n_updates as f64;
            self.y[idx] = &self.z[idx] * (1.0 - BETA) + average * BETA;
        }
        Ok(fvu.f_double_value(&[])?)
    }
}

/// Through latents as a dense matrix, which autograd takes back.
fn squared_error(weights: &[Tensor], x: &Tensor, k: i64) -> Result<Tensor> {
    let [encoder, bias, w_dec, b_dec] = weights else {
        return Err("an SAE without a skip connection has four weights".into());
    };
    let pre_acts = (x - b_dec).f_linear(encoder, Some(bias))?;
    let (acts, indices) = pre_acts.f_topk(k, -1, true, false)?;
    let latents = pre_acts
        .f_zeros_like()?
        .f_scatter(1, &indices, &acts.f_relu()?)?;
    let error = latents.f_matmul(w_dec)? + b_dec - x;
    Ok(error.f_square()?.f_sum(Kind::Float)?)
}

fn leaf(weight: &Tensor) -> Tensor {
    weight.detach().copy().set_requires_grad(true)
}

fn norm(x: &Tensor) -> f64 {
    x.to_kind(Kind::Double).norm().double_value(&[])
}
