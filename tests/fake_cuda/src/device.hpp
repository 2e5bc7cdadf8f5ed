// Devices, their streams, their random numbers, and what libtorch asks of its CUDA half.

#pragma once

#include "memory.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace fake_cuda {

inline void set_device(c10::DeviceIndex index) {
  TORCH_CHECK(index < static_cast<int64_t>(n_devices), "fake CUDA: invalid device ordinal ", int(index));
  if (index >= 0) {
    current_device = index;
  }
}

inline c10::DeviceIndex exchange_device(c10::DeviceIndex index) {
  const c10::DeviceIndex before = current_device;
  set_device(index);
  return before;
}

struct DeviceGuard final : c10::impl::DeviceGuardImplInterface {
  using Device = c10::Device;
  using Stream = c10::Stream;

  static Stream stream_of(Device device, StreamId id) {
    return Stream(Stream::UNSAFE, device_at(device.index()), static_cast<c10::StreamId>(id));
  }
  static StreamId id_of(const Stream& stream) {
    return static_cast<StreamId>(stream.id());
  }
  c10::DeviceType type() const override {
    return c10::DeviceType::CUDA;
  }
  Device exchangeDevice(Device device) const override {
    return device_at(exchange_device(device.index()));
  }
  Device getDevice() const override {
    return device_at(-1);
  }
  void setDevice(Device device) const override {
    set_device(device.index());
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    current_device = device_at(device.index()).index();
  }
  Stream getStream(Device device) const override {
    return stream_of(device, current_stream);
  }
  Stream getDefaultStream(Device device) const override {
    return stream_of(device, kDefault);
  }
  Stream getStreamFromGlobalPool(Device device, bool) const override {
    return stream_of(device, streams.give());
  }
  Stream getNewStream(Device device, int) const override {
    return stream_of(device, streams.give());
  }
  Stream exchangeStream(Stream stream) const override {
    const StreamId before = current_stream;
    current_stream = id_of(stream);
    if (current_stream != kDefault) {
      write_event("stream", "another stream is the current one");
    }
    return stream_of(stream.device(), before);
  }
  void record(void** event, const Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
    *event = new Clock(streams.clock_of(id_of(stream)));
  }
  void block(void* event, const Stream& stream) const override {
    streams.wait_for(id_of(stream), *static_cast<Clock*>(event));
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Clock*>(event);
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const Stream& stream) const override {
    device_allocator.recordStream(data, stream);
  }
  bool queryEvent(void*) const override {
    return true;
  }
  bool queryStream(const Stream&) const override {
    return true;
  }
  void synchronizeStream(const Stream&) const override {
    host_waits("for a stream");
  }
  void synchronizeEvent(void*) const override {
    host_waits("for an event");
  }
  void synchronizeDevice(const c10::DeviceIndex) const override {
    host_waits("for a device");
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(n_devices);
  }
};

inline c10::impl::DeviceGuardImplRegistrar guard_registrar(c10::DeviceType::CUDA, new DeviceGuard);

// Its numbers are those of a generator on the CPU, so that a run can be compared with one there.
struct Generator final : c10::GeneratorImpl {
  at::Generator on_cpu;

  explicit Generator(at::Generator on_cpu)
      : GeneratorImpl(device_at(0), c10::DispatchKeySet(c10::DispatchKey::CUDA)), on_cpu(std::move(on_cpu)) {}
  void set_current_seed(uint64_t seed) override {
    on_cpu.set_current_seed(seed);
  }
  uint64_t current_seed() const override {
    return on_cpu.current_seed();
  }
  uint64_t seed() override {
    return on_cpu.seed();
  }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override {
    return 0;
  }
  void set_state(const c10::TensorImpl& state) override {
    on_cpu.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return on_cpu.unsafeGetGeneratorImpl()->get_state();
  }
  Generator* clone_impl() const override {
    return new Generator(on_cpu.clone());
  }
};

} // namespace fake_cuda

namespace at { // where the macro of the registry expects it

struct FakeCUDAHooks final : CUDAHooksInterface {
  explicit FakeCUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasCUDA() const override {
    return true;
  }
  bool hasCUDART() const override {
    return true;
  }
  int getNumGPUs() const override {
    return static_cast<int>(fake_cuda::n_devices);
  }
  DeviceIndex deviceCount() const override {
    return static_cast<DeviceIndex>(fake_cuda::n_devices);
  }
  DeviceIndex current_device() const override {
    return fake_cuda::current_device;
  }
  DeviceIndex getCurrentDevice() const override {
    return fake_cuda::current_device;
  }
  void setCurrentDevice(DeviceIndex index) const override {
    fake_cuda::set_device(index);
  }
  DeviceIndex exchangeDevice(DeviceIndex index) const override {
    return fake_cuda::exchange_device(index);
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override {
    return fake_cuda::exchange_device(index);
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  void deviceSynchronize(DeviceIndex) const override {
    fake_cuda::host_waits("for a device");
  }
  Allocator* getCUDADeviceAllocator() const override {
    return &fake_cuda::device_allocator;
  }
  Allocator* getPinnedMemoryAllocator() const override {
    return &fake_cuda::pinned_allocator;
  }
  bool isPinnedPtr(const void* data) const override {
    return fake_cuda::is_pinned(data);
  }
  Device getDeviceFromPtr(void*) const override {
    return fake_cuda::device_at(-1);
  }
  const Generator& getDefaultGenerator(DeviceIndex) const override {
    static Generator generator = make_generator<fake_cuda::Generator>(detail::getDefaultCPUGenerator().clone());
    return generator;
  }
  Generator getNewGenerator(DeviceIndex) const override {
    return make_generator<fake_cuda::Generator>(detail::createCPUGenerator());
  }
};

C10_REGISTER_TYPED_CLASS(CUDAHooksRegistry, "CUDAHooks", FakeCUDAHooks)

} // namespace at
