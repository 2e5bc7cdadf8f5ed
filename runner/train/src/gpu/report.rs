//! What a GPU can do: copies, products, and the project's kernels next to libtorch's operations.

use super::open;
use crate::TrainError;
use plan::{CudaStatus, GpuFound, GpuReport, GpuTask, KernelFound, KernelsFound, UpdateShape};
use sae::{CheckedKernel, GpuKernels, fastest};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Looks at a GPU.
///
/// # Errors
/// A name of no device, or too little memory.
pub fn gpu_report(task: &GpuTask) -> Result<GpuReport, TrainError> {
    if let CudaStatus::Unavailable { reason } = lm::init_backends() {
        return Ok(GpuReport::NoGpu {
            reason: reason.clone(),
        });
    }
    let device = lm::parse_device(&task.device)?;
    let Device::Cuda(index) = device else {
        let reason = format!("`{}` is not a GPU", task.device);
        return Ok(GpuReport::NoGpu { reason });
    };
    let _no_grad = tch::no_grad_guard();
    let shape = task.shape;
    let product = |kind| product_flop_s(shape, kind, device);
    let found = GpuFound {
        device: format!("cuda:{index}"),
        copied_bytes_s: copied_bytes_s(shape, device)?,
        product_flop_s: vec![
            ("float32".to_owned(), product(Kind::Float)?),
            ("bfloat16".to_owned(), product(Kind::BFloat16)?),
        ],
        kernels: KernelsFound::Unusable {
            reason: String::new(),
        },
    };
    let kernels = match open(device, Some(&task.cache_dir)) {
        Err(error) => KernelsFound::Unusable {
            reason: error.to_string(),
        },
        Ok(opened) => measured(opened, shape, found.copied_bytes_s),
    };
    Ok(GpuReport::Found(Box::new(GpuFound { kernels, ..found })))
}

fn measured(mut opened: GpuKernels, shape: UpdateShape, copied_bytes_s: f64) -> KernelsFound {
    opened.measure(shape);
    let found = |checked: CheckedKernel| KernelFound {
        name: checked.kernel.name().to_owned(),
        rejection: checked.rejection.map(|rejection| rejection.to_string()),
        seconds: checked.seconds,
        least_s: checked.kernel.least_bytes(shape) / copied_bytes_s,
    };
    let card = opened.card();
    KernelsFound::Checked {
        card: format!(
            "{}, compute capability {}, {} multiprocessors, driver of CUDA {}.{}",
            card.name,
            card.capability,
            card.n_multiprocessors,
            card.driver / 1000,
            card.driver % 1000 / 10
        ),
        notes: opened.notes().to_vec(),
        kernels: opened.all(shape).into_iter().map(found).collect(),
    }
}

/// Bytes read and written in a second by a copy of an encoder's weights.
fn copied_bytes_s(shape: UpdateShape, device: Device) -> Result<f64, TrainError> {
    let size = [shape.num_latents as i64, shape.d_in as i64];
    let from = Tensor::f_zeros(size, (Kind::Float, device))?;
    let mut to = from.f_empty_like()?;
    let seconds = fastest(device, Duration::MAX, || {
        to.f_copy_(&from)?;
        Ok(())
    })?;
    Ok(2.0 * 4.0 * from.numel() as f64 / seconds)
}

/// Operations in a second of an encoder's product.
fn product_flop_s(shape: UpdateShape, kind: Kind, device: Device) -> Result<f64, TrainError> {
    let [n_tokens, num_latents, width] =
        [shape.n_tokens, shape.num_latents, shape.d_in].map(|n| n as i64);
    let x = Tensor::f_ones([n_tokens, width], (kind, device))?;
    let weight = Tensor::f_ones([num_latents, width], (kind, device))?;
    let seconds = fastest(device, Duration::MAX, || {
        x.f_linear(&weight, None::<Tensor>).map(drop)
    })?;
    Ok(2.0 * (n_tokens * num_latents * width) as f64 / seconds)
}
