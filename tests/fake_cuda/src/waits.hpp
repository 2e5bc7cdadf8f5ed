// What makes the host wait for the device, and what adds floats in no fixed order.

#pragma once

#include "call.hpp"

namespace fake_cuda {

// Operators whose CUDA kernels must know a number that is on the device, to choose a size or to return it.
inline bool waits(const std::string& op) {
  static const std::set<std::string> ops = {
      "aten::_local_scalar_dense",
      "aten::_unique",
      "aten::_unique2",
      "aten::bincount",
      "aten::equal",
      "aten::histc",
      "aten::masked_select",
      "aten::nonzero",
      "aten::repeat_interleave",
      "aten::unique_consecutive",
      "aten::unique_dim",
      "aten::unique_dim_consecutive"};
  return ops.count(op) != 0;
}

// Operators whose CUDA kernels add floats by atomics, or in an order that changes from call to call.
inline bool adds_in_no_order(const std::string& op) {
  static const std::set<std::string> ops = {
      "aten::bincount",
      "aten::cumsum",
      "aten::cumsum_",
      "aten::histc",
      "aten::index_add",
      "aten::index_add_",
      "aten::put_",
      "aten::scatter_add",
      "aten::scatter_add_",
      "aten::scatter_reduce",
      "aten::scatter_reduce_"};
  return ops.count(op) != 0;
}

// A mask has to be turned into indices, whose number the host must know.
inline bool has_mask(const std::string& op, const Call& call) {
  static const std::set<std::string> ops = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"};
  if (ops.count(op) == 0 || call.pairs.empty()) {
    return false;
  }
  const auto is_mask = [](const Call::Pair& pair) {
    const auto kind = pair.on_device.scalar_type();
    return kind == at::kBool || kind == at::kByte;
  };
  return std::any_of(call.pairs.begin() + 1, call.pairs.end(), is_mask);
}

// A copy to pageable memory waits always. One to the device takes the numbers of pageable memory at once.
inline void write_copy(const Tensor& to, const Tensor& from, bool is_non_blocking) {
  if (to.is_cuda() == from.is_cuda()) {
    return;
  }
  const std::string what = to.is_cuda() ? "copy to the device" : "copy to the host";
  if (is_non_blocking && (to.is_cuda() || to.is_pinned())) {
    write_event("copy", what);
  } else {
    host_waits(what);
  }
}

inline void write_waits(const std::string& op, const std::string& name, const Call& call) {
  if (waits(op)) {
    host_waits(name);
  }
  if (has_mask(op, call)) {
    host_waits(name + " with a mask");
  }
  if (adds_in_no_order(op) && !call.pairs.empty() && call.pairs[0].on_device.is_floating_point()) {
    write_event("order", name);
  }
}

} // namespace fake_cuda
