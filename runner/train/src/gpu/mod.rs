//! NVIDIA GPUs: which of the project's kernels a stream is trained with, and what a GPU can do.
//!
//! - `choice.rs`: the choice, the same after a resume and on all ranks
//! - `report.rs`: what `sae-run doctor --gpu` shows

mod choice;
mod report;

use crate::libtorch::Libtorch;
pub(crate) use choice::choose_kernels;
pub use report::gpu_report;
use sae::{Folders, GpuKernels, Unusable};
use std::path::Path;
use tch::Device;

/// Opens the kernels on `device`.
fn open(device: Device, cache: &Path) -> Result<GpuKernels, Unusable> {
    let libtorch = Libtorch::loaded();
    let libraries = libtorch.library.as_deref().and_then(Path::parent);
    let folders = Folders {
        libtorch: libraries.map(Path::to_path_buf),
        cache: Some(cache.to_owned()),
    };
    GpuKernels::open(device, &folders, &libtorch.version_text())
}
