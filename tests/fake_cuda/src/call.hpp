// The tensors of one call of an operator: for each one on the device, one on the CPU with the same memory.
//
// As nothing is copied, operators that write to their arguments, outputs and views are right without effort.

#pragma once

#include "memory.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/CPUAllocator.h>

#include <map>
#include <optional>
#include <vector>

namespace fake_cuda {

using at::Tensor;
using c10::IValue;
using c10::Storage;

// A storage of `n_bytes` in memory that it owns, or that `data` holds.
inline Storage make_storage(size_t n_bytes, c10::Allocator* allocator, std::optional<c10::DataPtr> data = {}) {
  c10::DataPtr memory = data ? std::move(*data) : allocator->allocate(n_bytes);
  return Storage(c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), static_cast<int64_t>(n_bytes), std::move(memory), allocator, true));
}

// A tensor with the shape of `like` in `storage`.
inline Tensor make_tensor(Storage storage, c10::DispatchKey key, const Tensor& like) {
  auto tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return tensor;
}

inline void copy_to_device(c10::DataPtr& device, const Storage& cpu) {
  if (cpu.nbytes()) {
    std::memcpy(to_host(device.get()), cpu.data(), cpu.nbytes());
  }
}

class Call {
 public:
  struct Pair {
    Tensor on_device;
    Tensor on_cpu;
  };

  // The device of the tensors on one, and whether there are several.
  std::optional<c10::Device> device;
  bool is_mixed = false;
  // Arguments on the device, and those that are on the CPU themselves.
  std::vector<Pair> pairs;
  std::vector<Tensor> given_on_cpu;
  // Memory of the device that is read or, if true, written to; and memory that is new.
  std::map<const void*, bool> used;
  std::vector<const void*> made;

  // What the CPU's kernel is given for an argument.
  Tensor argument(const Tensor& tensor, bool is_write) {
    if (tensor.defined() && tensor.is_cpu()) {
      given_on_cpu.push_back(tensor);
    }
    if (!tensor.defined() || !tensor.is_cuda()) {
      return tensor;
    }
    is_mixed |= device && *device != tensor.device();
    device = device.value_or(tensor.device());
    used[tensor.storage().data_ptr().get()] |= is_write;
    for (const auto& pair : pairs) {
      if (pair.on_device.is_same(tensor)) {
        return pair.on_cpu;
      }
    }
    auto on_cpu = make_tensor(storage_on_cpu(tensor.storage()), c10::DispatchKey::CPU, tensor);
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      on_cpu.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    pairs.push_back({tensor, on_cpu});
    return on_cpu;
  }

  Storage storage_on_cpu(const Storage& on_device) {
    auto& on_cpu = cpu_storages_[on_device.unsafeGetStorageImpl()];
    if (!on_cpu) {
      c10::DataPtr memory(to_host(on_device.data_ptr().get()), c10::Device(c10::kCPU));
      on_cpu = make_storage(on_device.nbytes(), c10::GetCPUAllocator(), std::move(memory));
      device_storages_.emplace(on_cpu.unsafeGetStorageImpl(), on_device);
    }
    return on_cpu;
  }

  // What the caller is given for a result of the CPU's kernel.
  Tensor result(const Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cpu()) {
      return tensor;
    }
    for (const auto& pair : pairs) {
      if (pair.on_cpu.is_same(tensor)) {
        return pair.on_device;
      }
    }
    for (const auto& given : given_on_cpu) {
      if (given.is_same(tensor)) {
        return tensor;
      }
    }
    return make_tensor(storage_on_device(tensor.storage()), c10::DispatchKey::CUDA, tensor);
  }

  // Gives arguments what the kernel did besides writing numbers: other sizes, or another storage.
  void write_back() {
    for (auto& [on_device, on_cpu] : cpu_storages_) {
      if (on_cpu.data() != to_host(on_device->data_ptr().get())) {
        auto memory = device_allocator.allocate(on_cpu.nbytes());
        copy_to_device(memory, on_cpu);
        on_device->set_data_ptr(std::move(memory));
      }
      on_device->set_nbytes(on_cpu.nbytes());
    }
    for (const auto& [on_device, on_cpu] : pairs) {
      const Storage storage = storage_on_device(on_cpu.storage());
      auto* tensor = on_device.unsafeGetTensorImpl();
      if (storage.unsafeGetStorageImpl() != on_device.storage().unsafeGetStorageImpl()) {
        tensor->set_storage_keep_dtype(storage);
      }
      if (on_device.sizes() != on_cpu.sizes() || on_device.strides() != on_cpu.strides() ||
          on_device.storage_offset() != on_cpu.storage_offset()) {
        tensor->set_sizes_and_strides(on_cpu.sizes(), on_cpu.strides(), on_cpu.storage_offset());
      }
    }
  }

 private:
  std::map<c10::StorageImpl*, Storage> cpu_storages_; // by storage on the device
  std::map<c10::StorageImpl*, Storage> device_storages_; // by storage on the CPU

  // A view shares the storage of what it is a view of.
  Storage storage_on_device(const Storage& on_cpu) {
    auto found = device_storages_.find(on_cpu.unsafeGetStorageImpl());
    if (found != device_storages_.end()) {
      return found->second;
    }
    auto memory = device_allocator.allocate(on_cpu.nbytes());
    copy_to_device(memory, on_cpu);
    made.push_back(memory.get());
    Storage on_device = make_storage(on_cpu.nbytes(), &device_allocator, std::move(memory));
    device_storages_.emplace(on_cpu.unsafeGetStorageImpl(), on_device);
    return on_device;
  }
};

// `value` with `f` of each tensor in it.
template <class F>
IValue map_tensors(const IValue& value, F f) {
  if (value.isTensor()) {
    return f(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) {
      list.push_back(f(tensor));
    }
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& tensor : value.toOptionalTensorVector()) {
      list.push_back(tensor ? std::optional<Tensor>(f(*tensor)) : std::nullopt);
    }
    return list;
  }
  return value;
}

} // namespace fake_cuda
