// Bytes of c10d's classes in each libtorch, as its own code allocates them: runner/setup/sizes.py prints these lines.
// Where a plug-in's objects had another size, our stubs or CUDA's headers would differ from what it was built with.
#pragma once

#include <torch/version.h>

#include <cstddef>

struct Sizes {
  int minor;
  size_t gloo;
  size_t nccl;
};

constexpr Sizes kSizes[] = {
    {11, 488, 1112},
    {12, 488, 1152},
    {13, 488, 1152},
    {14, 544, 1184},
    {15, 544, 1184},
};

// Of the libtorch that this is compiled against; zeros if it is not in the table.
constexpr Sizes sizes() {
  for (const Sizes& sizes : kSizes) {
    if (TORCH_VERSION_MAJOR == 2 && sizes.minor == TORCH_VERSION_MINOR) {
      return sizes;
    }
  }
  return {0, 0, 0};
}
