// The library of a driver, `libcuda.so.1`: programs look for it before they load the CUDA half of libtorch, and start
// their own kernels through it. A kernel runs on the host at once, from the sources that a GPU's are compiled of.

#include <atomic>
#include <cstring>

#include "log.hpp"

#include "emulated.cpp"

namespace {

using Result = int;
constexpr Result SUCCESS = 0;
constexpr Result INVALID_VALUE = 1;
constexpr Result INVALID_DEVICE = 101;
constexpr Result INVALID_IMAGE = 200;
constexpr Result NOT_FOUND = 500;

constexpr int SHARED_BYTES = 232448;

int n_devices() {
  return static_cast<int>(fake_cuda::number_of("FAKE_CUDA_DEVICES", 1));
}

// Kernels that were launched so far.
std::atomic<size_t> n_launches{0};

// A number of each device that is not 0.
void* handle(int device) {
  return reinterpret_cast<void*>(static_cast<intptr_t>(device + 1));
}

} // namespace

extern "C" {

Result cuInit(unsigned) {
  return n_devices() > 0 ? SUCCESS : 100; // CUDA_ERROR_NO_DEVICE
}

// NVRTC asks a driver for functions that are not public.
Result cuGetExportTable(const void**, const void*) {
  return NOT_FOUND;
}

Result cuDriverGetVersion(int* version) {
  *version = 13000;
  return SUCCESS;
}

Result cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < n_devices() ? SUCCESS : INVALID_DEVICE;
}

Result cuDeviceGetName(char* name, int size, int) {
  std::snprintf(name, static_cast<size_t>(size), "a GPU that is not there");
  return SUCCESS;
}

Result cuDeviceGetAttribute(int* value, int attribute, int) {
  // By default it is an H100; FAKE_CUDA_CAPABILITY is another's, such as 75.
  const int capability = static_cast<int>(fake_cuda::number_of("FAKE_CUDA_CAPABILITY", 90));
  switch (attribute) {
    case 75:
      *value = capability / 10;
      return SUCCESS;
    case 76:
      *value = capability % 10;
      return SUCCESS;
    case 97: // shared memory of a block, if it asks for more than is usual
      *value = SHARED_BYTES;
      return SUCCESS;
    case 16: // multiprocessors
      *value = 132;
      return SUCCESS;
    default:
      return INVALID_VALUE;
  }
}

Result cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = handle(device);
  return SUCCESS;
}

Result cuCtxSetCurrent(void*) {
  return SUCCESS;
}

Result cuModuleLoadData(void** module, const void* image) {
  const auto* header = static_cast<const unsigned char*>(image);
  const bool is_elf = std::memcmp(header, "\x7f" "ELF", 4) == 0;
  if (!is_elf || header[18] + 256 * header[19] != EM_CUDA) {
    return INVALID_IMAGE;
  }
  *module = handle(0);
  return SUCCESS;
}

Result cuModuleGetFunction(void** function, void*, const char* name) {
  if (emulated::KERNELS.count(name) == 0) {
    return NOT_FOUND;
  }
  *function = strdup(name); // for the life of the process, as the real one's
  return SUCCESS;
}

Result cuFuncGetAttribute(int* value, int, void*) {
  *value = 0;
  return SUCCESS;
}

Result cuFuncSetAttribute(void*, int, int) {
  return SUCCESS;
}

Result cuLaunchKernel(
    void* function, unsigned grid, unsigned, unsigned, unsigned block, unsigned, unsigned, unsigned shared_bytes,
    void*, void** arguments, void**) {
  const char* kernel = static_cast<const char*>(function);
  n_launches++;
  fake_cuda::write_line(std::string("kernel\t") + kernel + "\t\n");
  const char* wrong = std::getenv("FAKE_CUDA_WRONG_KERNEL");
  if (wrong && std::strcmp(wrong, kernel) == 0) {
    return SUCCESS; // and nothing was computed
  }
  return sae_run_emulate(kernel, grid, block, shared_bytes, arguments) == 0 ? SUCCESS : INVALID_VALUE;
}

// Work is done when it is asked for. An event remembers how many kernels were launched before it: what was launched since is
// what a real device has to do while the host waits.
Result cuEventCreate(void** event, unsigned) {
  *event = new size_t(0);
  return SUCCESS;
}

Result cuEventRecord(void* event, void*) {
  *static_cast<size_t*>(event) = n_launches;
  return SUCCESS;
}

Result cuEventSynchronize(void* event) {
  const bool has_work = n_launches > *static_cast<size_t*>(event);
  fake_cuda::write_event("wait", has_work ? "for an event before other work" : "for an event");
  return SUCCESS;
}

Result cuEventDestroy_v2(void* event) {
  delete static_cast<size_t*>(event);
  return SUCCESS;
}

Result cuGetErrorName(Result error, const char** name) {
  switch (error) {
    case INVALID_VALUE:
      *name = "CUDA_ERROR_INVALID_VALUE";
      return SUCCESS;
    case INVALID_IMAGE:
      *name = "CUDA_ERROR_INVALID_IMAGE";
      return SUCCESS;
    case INVALID_DEVICE:
      *name = "CUDA_ERROR_INVALID_DEVICE";
      return SUCCESS;
    case NOT_FOUND:
      *name = "CUDA_ERROR_NOT_FOUND";
      return SUCCESS;
    default:
      return INVALID_VALUE;
  }
}

} // extern "C"
