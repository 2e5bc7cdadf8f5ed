// Memory of the devices: host memory at addresses that the host cannot use.
//
// A device address is a host address with a bit set that no address of a process has, on x86-64 and on
// AArch64 (where bits 56 to 63 are ignored). Host code that uses it ends in a fault, in any thread.

#pragma once

#include "streams.hpp"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <cstring>
#include <unordered_map>

namespace fake_cuda {

constexpr uintptr_t kFar = uintptr_t(1) << 54;

inline void* to_device(void* host) {
  return host ? reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(host) | kFar) : nullptr;
}

inline void* to_host(const void* device) {
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(device) & ~kFar);
}

inline const size_t n_devices = number_of("FAKE_CUDA_DEVICES", 1);
// Bytes of all devices together.
inline const size_t memory_bytes = number_of("FAKE_CUDA_MEMORY", size_t(1) << 46);

inline thread_local c10::DeviceIndex current_device = 0;

// The device of an index; a negative one means the current device.
inline c10::Device device_at(c10::DeviceIndex index) {
  return {c10::DeviceType::CUDA, index < 0 ? current_device : index};
}

struct Block {
  size_t n_bytes;
  Uses uses;
};

// The blocks of the devices, by address.
struct Blocks {
  std::mutex mutex;
  std::unordered_map<const void*, Block> blocks;
  size_t n_used = 0;
  size_t most_used = 0;

  bool has_room(size_t n_bytes) {
    std::lock_guard lock(mutex);
    return n_bytes <= memory_bytes && n_used <= memory_bytes - n_bytes;
  }
  void add(void* block, size_t n_bytes) {
    std::lock_guard lock(mutex);
    Block& added = blocks[block] = {n_bytes, {}};
    added.uses.owner = current_stream;
    n_used += n_bytes;
    most_used = std::max(most_used, n_used);
  }
  void remove(void* block) {
    std::unique_lock lock(mutex);
    const auto found = blocks.find(block);
    const bool is_safe = may_be_freed(found->second.uses);
    n_used -= found->second.n_bytes;
    blocks.erase(found);
    lock.unlock();
    if (!is_safe) {
      write_event("race", "memory is freed while another stream uses it");
    }
  }
  // A use by the operator `name`.
  void use(const void* block, const Use& use, bool is_write, const std::string& name) {
    std::unique_lock lock(mutex);
    const auto found = blocks.find(block);
    const bool is_ordered = found == blocks.end() || note_use(found->second.uses, use, is_write);
    lock.unlock();
    if (!is_ordered) {
      write_event("race", name);
    }
  }
  void record(const void* block, StreamId stream) {
    std::lock_guard lock(mutex);
    const auto found = blocks.find(block);
    if (found != blocks.end()) {
      found->second.uses.recorded.insert(stream);
    }
  }
};

// Tensors may outlive static destructors.
inline Blocks& blocks = *new Blocks;

inline void free_on_device(void* device) {
  if (device) {
    blocks.remove(device);
    c10::free_cpu(to_host(device));
  }
}

struct DeviceAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t n_bytes) override {
    if (!blocks.has_room(n_bytes)) {
      write_event("full", std::to_string(n_bytes));
      TORCH_CHECK_WITH(OutOfMemoryError, false, "CUDA out of memory. Tried to allocate ", n_bytes, " bytes.");
    }
    void* device = nullptr;
    if (n_bytes) {
      void* host = c10::alloc_cpu(n_bytes);
      // NaN in floats: what is read before it is written shows.
      std::memset(host, 0xff, n_bytes);
      device = to_device(host);
      blocks.add(device, n_bytes);
    }
    return {device, device, &free_on_device, device_at(-1)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &free_on_device;
  }
  void copy_data(void* to, const void* from, size_t n_bytes) const override {
    std::memcpy(to_host(to), to_host(from), n_bytes);
  }
  bool initialized() override {
    return true;
  }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    blocks.record(data.get(), static_cast<StreamId>(stream.id()));
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    std::lock_guard lock(blocks.mutex);
    c10::CachingDeviceAllocator::DeviceStats stats;
    stats.allocated_bytes[0].peak = static_cast<int64_t>(blocks.most_used);
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {
    std::lock_guard lock(blocks.mutex);
    blocks.most_used = blocks.n_used;
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override {
    std::lock_guard lock(blocks.mutex);
    return {memory_bytes - blocks.n_used, memory_bytes};
  }
};

inline DeviceAllocator device_allocator;
inline const bool is_registered = [] {
  c10::SetAllocator(c10::DeviceType::CUDA, &device_allocator);
  return true;
}();

// Pinned memory of the host, by the start of each block.
inline std::mutex pinned_mutex;
inline std::set<const void*> pinned_blocks;

inline bool is_pinned(const void* data) {
  std::lock_guard lock(pinned_mutex);
  return pinned_blocks.count(data) != 0;
}

inline void free_pinned(void* data) {
  {
    std::lock_guard lock(pinned_mutex);
    pinned_blocks.erase(data);
  }
  c10::free_cpu(data);
}

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n_bytes) override {
    void* data = c10::alloc_cpu(n_bytes);
    std::lock_guard lock(pinned_mutex);
    pinned_blocks.insert(data);
    return {data, data, &free_pinned, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &free_pinned;
  }
  void copy_data(void* to, const void* from, size_t n_bytes) const override {
    std::memcpy(to, from, n_bytes);
  }
};

inline PinnedAllocator pinned_allocator;

inline const bool is_allocator_set = [] {
  c10::SetAllocator(c10::DeviceType::CUDA, &device_allocator, 1);
  return true;
}();

} // namespace fake_cuda
