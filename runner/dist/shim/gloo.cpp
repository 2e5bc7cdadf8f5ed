// Process groups on Gloo, for tensors on the CPU.

#include "common.hpp"
#include "sizes.hpp"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

// The declarations of Gloo are our own (stubs/).
static_assert(sizeof(c10d::ProcessGroupGloo) == sizes().gloo, "check stubs/gloo against this libtorch: sizes.hpp");

namespace {

const char* const kBackend = "gloo";

BackendPtr make_backend(
    const StorePtr& store,
    int rank,
    int size,
    Millis timeout,
    const std::string& interface) {
  using Gloo = c10d::ProcessGroupGloo;
  auto options = Gloo::Options::create(timeout);
  const bool is_lazy = c10d::getDefaultGlooLazyInit();
  if (interface == "lo") {
    options->devices.push_back(Gloo::createDeviceForHostname("127.0.0.1", is_lazy));
  } else if (!interface.empty()) {
    options->devices.push_back(Gloo::createDeviceForInterface(interface, is_lazy));
  } else {
    options->devices.push_back(Gloo::createDefaultDevice(is_lazy));
  }
  return c10::make_intrusive<Gloo>(store, rank, size, options);
}

} // namespace
