//! How much memory the worker of a stream may take.

use crate::run::launch::Processes;
use crate::run::worker_program;
use nvml_wrapper::Nvml;
use plan::{CudaStatus, Launch, Launcher, Machine};
use std::env;
use tokens::OwnMemory;

/// Share of a device's memory that streams may be predicted to take, in percent: a prediction is not a
/// promise, and the runtime takes its own.
const SHARE_PCT: u64 = 90;

/// Bytes that a worker (each of its `processes`) may be predicted to take on any device of `launch`; `None`: not known.
pub(crate) fn most_bytes(launch: &Launch, processes: &Processes) -> Option<u64> {
    let devices = launch.lanes().into_iter();
    devices
        .filter_map(|device| of_device(launch, &device, processes))
        .min()
}

/// Bytes that the workers on `device` may be predicted to take together, each of their `processes`.
pub(crate) fn of_device(launch: &Launch, device: &str, processes: &Processes) -> Option<u64> {
    if launch.memory_bytes.is_some() {
        return launch.memory_bytes;
    }
    if matches!(launch.launcher, Launcher::Slurm | Launcher::Pool) {
        // That of another machine.
        return None;
    }
    let n_here = processes.n_here;
    // A missing device is reported by the worker that looks for it.
    let n_bytes = match named(device)? {
        Device::Cpu => of_machine().map(|n_bytes| n_bytes / n_here as u64),
        Device::EachItsGpu => (0..n_here).filter_map(of_gpu).min(),
        Device::Gpu(cuda_idx) => of_gpu(cuda_idx).map(|n_bytes| n_bytes / n_here as u64),
    };
    n_bytes.map(|n_bytes| n_bytes / 100 * SHARE_PCT)
}

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// The driver's name for it, whatever `CUDA_VISIBLE_DEVICES` says.
    pub(crate) uuid: String,
}

/// The GPUs that the `processes` of a worker on `device` take; none: it is the CPU, or the driver does not say.
pub(crate) fn gpus(device: &str, processes: &Processes) -> Vec<Gpu> {
    let cuda_idxs = match named(device) {
        None | Some(Device::Cpu) => 0..0,
        Some(Device::EachItsGpu) => 0..processes.n_here,
        Some(Device::Gpu(cuda_idx)) => cuda_idx..cuda_idx + 1,
    };
    let uuid = |cuda_idx| with_gpu(cuda_idx, |gpu| gpu.uuid().ok());
    cuda_idxs
        .filter_map(uuid)
        .map(|uuid| Gpu { uuid })
        .collect()
}

/// What the name of a device means.
#[derive(Debug, PartialEq)]
enum Device {
    Cpu,
    /// Each process takes the GPU of its number.
    EachItsGpu,
    Gpu(usize),
}

/// `None`: the name of no device.
fn named(device: &str) -> Option<Device> {
    match device {
        "cpu" => Some(Device::Cpu),
        "auto" if !has_gpu() => Some(Device::Cpu),
        "auto" | "cuda" => Some(Device::EachItsGpu),
        _ => Some(Device::Gpu(device.strip_prefix("cuda:")?.parse().ok()?)),
    }
}

/// Whether the system has a GPU, whether or not libtorch can use it.
pub(crate) fn has_gpu_memory() -> bool {
    of_gpu(0).is_some()
}

/// Whether `auto` means a GPU. libtorch is asked only if the system has one: on all other machines that would
/// be all that planning waits for.
fn has_gpu() -> bool {
    let is_available = |machine: &Machine| matches!(machine.cuda, CudaStatus::Available { .. });
    has_gpu_memory() && worker_program::machine().is_ok_and(is_available)
}

fn of_machine() -> Option<u64> {
    let memory = OwnMemory::read()?;
    Some(memory.total).filter(|&n_bytes| n_bytes > 0)
}

/// That of the GPU that CUDA gives this number. Asked of NVML: CUDA itself would use a part of that memory.
fn of_gpu(cuda_idx: usize) -> Option<u64> {
    with_gpu(cuda_idx, |gpu| Some(gpu.memory_info().ok()?.total))
}

/// What NVML says of the GPU that CUDA gives this number.
fn with_gpu<T>(
    cuda_idx: usize,
    ask: impl FnOnce(&nvml_wrapper::Device<'_>) -> Option<T>,
) -> Option<T> {
    let nvml = Nvml::init().ok()?;
    let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
    let gpu = match visible_gpu(visible.as_deref(), cuda_idx)? {
        Visible::Index(idx) => nvml.device_by_index(idx),
        Visible::Uuid(uuid) => nvml.device_by_uuid(uuid),
    };
    ask(&gpu.ok()?)
}

/// A GPU as NVML knows it.
#[derive(Debug, PartialEq)]
enum Visible {
    Index(u32),
    Uuid(String),
}

/// Which GPU is number `cuda_idx` of those in `CUDA_VISIBLE_DEVICES`.
fn visible_gpu(visible: Option<&str>, cuda_idx: usize) -> Option<Visible> {
    let Some(visible) = visible else {
        return Some(Visible::Index(u32::try_from(cuda_idx).ok()?));
    };
    let name = visible.split(',').nth(cuda_idx)?.trim();
    match name.parse() {
        Ok(idx) => Some(Visible::Index(idx)),
        Err(_) => name.starts_with("GPU-").then(|| Visible::Uuid(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(device: &str, memory_bytes: Option<u64>) -> Launch {
        Launch {
            device: device.into(),
            memory_bytes,
            ..Launch::default()
        }
    }

    fn most_bytes_of(launch: &Launch) -> Option<u64> {
        most_bytes(launch, &Processes::here(1))
    }

    #[test]
    fn a_cpu_has_the_memory_of_the_machine() {
        let n_bytes = most_bytes_of(&launch("cpu", None)).unwrap();
        assert!((1 << 28..1 << 50).contains(&n_bytes), "{n_bytes}");
        let quarter = most_bytes(&launch("cpu", None), &Processes::here(4)).unwrap();
        assert!((n_bytes / 4).abs_diff(quarter) < 100, "{n_bytes} {quarter}");
    }

    #[test]
    fn what_the_user_says_counts_and_of_no_device_nothing_is_known() {
        assert_eq!(most_bytes_of(&launch("cpu", Some(5))), Some(5));
        let of_four = most_bytes(&launch("cpu", Some(5)), &Processes::here(4));
        assert_eq!(of_four, Some(5), "each of them");
        assert_eq!(most_bytes_of(&launch("tpu", None)), None);
    }

    #[test]
    fn names_of_devices() {
        assert_eq!(named("cpu"), Some(Device::Cpu));
        assert_eq!(named("cuda"), Some(Device::EachItsGpu));
        assert_eq!(named("cuda:3"), Some(Device::Gpu(3)));
        for none in ["tpu", "cuda:", "cuda:-1", "gpu:0"] {
            assert_eq!(named(none), None, "{none}");
        }
    }

    #[test]
    fn gpus_are_numbered_as_cuda_numbers_them() {
        assert_eq!(visible_gpu(None, 2), Some(Visible::Index(2)));
        assert_eq!(visible_gpu(Some("3, 1"), 1), Some(Visible::Index(1)));
        let uuid = || Visible::Uuid("GPU-5a".into());
        assert_eq!(visible_gpu(Some("GPU-5a"), 0), Some(uuid()));
        assert_eq!(visible_gpu(Some("0"), 1), None);
        assert_eq!(visible_gpu(Some(""), 0), None);
        assert_eq!(visible_gpu(Some("MIG-7"), 0), None);
    }
}
