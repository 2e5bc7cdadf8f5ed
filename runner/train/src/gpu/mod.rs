//! NVIDIA GPUs: which of the project's kernels a stream is trained with, and what a GPU can do.
//!
//! - `choice.rs`: the choice, the same after a resume and on all ranks
//! - `report.rs`: what `sae-run doctor --gpu` shows

mod choice;
mod report;

pub(crate) use choice::choose_kernels;
use lm::Libtorch;
use plan::UpdateShape;
pub use report::gpu_report;
use sae::{Folders, GpuKernels, Kernel, Unusable};
use std::path::Path;
use tch::Device;

/// For a measurement: uses the kernels that are faster on `device` at `shape`, and gives their names. Nothing is kept
/// on disk. On the CPU it gives no names.
///
/// # Errors
/// They cannot be used on this GPU.
pub fn use_faster_kernels(
    device: Device,
    shape: UpdateShape,
) -> Result<Vec<&'static str>, Unusable> {
    if !device.is_cuda() {
        return Ok(Vec::new());
    }
    let mut kernels = open(device, None)?;
    kernels.choose(shape, None);
    Ok(kernels.in_use().into_iter().map(Kernel::name).collect())
}

/// Opens the kernels on `device`.
fn open(device: Device, cache: Option<&Path>) -> Result<GpuKernels, Unusable> {
    let libtorch = Libtorch::loaded();
    let libraries = libtorch.library.as_deref().and_then(Path::parent);
    let folders = Folders {
        libtorch: libraries.map(Path::to_path_buf),
        cache: cache.map(Path::to_owned),
    };
    GpuKernels::open(device, &folders, &libtorch.version_text())
}
