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
// Numbers of 16 bytes.
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

// Which entries are a token's: `k` of them, or as many as there are from `starts[token]` to `starts[token + 1]`.
struct EntriesOfToken {
    i64 first;
    int n;

    METHOD EntriesOfToken(const i64* starts, int k, i64 token)
        : first(starts ? __ldg(starts + token) : token * k),
          n(starts ? (int)(__ldg(starts + token + 1) - first) : k) {}
};

// Numbers of a row that a thread reads at a time. N: 4 where rows begin at multiples of 16 bytes and their width is a
// multiple of four, else 1.
template <int N>
struct Numbers {
    float x[N];
};

template <int N>
DEVICE Numbers<N> zeros() {
    Numbers<N> zeros;
#pragma unroll
    for (int idx = 0; idx < N; idx++) zeros.x[idx] = 0;
    return zeros;
}

DEVICE Numbers<FOUR> numbers(float4 x) { return {{x.x, x.y, x.z, x.w}}; }

// Of an array that no thread of the kernel writes.
template <int N>
DEVICE Numbers<N> read(const float* from) {
    if constexpr (N == FOUR)
        return numbers(__ldg((const float4*)from));
    else
        return {{__ldg(from)}};
}

// Of one that is written to as well.
template <int N>
DEVICE Numbers<N> read_own(const float* from) {
    if constexpr (N == FOUR)
        return numbers(*(const float4*)from);
    else
        return {{*from}};
}

template <int N>
DEVICE void write(float* to, const Numbers<N>& numbers) {
    if constexpr (N == FOUR)
        *(float4*)to = make_float4(numbers.x[0], numbers.x[1], numbers.x[2], numbers.x[3]);
    else
        *to = numbers.x[0];
}

// To the nearest, of two the even one; a NaN stays one.
DEVICE u32 to_bfloat16(float x) {
    u32 bits = __float_as_uint(x);
    if (x != x) return 0x7fc0;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <int N>
DEVICE void write_rounded(bfloat16* to, const Numbers<N>& numbers) {
    if constexpr (N == FOUR) {
        u32 first = to_bfloat16(numbers.x[0]) | to_bfloat16(numbers.x[1]) << 16;
        u32 second = to_bfloat16(numbers.x[2]) | to_bfloat16(numbers.x[3]) << 16;
        *(uint2*)to = make_uint2(first, second);
    } else {
        *to = (bfloat16)to_bfloat16(numbers.x[0]);
    }
}

// `sum += factor * x`.
template <int N>
DEVICE void add_scaled(Numbers<N>& sum, float factor, const Numbers<N>& x) {
#pragma unroll
    for (int idx = 0; idx < N; idx++) sum.x[idx] += __fmul_rn(factor, x.x[idx]);
}

template <int N>
DEVICE float dot(const Numbers<N>& a, const Numbers<N>& b) {
    float products[N];
#pragma unroll
    for (int idx = 0; idx < N; idx++) products[idx] = __fmul_rn(a.x[idx], b.x[idx]);
    if constexpr (N == FOUR)
        return (products[0] + products[1]) + (products[2] + products[3]);
    else
        return products[0];
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
