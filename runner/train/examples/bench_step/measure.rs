//! An update in encoder products, round by round.

use crate::Result;
use crate::gate::Gate;
use plan::{EncoderDtype, TrainConfig};
use sae::with_seed;
use sae_run_train::Stepper;
use serde::Serialize;
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};

/// Sizes of one measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Case {
    pub(crate) d_in: i64,
    pub(crate) n_tokens: i64,
    pub(crate) num_latents: i64,
    pub(crate) k: i64,
    pub(crate) encoder_dtype: EncoderDtype,
}

/// Of a matrix product whose speed is that of the machine.
const PROBE: Case = Case {
    d_in: 576,
    n_tokens: 2048,
    num_latents: 2304,
    k: 1,
    encoder_dtype: EncoderDtype::Float32,
};

/// What was measured of a case, by round.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    #[serde(flatten)]
    case: Case,
    step_s: Vec<f64>,
    /// Mean of the one before the update and the one after it.
    product_s: Vec<f64>,
    ratio: Vec<f64>,
    /// Of a matrix product of fixed size, before the rounds and after them.
    probe_gflops: [f64; 2],
}

pub(crate) fn config(case: Case) -> TrainConfig {
    TrainConfig {
        num_latents: case.num_latents as usize,
        k: (case.k as usize).into(),
        encoder_dtype: case.encoder_dtype,
        ..TrainConfig::default()
    }
}

/// Normal, with a different mean in each dimension; always the same, on every device. `[n_tokens, d_in]`.
pub(crate) fn activations(case: Case, device: Device) -> Result<Tensor> {
    let options = (Kind::Float, Device::Cpu);
    let x = with_seed(1, || {
        let mean = Tensor::randn([case.d_in], options);
        Tensor::randn([case.n_tokens, case.d_in], options) + mean
    });
    Ok(x.f_to_device(device)?)
}

/// Seconds until the device has done what `work` asks of it.
pub(crate) fn seconds_of(device: Device, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    wait_for(device);
    let begun = Instant::now();
    work()?;
    wait_for(device);
    Ok(begun.elapsed().as_secs_f64())
}

/// Synchronises: a GPU continues its work after libtorch has returned.
fn wait_for(device: Device) {
    if let Device::Cuda(cuda_idx) = device {
        Cuda::synchronize(cuda_idx as i64);
    }
}

/// `x @ weight^T` into memory that is there.
pub(crate) struct EncoderProduct {
    x: Tensor,
    weight: Tensor,
    out: Tensor,
}

impl EncoderProduct {
    pub(crate) fn new(x: &Tensor, num_latents: i64) -> Result<Self> {
        let options = (Kind::Float, x.device());
        let (n_tokens, d_in) = x.size2()?;
        Ok(Self {
            x: x.shallow_clone(),
            weight: Tensor::f_ones([num_latents, d_in], options)?,
            out: Tensor::f_zeros([n_tokens, num_latents], options)?,
        })
    }

    pub(crate) fn seconds(&self) -> Result<f64> {
        seconds_of(self.x.device(), || {
            let _ = self.x.f_matmul_out(&self.out, &self.weight.f_tr()?)?;
            Ok(())
        })
    }
}

/// Speed of a matrix product of fixed size, the fastest of some.
pub(crate) fn probe_gflops(device: Device) -> Result<f64> {
    let x = activations(PROBE, device)?;
    let product = EncoderProduct::new(&x, PROBE.num_latents)?;
    let seconds = (0..5).map(|_| product.seconds());
    let fastest = seconds.collect::<Result<Vec<f64>>>()?;
    let fastest = fastest.into_iter().fold(f64::INFINITY, f64::min);
    Ok((2 * PROBE.n_tokens * PROBE.num_latents * PROBE.d_in) as f64 / fastest / 1e9)
}

pub(crate) fn measure(case: Case, device: Device, n_rounds: usize) -> Result<Measured> {
    let x = activations(case, device)?;
    let product = EncoderProduct::new(&x, case.num_latents)?;
    let mut stepper = Stepper::new(&config(case), case.d_in as usize, device)?;
    // What is made once: the optimizer's memory, libtorch's threads, what CUDA keeps.
    stepper.step(&x)?;
    product.seconds()?;
    let mut measured = Measured {
        case,
        step_s: Vec::new(),
        product_s: Vec::new(),
        ratio: Vec::new(),
        probe_gflops: [probe_gflops(device)?, 0.0],
    };
    for _ in 0..n_rounds {
        let before = product.seconds()?;
        let step_s = seconds_of(device, || Ok(stepper.step(&x)?))?;
        let product_s = f64::midpoint(before, product.seconds()?);
        measured.step_s.push(step_s);
        measured.product_s.push(product_s);
        measured.ratio.push(step_s / product_s);
    }
    measured.probe_gflops[1] = probe_gflops(device)?;
    Ok(measured)
}

impl Measured {
    pub(crate) const HEADER: &str = "     N  latents    k   step ms  product ms  products \
        (lowest to highest)  probe GFLOP/s   gate: gradient   FVU";

    /// Medians, and the spread of the ratio.
    pub(crate) fn row(&self, gate: &Gate) -> String {
        let Case {
            n_tokens,
            num_latents,
            k,
            ..
        } = self.case;
        let ratio = sorted(&self.ratio);
        format!(
            "{n_tokens:>6}  {num_latents:>7}  {k:>3}  {:>8.1}  {:>10.1}  {:>8.2} \
             ({:.2} to {:.2})         {:>5.0}, {:<5.0}   {:.1e}          {:.1e}",
            1e3 * median(&self.step_s),
            1e3 * median(&self.product_s),
            median(&self.ratio),
            ratio[0],
            ratio[ratio.len() - 1],
            self.probe_gflops[0],
            self.probe_gflops[1],
            gate.gradient,
            gate.fvu,
        )
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let values = sorted(values);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
