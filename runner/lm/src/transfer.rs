//! From the host to the device, without a wait.

use tch::{Device, TchError, Tensor};

/// A tensor of the CPU on `device`. The host does not wait for a GPU: the copy is made from pinned memory, in
/// turn with what was queued before. On the CPU it is the tensor itself.
///
/// # Errors
/// Too little memory, or a fault of the device.
pub fn send(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    if device.is_cuda() {
        let pinned = tensor.f_internal_pin_memory(device)?;
        pinned.f_to_device_(device, tensor.kind(), true, false)
    } else {
        tensor.f_to_device(device)
    }
}
