//! One binary for machines with and without a GPU: libtorch's CUDA half is loaded at run time.

#![expect(unsafe_code, reason = "dlopen and dlerror; this module is all of it")]

use crate::libtorch::Libtorch;
use plan::CudaStatus;
use std::ffi::{CStr, CString, c_int};
use std::sync::OnceLock;

/// Loads libtorch's CUDA library if there is an NVIDIA driver, and counts the devices.
///
/// To be called before anything else asks libtorch for CUDA: a binary is not linked to the CUDA
/// library, and libtorch remembers the first answer. Later calls return the first one's result.
pub fn init_backends() -> &'static CudaStatus {
    static STATUS: OnceLock<CudaStatus> = OnceLock::new();
    STATUS.get_or_init(|| match load_cuda() {
        Ok(n_devices) => CudaStatus::Available { n_devices },
        Err(reason) => CudaStatus::Unavailable { reason },
    })
}

fn load_cuda() -> Result<usize, String> {
    // The driver first: loading the CUDA library takes seconds and is in vain without it.
    open_library(c"libcuda.so.1", libc::RTLD_LAZY | libc::RTLD_LOCAL)
        .map_err(|error| format!("no NVIDIA driver ({error})"))?;
    load_cuda_half().map_err(|error| format!("cannot load libtorch's CUDA library ({error})"))?;
    match usize::try_from(tch::Cuda::device_count()) {
        Ok(n_devices @ 1..) => Ok(n_devices),
        _ => Err("the driver shows no device (is CUDA_VISIBLE_DEVICES empty?)".into()),
    }
}

/// Where the loader finds it by its name; otherwise next to the half that is loaded.
fn load_cuda_half() -> Result<(), String> {
    const NAME: &str = "libtorch_cuda.so";
    let beside = Libtorch::loaded()
        .library
        .map(|cpu| cpu.with_file_name(NAME));
    let mut error = String::new();
    for path in [Some(NAME.into()), beside].into_iter().flatten() {
        let path = CString::new(path.into_os_string().into_encoded_bytes())
            .map_err(|_| "a zero in its name")?;
        match open_library(&path, libc::RTLD_NOW | libc::RTLD_GLOBAL) {
            Ok(()) => return Ok(()),
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// Loads a shared library for the rest of the process.
fn open_library(name: &CStr, flags: c_int) -> Result<(), String> {
    // SAFETY: `name` is a C string that outlives the call. The library's initialisers run here;
    // these two libraries are made to be loaded this way. The handle is never closed.
    let handle = unsafe { libc::dlopen(name.as_ptr(), flags) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror returns null, or a C string that lives until this thread's next dl call; it
    // is copied before that.
    let message = unsafe {
        let message = libc::dlerror();
        (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    Err(message.unwrap_or_else(|| format!("cannot load {}", name.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_library_is_named() {
        let error = open_library(c"libno-such-thing.so", libc::RTLD_NOW).unwrap_err();
        assert!(error.contains("libno-such-thing.so"), "{error}");
    }

    #[test]
    fn the_status_agrees_with_libtorch() {
        match init_backends() {
            CudaStatus::Available { n_devices } => {
                assert_eq!(*n_devices, tch::Cuda::device_count() as usize);
                assert!(tch::Cuda::is_available());
            }
            CudaStatus::Unavailable { reason } => {
                assert!(!reason.is_empty());
                assert!(!tch::Cuda::is_available());
            }
        }
    }
}
