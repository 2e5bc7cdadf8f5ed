//! One arm of `runner/bench/bench_peer.py` and `runner/bench/gpu/updates.py`, which ask for one update at a time.

use crate::args::Args;
use crate::measure::{Case, EncoderProduct, config, probe_gflops, seconds_of};
use crate::{Result, say, use_kernels};
use lm::{device_memory, forget_peak};
use sae::{Objective, tensors_by_name, write_safetensors};
use sae_run_train::{Stepper, machine};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

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
    /// Give up the SAE.
    Close,
    /// Speed of a matrix product of fixed size.
    Probe,
}

struct Arm {
    x: Tensor,
    stepper: Stepper,
    /// Made when it is first asked for: it takes much memory.
    product: Option<EncoderProduct>,
    case: Case,
}

pub(crate) fn serve(args: &Args) -> Result<()> {
    let mut arm = None;
    for line in std::io::stdin().lines() {
        let answer = match (serde_json::from_str(&line?)?, &mut arm) {
            (Request::Open { x, num_latents, k }, arm) => {
                // The memory of the one before.
                *arm = None;
                let (opened, answer) = open(args, &x, (num_latents, k))?;
                *arm = Some(opened);
                answer
            }
            (Request::Close, arm) => {
                *arm = None;
                json!({})
            }
            (Request::Probe, _) => json!({ "gflops": probe_gflops(args.device)? }),
            (Request::Gradients { path }, Some(arm)) => gradients(arm, &path)?,
            (Request::Step, Some(arm)) => step(arm)?,
            (Request::Product, Some(arm)) => product(arm)?,
            (_, None) => return Err("`open` comes first".into()),
        };
        say(&answer.to_string());
    }
    Ok(())
}

fn open(args: &Args, x: &Path, (num_latents, k): (i64, i64)) -> Result<(Arm, Value)> {
    let x = tensors_by_name(x)?.remove("x").ok_or("no tensor `x`")?;
    let (n_tokens, d_in) = x.size2()?;
    let case = Case {
        d_in,
        n_tokens,
        num_latents,
        k,
        encoder_dtype: args.encoder_dtype,
    };
    let kernels = use_kernels(case, args.device);
    forget_peak(args.device)?;
    let arm = Arm {
        stepper: Stepper::new(&config(case), d_in as usize, args.device)?,
        product: None,
        x: x.f_to_device(args.device)?,
        case,
    };
    let answer = json!({
        "libtorch": machine().library,
        "kernels": kernels.as_ref().ok(),
        "no_kernels": kernels.as_ref().err().map(ToString::to_string),
    });
    Ok((arm, answer))
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
    let mut backward = sae.backward(x, x, &Objective::squared_error(arm.case.k as usize))?;
    backward.gradients.scale(&variance)?;
    let names = sae.named_weights().into_iter().map(|(name, _)| name);
    let tensors: Vec<_> = names.zip(backward.gradients.tensors()).collect();
    write_safetensors(&tensors, path)?;
    Ok(json!({}))
}

/// With the most memory that tensors had since the SAE was begun, where that is counted.
fn step(arm: &mut Arm) -> Result<Value> {
    let device = arm.x.device();
    let wall_s = seconds_of(device, || Ok(arm.stepper.step(&arm.x)?))?;
    let stats = arm.stepper.take_stats()?.ok_or("there was an update")?;
    let peak_bytes = device_memory(device)?.map(|memory| memory.most);
    Ok(json!({ "wall_s": wall_s, "fvu": stats.fvu(), "peak_bytes": peak_bytes }))
}

fn product(arm: &mut Arm) -> Result<Value> {
    let product = match arm.product.take() {
        Some(product) => product,
        None => EncoderProduct::new(&arm.x, arm.case.num_latents)?,
    };
    let wall_s = product.seconds()?;
    arm.product = Some(product);
    Ok(json!({ "wall_s": wall_s }))
}
