// In one source of each library between the programs and libtorch, so that they run on glibc 2.28 as PyTorch does.
#pragma once

// Headers of newer compilers ask glibc 2.32 whether there is one thread only, to save atomic operations. `false` is
// always right.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}
