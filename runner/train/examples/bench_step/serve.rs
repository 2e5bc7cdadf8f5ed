//! One arm of `runner/bench/bench_peer.py`, which asks for one update at a time.

use crate::measure::{Case, EncoderProduct, config, probe_gflops, seconds_of};
use crate::{D_IN, Result, say};
use plan::EncoderDtype;
use sae::{Objective, tensors_by_name, write_safetensors};
use sae_run_train::{Stepper, machine};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// One line of standard input.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Request {
    /// Begin with a fresh SAE; `x`: file with the tensor `x` `[n_tokens, d_in]`.
    Open {
        x: PathBuf,
        num_latents: i64,
        k: i64,
    },
    /// Write the gradients of the FVU at the fresh SAE, and its weights.
    Gradients { path: PathBuf },
    /// One update.
    Step,
    /// One encoder product.
    Product,
    /// Speed of a matrix product of fixed size.
    Probe,
}

struct Arm {
    x: Tensor,
    stepper: Stepper,
    product: EncoderProduct,
    k: usize,
}

pub(crate) fn serve() -> Result<()> {
    let mut arm = None;
    for line in std::io::stdin().lines() {
        let answer = match (serde_json::from_str(&line?)?, &mut arm) {
            (Request::Open { x, num_latents, k }, arm) => open(arm, &x, num_latents, k)?,
            (Request::Probe, _) => json!({ "gflops": probe_gflops(Device::Cpu)? }),
            (Request::Gradients { path }, Some(arm)) => gradients(arm, &path)?,
            (Request::Step, Some(arm)) => step(arm)?,
            (Request::Product, Some(arm)) => json!({ "wall_s": arm.product.seconds()? }),
            (_, None) => return Err("`open` comes first".into()),
        };
        say(&answer.to_string());
    }
    Ok(())
}

fn open(arm: &mut Option<Arm>, x: &Path, num_latents: i64, k: i64) -> Result<Value> {
    // The memory of the one before.
    *arm = None;
    let x = tensors_by_name(x)?.remove("x").ok_or("no tensor `x`")?;
    let case = Case {
        n_tokens: x.size()[0],
        num_latents,
        k,
        encoder_dtype: EncoderDtype::default(),
    };
    *arm = Some(Arm {
        stepper: Stepper::new(&config(case), D_IN as usize, Device::Cpu)?,
        product: EncoderProduct::new(&x, num_latents)?,
        k: k as usize,
        x,
    });
    Ok(json!({ "libtorch": machine().library }))
}

fn gradients(arm: &Arm, path: &Path) -> Result<Value> {
    let x = &arm.x;
    let mut sae = arm.stepper.sae().with_weights(
        arm.stepper
            .sae()
            .named_weights()
            .into_iter()
            .map(|(_, weight)| weight.copy())
            .collect(),
    );
    let mean = x.f_mean_dim(0, false, Kind::Float)?;
    let variance = x.f_sub(&mean)?.f_square()?.f_sum(Kind::Double)?;
    sae.b_dec = mean;
    sae.normalize_decoder()?;
    let mut backward = sae.backward(x, x, &Objective::squared_error(arm.k))?;
    backward.gradients.scale(&variance)?;
    let names = sae.named_weights().into_iter().map(|(name, _)| name);
    let tensors: Vec<_> = names.zip(backward.gradients.tensors()).collect();
    write_safetensors(&tensors, path)?;
    Ok(json!({}))
}

fn step(arm: &mut Arm) -> Result<Value> {
    let wall_s = seconds_of(Device::Cpu, || Ok(arm.stepper.step(&arm.x)?))?;
    let stats = arm.stepper.take_stats()?.ok_or("there was an update")?;
    Ok(json!({ "wall_s": wall_s, "fvu": stats.fvu() }))
}
