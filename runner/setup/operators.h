// Operators that torch-sys 0.26 calls and some libtorch lacks, which no code here uses: with them it compiles
// against each version that is supported. They throw.
#pragma once
#ifdef __cplusplus
#include <torch/torch.h>
#include <torch/version.h>

#include <stdexcept>
#include <tuple>

#define LACKS_OPERATOR(NAME, RETURN)                                \
  template <class... Args>                                          \
  RETURN NAME(Args&&...) {                                          \
    throw std::runtime_error(#NAME " is not in libtorch " TORCH_VERSION); \
  }

namespace torch {

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;

#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 13
LACKS_OPERATOR(_philox_key_fold_in, at::Tensor)
LACKS_OPERATOR(_philox_key_split, at::Tensor)
LACKS_OPERATOR(_philox_normal, at::Tensor)
LACKS_OPERATOR(_philox_normal_, at::Tensor)
LACKS_OPERATOR(_philox_normal_out, at::Tensor)
LACKS_OPERATOR(_philox_uniform, at::Tensor)
LACKS_OPERATOR(_philox_uniform_, at::Tensor)
LACKS_OPERATOR(_philox_uniform_out, at::Tensor)
LACKS_OPERATOR(_upsample_lanczos2d_aa, at::Tensor)
LACKS_OPERATOR(_upsample_lanczos2d_aa_out, at::Tensor)
LACKS_OPERATOR(_upsample_lanczos2d_aa_backward, at::Tensor)
LACKS_OPERATOR(_upsample_lanczos2d_aa_backward_out, at::Tensor)
LACKS_OPERATOR(_flash_attention_forward_no_dropout_inplace, at::Tensor)
// There, with an argument less.
LACKS_OPERATOR(_scaled_dot_product_attention_math_for_mps, TwoTensors)
#endif

#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR > 13
LACKS_OPERATOR(cholesky, at::Tensor)
LACKS_OPERATOR(cholesky_out, at::Tensor)
LACKS_OPERATOR(qr, TwoTensors)
LACKS_OPERATOR(qr_out, TwoTensors)
#endif

} // namespace torch

#undef LACKS_OPERATOR
#endif
