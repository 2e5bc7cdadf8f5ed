// The library of a driver, `libcuda.so.1`: programs look for it before they load the CUDA half of libtorch.

extern "C" int cuInit(unsigned) {
  return 100; // CUDA_ERROR_NO_DEVICE
}
