// One kernel for all operators: it calls the CPU's kernel on tensors over the same memory.

#pragma once

#include "cuda_only.hpp"
#include "device.hpp"
#include "waits.hpp"

#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

namespace fake_cuda {

inline std::string name_of(const c10::OperatorName& name) {
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

// Operators that take tensors on the CPU as well: copies, and indices that CUDA copies to the device itself.
inline bool may_mix(const std::string& op) {
  static const std::set<std::string> ops = {
      "aten::_copy_from",
      "aten::_copy_from_and_resize",
      "aten::_index_put_impl_",
      "aten::_unsafe_index",
      "aten::copy_",
      "aten::index",
      "aten::index_put_",
      "aten::set_"};
  return ops.count(op) != 0;
}

// Puts what the CPU's kernel takes in place of the arguments. True if a tensor on the CPU is written to.
inline bool replace_arguments(const c10::FunctionSchema& schema, torch::jit::Stack* stack, Call& call) {
  const size_t first = stack->size() - schema.arguments().size();
  bool writes_on_cpu = false;
  for (size_t i = 0; i < schema.arguments().size(); i++) {
    IValue& value = (*stack)[first + i];
    const size_t n_before = call.given_on_cpu.size();
    const auto* alias = schema.arguments()[i].alias_info();
    const bool is_write = alias && alias->isWrite();
    if (value.isDevice()) {
      if (value.toDevice().is_cuda()) {
        call.device = call.device.value_or(value.toDevice());
        value = c10::Device(c10::kCPU);
      }
    } else if (value.isGenerator()) {
      auto* generator = dynamic_cast<Generator*>(value.toGenerator().unsafeGetGeneratorImpl());
      TORCH_CHECK(generator, "fake CUDA: ", schema.name(), ": a generator of the CPU for a tensor on the device");
      value = generator->on_cpu;
    } else if (value.isStorage()) {
      if (value.toStorage().device().is_cuda()) {
        value = call.storage_on_cpu(value.toStorage());
      }
    } else {
      value = map_tensors(value, [&](const Tensor& tensor) { return call.argument(tensor, is_write); });
    }
    writes_on_cpu |= is_write && call.given_on_cpu.size() > n_before;
  }
  return writes_on_cpu;
}

// Refuses tensors on several devices, as the real kernels do. A tensor of one number on the CPU is a parameter
// of a kernel, so it is only written down; a number that was made a tensor is nothing.
inline void check_devices(const std::string& op, const std::string& name, const Call& call, bool writes_on_cpu) {
  if (!call.device) {
    return;
  }
  if (may_mix(op)) {
    if (op != "aten::copy_" && !call.given_on_cpu.empty()) {
      host_waits(name + " with indices on the CPU");
    }
    return;
  }
  bool is_mismatch = call.is_mixed || (writes_on_cpu && !call.pairs.empty());
  for (const auto& tensor : call.given_on_cpu) {
    if (tensor.dim() > 0) {
      is_mismatch = true;
    } else if (!tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      write_event("scalar", name);
    }
  }
  if (is_mismatch) {
    write_event("mismatch", name);
  }
  TORCH_CHECK(!is_mismatch, "fake CUDA: ", name, ": expected all tensors to be on the same device");
}

inline void write_kinds(const std::string& name, const Call& call) {
  std::string kinds;
  for (const auto& pair : call.pairs) {
    kinds += (kinds.empty() ? "" : ",") + std::string(c10::toString(pair.on_device.scalar_type()));
  }
  write_op(name + "\t" + kinds);
}

inline void kernel(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView guard;
  const auto& schema = op.schema();
  const std::string name = name_of(schema.operator_name());
  const size_t n_args = schema.arguments().size();
  const size_t first = stack->size() - n_args;
  if (schema.name() == "aten::copy_") {
    const bool is_non_blocking = (*stack)[first + 2].toBool();
    write_copy((*stack)[first].toTensor(), (*stack)[first + 1].toTensor(), is_non_blocking);
  }

  Call call;
  const bool writes_on_cpu = replace_arguments(schema, stack, call);
  check_devices(schema.name(), name, call, writes_on_cpu);
  write_waits(schema.name(), name, call);
  write_kinds(name, call);
  const Use use = streams.start(current_stream);
  for (const auto& [memory, is_write] : call.used) {
    blocks.use(memory, use, is_write, name);
  }

  c10::OptionalDeviceGuard of_results(call.device);
  const Rest rest = prepare(schema.name(), stack, first, n_args);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  if (rest) {
    rest();
  }
  call.write_back();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    (*stack)[i] = map_tensors((*stack)[i], [&](const Tensor& tensor) { return call.result(tensor); });
  }
  for (const void* memory : call.made) {
    blocks.use(memory, use, true, name);
  }
}

inline Tensor empty(
    c10::IntArrayRef size,
    std::optional<at::ScalarType> kind,
    std::optional<at::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  c10::OptionalDeviceGuard guard(device);
  const auto kind_or_default = kind.value_or(at::get_default_dtype_as_scalartype());
  const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_generic(size, &device_allocator, keys, kind_or_default, format);
}

inline Tensor empty_strided(
    c10::IntArrayRef size,
    c10::IntArrayRef strides,
    std::optional<at::ScalarType> kind,
    std::optional<at::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>) {
  c10::OptionalDeviceGuard guard(device);
  const auto kind_or_default = kind.value_or(at::get_default_dtype_as_scalartype());
  const c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, strides, &device_allocator, keys, kind_or_default);
}

inline torch::CppFunction boxed_kernel() {
  return torch::CppFunction::makeFromBoxedFunction<&kernel>();
}

// What has a kernel for the CPU gets one for CUDA, before operators that are made of others. Whether the real
// CUDA half has it is for the list of operators to say.
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  // It is made of others, and asks for a kernel of its device without the dispatcher.
  m.impl("copy_", boxed_kernel());
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findOp(name);
    const bool is_new = name.name.rfind("aten::", 0) == 0 && op && op->hasSchema() &&
        op->hasKernelForDispatchKey(c10::DispatchKey::CPU) && !op->hasKernelForDispatchKey(c10::DispatchKey::CUDA);
    if (is_new) {
      m.impl(name_of(name).c_str(), boxed_kernel());
    }
  }
}

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(boxed_kernel());
}

} // namespace fake_cuda
