// CUDA on the CPU, for tests alone: what the kernels use of it, no more. The threads of a block are fibres of the calling
// thread, and run until they wait for each other; blocks run one after the other. Every second block runs its threads
// in the opposite order, so that a barrier that is missing shows. Found and told: barriers and warp operations that
// not all threads reach, or not at the same line.
//
// Shared memory ends at a page that cannot be touched, and is full of NaN when a block begins.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define SAE_RUN_EMULATED
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

using std::max;
using std::min;

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

namespace emulated {

struct Index {
    unsigned x;
};

// A fibre.
struct Thread {
    // Where it goes on.
    void* stack;
    Index idx;
    // The line where it waits, and for its warp or its block.
    int line;
    const char* waits_for;
};

// The one that runs.
extern thread_local Thread* current;
extern thread_local Index block_idx;

// Waits for the whole block; gives whether `flag` is set in one of its threads.
bool meet_block(int line, bool flag);

// Waits for the lanes of the warp, which are all, each with a value; gives the values.
const std::uint64_t* meet_warp(int line, unsigned lanes, std::uint64_t value);

unsigned char* shared_memory();

template <class T>
T shuffle(int line, unsigned lanes, T value, int lane) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t));
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = meet_warp(line, lanes, bits)[lane];
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

unsigned sum_of_lanes(int line, unsigned lanes, unsigned value);

}  // namespace emulated

#define threadIdx (emulated::current->idx)
#define blockIdx emulated::block_idx
#define __syncthreads() ((void)emulated::meet_block(__LINE__, false))
#define __syncthreads_or(flag) emulated::meet_block(__LINE__, flag)
#define __syncwarp() ((void)emulated::meet_warp(__LINE__, ~0u, 0))
#define __shfl_xor_sync(lanes, value, away) \
    emulated::shuffle(__LINE__, lanes, value, (int)(emulated::current->idx.x % 32) ^ (away))
#define __reduce_add_sync(lanes, value) emulated::sum_of_lanes(__LINE__, lanes, value)

// Fibres give way at meetings only.
inline unsigned atomicAdd(unsigned* sum, unsigned value) {
    unsigned before = *sum;
    *sum += value;
    return before;
}

template <class T>
T __ldg(const T* from) {
    return *from;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }

static inline unsigned char* shared_memory() { return emulated::shared_memory(); }
