//! What torch-sys does not offer of a GPU: the memory that its tensors take, and a second stream. `shim/device.cpp` in
//! Rust.

#![expect(
    unsafe_code,
    reason = "calls through the C ABI of shim/device.cpp; this module is all of it"
)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;
use tch::{Device, TchError, Tensor};

unsafe extern "C" {
    fn sae_run_memory(device: i32, most: *mut i64, free: *mut i64, total: *mut i64);
    fn sae_run_forget_peak(device: i32);
    fn sae_run_stream(device: i32) -> *mut c_void;
    fn sae_run_stream_free(stream: *mut c_void);
    fn sae_run_stream_enter(stream: *mut c_void);
    fn sae_run_stream_leave(stream: *mut c_void);
    fn sae_run_stream_join(stream: *mut c_void);
    fn sae_run_used_here(tensor: *mut c_void);
    fn get_and_reset_last_err() -> *mut c_char;
}

/// Bytes of a GPU's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// The most that tensors had at a time, since the start or [`forget_peak`].
    pub most: i64,
    /// What the GPU has left, besides what libtorch keeps for later tensors.
    pub free: i64,
    /// What it has.
    pub total: i64,
}

/// What libtorch's allocator has counted; `None` on the CPU, where it does not count.
///
/// # Errors
/// Those of libtorch.
pub fn device_memory(device: Device) -> Result<Option<DeviceMemory>, TchError> {
    let Some(index) = index_of(device) else {
        return Ok(None);
    };
    let DeviceMemory {
        mut most,
        mut free,
        mut total,
    } = DeviceMemory::default();
    // SAFETY: three places that live until the call ends.
    unsafe { sae_run_memory(index, &raw mut most, &raw mut free, &raw mut total) };
    failure()?;
    Ok(Some(DeviceMemory { most, free, total }))
}

/// Counts [`DeviceMemory::most`] from now on.
///
/// # Errors
/// Those of libtorch.
pub fn forget_peak(device: Device) -> Result<(), TchError> {
    if let Some(index) = index_of(device) {
        // SAFETY: takes a number.
        unsafe { sae_run_forget_peak(index) };
        failure()?;
    }
    Ok(())
}

/// A second stream of a GPU: what is started on it runs next to what is started on the GPU's own.
#[derive(Debug)]
pub struct SideStream(NonNull<c_void>);

impl SideStream {
    /// `None`: the CPU has no streams.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(device: Device) -> Result<Option<Self>, TchError> {
        let Some(index) = index_of(device) else {
            return Ok(None);
        };
        // SAFETY: takes a number.
        let stream = NonNull::new(unsafe { sae_run_stream(index) });
        failure()?;
        Ok(stream.map(Self))
    }

    /// Starts `work` on this stream. It waits for what was started before on the GPU's own stream, and not for
    /// what is started there later. The host does not wait.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, TchError> {
        // SAFETY: the stream lives as long as `self`, here and below.
        unsafe { sae_run_stream_enter(self.0.as_ptr()) };
        // Left also if `work` panics.
        let entered = Entered(self);
        failure()?;
        let result = work();
        drop(entered);
        failure()?;
        Ok(result)
    }

    /// What is started from now on waits for all that was started on this stream.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn join(&self) -> Result<(), TchError> {
        // SAFETY: as above.
        unsafe { sae_run_stream_join(self.0.as_ptr()) };
        failure()
    }
}

struct Entered<'a>(&'a SideStream);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { sae_run_stream_leave(self.0.0.as_ptr()) };
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        // SAFETY: made by `sae_run_stream`, and freed once.
        unsafe { sae_run_stream_free(self.0.as_ptr()) };
    }
}

/// A tensor that was made on a [`SideStream`] is used on the GPU's own stream: its memory is not given to another
/// tensor before what is started there now has ended.
///
/// # Errors
/// Those of libtorch.
pub fn used_here(tensor: &Tensor) -> Result<(), TchError> {
    // SAFETY: the tensor lives until the call ends, which does not change it.
    unsafe { sae_run_used_here(tensor.as_ptr().cast_mut().cast()) };
    failure()
}

fn index_of(device: Device) -> Option<i32> {
    match device {
        Device::Cuda(index) => i32::try_from(index).ok(),
        _ => None,
    }
}

/// What libtorch threw in the last call, where torch-sys keeps it too.
fn failure() -> Result<(), TchError> {
    // SAFETY: null, or a C string that is ours to free.
    unsafe {
        let text = get_and_reset_last_err();
        if text.is_null() {
            return Ok(());
        }
        let message = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        Err(TchError::Torch(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_has_neither() {
        assert_eq!(device_memory(Device::Cpu).unwrap(), None);
        forget_peak(Device::Cpu).unwrap();
        assert!(SideStream::new(Device::Cpu).unwrap().is_none());
    }

    /// `shim/errors.cpp`: in tch 0.26 it is a panic.
    #[test]
    fn an_operator_that_fails_with_a_number_is_an_error() {
        let options = (tch::Kind::Float, Device::Cpu);
        for _ in 0..2 {
            let error = Tensor::f_full([-1_i64], 3.0, options).unwrap_err();
            assert!(error.to_string().contains("negative dimension"), "{error}");
        }
        let full = Tensor::f_full([2_i64], 3.0, options).unwrap();
        assert_eq!(Vec::<f32>::try_from(full).unwrap(), [3.0, 3.0]);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error() {
        let absent = Device::Cuda(99);
        assert!(device_memory(absent).is_err());
        assert!(SideStream::new(absent).is_err());
    }
}
