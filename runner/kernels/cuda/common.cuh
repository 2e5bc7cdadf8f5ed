// What the kernels share. All sources are one program: this file comes first, and none includes another one.
//
// A kernel keeps what its threads share in dynamic shared memory alone (`shared_memory`), and adds in an order that
// depends on nothing but the sizes. Products that are added to something are `__fmul_rn`: without it the compiler
// makes one rounding of two, and the CPU's kernels, which do not, would differ.

typedef unsigned short bfloat16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
// Threads of a block, and blocks of a multiprocessor that there are registers for, at least.
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffff;
// Numbers that a thread reads at a time: 16 bytes.
constexpr int FOUR = 4;

#ifndef SAE_RUN_EMULATED
DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char shared_bytes[];
    return shared_bytes;
}
#endif

DEVICE int thread() { return threadIdx.x; }
DEVICE int lane() { return threadIdx.x % WARP; }
DEVICE int warp() { return threadIdx.x / WARP; }

DEVICE bool is_aligned(const void* pointer) { return (u64)pointer % 16 == 0; }

// Four numbers of a row.
struct Four {
    float x[FOUR];
};

DEVICE Four zeros() { return {{0, 0, 0, 0}}; }

DEVICE Four four(float4 x) { return {{x.x, x.y, x.z, x.w}}; }

// Four numbers of a row that no thread of the kernel writes; past its end they are 0. ALIGNED: rows begin at
// multiples of 16 bytes, and their width is a multiple of four.
template <bool ALIGNED>
DEVICE Four read(const float* row, int column, int width) {
    if constexpr (ALIGNED) {
        return four(__ldg((const float4*)(row + column)));
    } else {
        Four four = zeros();
#pragma unroll
        for (int idx = 0; idx < FOUR; idx++)
            if (column + idx < width) four.x[idx] = __ldg(row + column + idx);
        return four;
    }
}

// The same of a row that is written to as well.
template <bool ALIGNED>
DEVICE Four read_own(const float* row, int column, int width) {
    if constexpr (ALIGNED) {
        return four(*(const float4*)(row + column));
    } else {
        Four four = zeros();
#pragma unroll
        for (int idx = 0; idx < FOUR; idx++)
            if (column + idx < width) four.x[idx] = row[column + idx];
        return four;
    }
}

template <bool ALIGNED>
DEVICE void write(float* row, int column, int width, const Four& four) {
    if constexpr (ALIGNED) {
        *(float4*)(row + column) = make_float4(four.x[0], four.x[1], four.x[2], four.x[3]);
    } else {
#pragma unroll
        for (int idx = 0; idx < FOUR; idx++)
            if (column + idx < width) row[column + idx] = four.x[idx];
    }
}

// To the nearest, of two the even one; a NaN stays one.
DEVICE u32 to_bfloat16(float x) {
    u32 bits = __float_as_uint(x);
    if (x != x) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <bool ALIGNED>
DEVICE void write_rounded(bfloat16* row, int column, int width, const Four& four) {
    if constexpr (ALIGNED) {
        u32 first = to_bfloat16(four.x[0]) | to_bfloat16(four.x[1]) << 16;
        u32 second = to_bfloat16(four.x[2]) | to_bfloat16(four.x[3]) << 16;
        *(uint2*)(row + column) = make_uint2(first, second);
    } else {
#pragma unroll
        for (int idx = 0; idx < FOUR; idx++)
            if (column + idx < width) row[column + idx] = (bfloat16)to_bfloat16(four.x[idx]);
    }
}

// `sum += factor * x`.
DEVICE void add_scaled(Four& sum, float factor, const Four& x) {
#pragma unroll
    for (int idx = 0; idx < FOUR; idx++) sum.x[idx] += __fmul_rn(factor, x.x[idx]);
}

DEVICE float dot(const Four& a, const Four& b) {
    float first = __fmul_rn(a.x[0], b.x[0]) + __fmul_rn(a.x[1], b.x[1]);
    return first + (__fmul_rn(a.x[2], b.x[2]) + __fmul_rn(a.x[3], b.x[3]));
}

// The sum of all lanes, in each of them.
template <class T>
DEVICE T sum_of_warp(T x) {
#pragma unroll
    for (int away = WARP / 2; away > 0; away /= 2) x += __shfl_xor_sync(ALL_LANES, x, away);
    return x;
}

// The sum of all threads, in each of them. `sums`: shared memory with a number for each warp.
template <int THREADS>
DEVICE float sum_of_block(float x, float* sums) {
    x = sum_of_warp(x);
    if (lane() == 0) sums[warp()] = x;
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int idx = 0; idx < THREADS / WARP; idx++) sum += sums[idx];
    return sum;
}
