// What CUDA's kernels can and the CPU's cannot, done in steps; and what only the CPU's can, refused.

#pragma once

#include "call.hpp"

#include <ATen/core/stack.h>
#include <ATen/ops/empty_like.h>

#include <functional>

namespace fake_cuda {

// What is left to do to the results.
using Rest = std::function<void()>;

// A gradient that is wider than its input, which was a half.
inline Rest narrow_gradient(torch::jit::Stack* stack, size_t first, size_t n_args) {
  const auto kind = (*stack)[first + 3].toScalarType();
  const auto of_gradient = (*stack)[first].toTensor().scalar_type();
  if (kind == of_gradient) {
    return {};
  }
  (*stack)[first + 3] = of_gradient;
  if (n_args == 4) {
    return [=] { stack->back() = stack->back().toTensor().to(kind); };
  }
  Tensor narrow = (*stack)[first + 4].toTensor();
  Tensor wide = at::empty_like(narrow, of_gradient);
  (*stack)[first + 4] = wide;
  return [=] {
    narrow.copy_(wide);
    stack->back() = narrow;
  };
}

inline Rest prepare(const std::string& op, torch::jit::Stack* stack, size_t first, size_t n_args) {
  if (op == "aten::_softmax" || op == "aten::_log_softmax") {
    if ((*stack)[first + 2].toBool()) { // half_to_float
      (*stack)[first] = (*stack)[first].toTensor().to(at::kFloat);
      (*stack)[first + 2] = false;
    }
  } else if (op == "aten::_softmax_backward_data" || op == "aten::_log_softmax_backward_data") {
    return narrow_gradient(stack, first, n_args);
  } else if (op == "aten::_int_mm") {
    const Tensor a = (*stack)[first].toTensor();
    const Tensor b = (*stack)[first + 1].toTensor();
    TORCH_CHECK(
        a.size(0) > 16 && a.size(1) % 8 == 0 && b.size(1) % 8 == 0,
        "fake CUDA: _int_mm: expected more than 16 rows and multiples of 8, got ",
        a.sizes(),
        " and ",
        b.sizes());
  }
  return {};
}

} // namespace fake_cuda
