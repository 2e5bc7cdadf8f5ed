// What torch-sys does not offer of libtorch's devices: the allocator's figures, and a second stream. It is compiled
// into libtch, by runner/setup/setup.sh. `../src/device_shim.rs` has the same in Rust.
//
// Nothing of CUDA is named: libtorch's CPU half asks whatever has the device.

#include "torch_api.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <string.h>

using namespace std;

namespace {

c10::Device cuda(int32_t index) {
  return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)};
}

c10::impl::VirtualGuardImpl guard() {
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA);
}

c10::DeviceAllocator& cuda_memory() {
  return *c10::getDeviceAllocator(c10::DeviceType::CUDA);
}

// Has `later` wait for what was started on `earlier` so far; the host goes on.
void order(const c10::Stream& earlier, const c10::Stream& later) {
  void* event = nullptr;
  const auto impl = guard();
  impl.record(&event, earlier, earlier.device_index(), c10::EventFlag::PYTORCH_DEFAULT);
  impl.block(event, later);
  impl.destroyEvent(event, earlier.device_index());
}

} // namespace

extern "C" {

// Failures are left where torch-sys's are: in `torch_last_err`.

// The most bytes that tensors had at a time since the last `forget`, and that the device has free and has.
void sae_run_memory(int32_t device, int64_t* most, int64_t* free, int64_t* total) {
  PROTECT(
    const auto stats = cuda_memory().getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *most = stats.allocated_bytes[0].peak;
    const auto info = cuda_memory().getMemoryInfo(static_cast<c10::DeviceIndex>(device));
    *free = static_cast<int64_t>(info.first);
    *total = static_cast<int64_t>(info.second);
  )
}

void sae_run_forget_peak(int32_t device) {
  PROTECT(cuda_memory().resetPeakStats(static_cast<c10::DeviceIndex>(device));)
}

// A stream besides the one that a device begins with.
c10::Stream* sae_run_stream(int32_t device) {
  PROTECT(return new c10::Stream(guard().getStreamFromGlobalPool(cuda(device), false));)
  return nullptr;
}

void sae_run_stream_free(c10::Stream* stream) {
  delete stream;
}

// What is started from now on goes to `stream`, and waits for all that was started before.
void sae_run_stream_enter(c10::Stream* stream) {
  PROTECT(
    order(guard().getDefaultStream(stream->device()), *stream);
    guard().exchangeStream(*stream);
  )
}

// What is started from now on goes to the device's own stream again, and waits for nothing.
void sae_run_stream_leave(c10::Stream* stream) {
  PROTECT(guard().exchangeStream(guard().getDefaultStream(stream->device()));)
}

// What is started from now on waits for all that was started on `stream`.
void sae_run_stream_join(c10::Stream* stream) {
  PROTECT(order(*stream, guard().getDefaultStream(stream->device()));)
}

// A tensor that was made on another stream is used on the device's own: its memory is not given away before that.
void sae_run_used_here(tensor tensor) {
  PROTECT(
    const auto& data = tensor->storage().data_ptr();
    cuda_memory().recordStream(data, guard().getDefaultStream(tensor->device()));
  )
}

} // extern "C"
