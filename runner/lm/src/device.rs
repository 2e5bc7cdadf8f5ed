//! Devices by name.

use crate::{LmError, init_backends};
use fault::Fault;
use plan::CudaStatus;
use tch::Device;

/// For a device that cannot be used.
const DOCTOR: &str = "`sae-run doctor` shows what was found; `--device cpu` needs no GPU";

/// The device that `text` names: `cpu`, `cuda` (the first GPU), `cuda:N`, or `auto`, the first GPU
/// if there is one and else the CPU. Loads CUDA if the name allows it.
///
/// # Errors
/// Text that names no device, or a GPU that is not there.
pub fn parse_device(text: &str) -> Result<Device, LmError> {
    let cuda_idx = match text {
        "cpu" => return Ok(Device::Cpu),
        "auto" => return Ok(first_or_cpu(init_backends())),
        "cuda" => 0,
        _ => parse_index(text).ok_or_else(|| {
            Fault::input(format!(
                "`{text}` is not a device, expected `auto`, `cpu`, `cuda` or `cuda:N`"
            ))
            .with_hint(DOCTOR)
        })?,
    };
    cuda_device(text, cuda_idx, init_backends())
}

/// Checks that `device` is there, and loads CUDA for it.
pub(crate) fn check_device(device: Device) -> Result<(), LmError> {
    let Device::Cuda(cuda_idx) = device else {
        return Ok(());
    };
    cuda_device(&format!("cuda:{cuda_idx}"), cuda_idx, init_backends()).map(|_| ())
}

fn parse_index(text: &str) -> Option<usize> {
    let digits = text.strip_prefix("cuda:")?;
    // `parse` alone would take `+1`.
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

fn first_or_cpu(status: &CudaStatus) -> Device {
    match status {
        CudaStatus::Available { .. } => Device::Cuda(0),
        CudaStatus::Unavailable { .. } => Device::Cpu,
    }
}

fn cuda_device(text: &str, cuda_idx: usize, status: &CudaStatus) -> Result<Device, LmError> {
    let reason = match status {
        CudaStatus::Available { n_devices } if cuda_idx < *n_devices => {
            return Ok(Device::Cuda(cuda_idx));
        }
        CudaStatus::Available { n_devices } => {
            &format!("there are {n_devices} CUDA devices, numbered from 0")
        }
        CudaStatus::Unavailable { reason } => reason,
    };
    let message = format!("cannot use device `{text}`: {reason}");
    Err(Fault::input(message).with_hint(DOCTOR).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    #[test]
    fn names_without_a_device() {
        for text in [
            "", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda0", "cuda: 1",
        ] {
            let error = parse_device(text).unwrap_err();
            let message = error.to_string();
            let expected = format!("`{text}` is not a device");
            assert!(message.starts_with(&expected), "{message}");
        }
        assert_eq!(parse_device("cpu").unwrap(), Device::Cpu);
    }

    #[test]
    fn with_two_gpus() {
        let two = CudaStatus::Available { n_devices: 2 };
        assert_eq!(first_or_cpu(&two), Device::Cuda(0));
        assert_eq!(cuda_device("cuda:1", 1, &two).unwrap(), Device::Cuda(1));
        let error = cuda_device("cuda:2", 2, &two).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("there are 2 CUDA devices"), "{message}");
    }

    #[test]
    fn without_a_gpu() {
        let none = CudaStatus::Unavailable {
            reason: "no driver".into(),
        };
        assert_eq!(first_or_cpu(&none), Device::Cpu);
        let error = cuda_device("cuda", 0, &none).unwrap_err();
        assert_eq!(error.to_string(), "cannot use device `cuda`: no driver");
        assert!(error.hint().unwrap().contains("doctor"));
    }
}
