// Process groups on NCCL, for tensors on GPUs.

#include "common.hpp"
#include "sizes.hpp"

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

static_assert(sizeof(c10d::ProcessGroupNCCL) == sizes().nccl, "check CUDA's headers for this libtorch: sizes.hpp");

namespace {

const char* const kBackend = "nccl";

// NCCL chooses its interface itself, by NCCL_SOCKET_IFNAME.
BackendPtr make_backend(
    const StorePtr& store,
    int rank,
    int size,
    Millis timeout,
    const std::string& /* interface */) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
}

} // namespace
