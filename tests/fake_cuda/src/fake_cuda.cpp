// CUDA devices on a machine without any: libtorch's dispatch key CUDA on host memory, for tests.
//
// Built as `libtorch_cuda.so` and found before the real one, this is what a program gets when it loads the
// CUDA half of libtorch. Each part below is one idea; together they are one source, as most of the time to
// compile them goes into libtorch's headers. ../README.md says how to use it.

#include "log.hpp"
#include "streams.hpp"
#include "memory.hpp"
#include "device.hpp"
#include "call.hpp"
#include "waits.hpp"
#include "cuda_only.hpp"
#include "kernels.hpp"
