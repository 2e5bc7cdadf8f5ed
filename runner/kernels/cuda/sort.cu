// Numbers with their indices as keys that are all different: a sort of them has one result, whatever order they
// were found in.

// Grows with the number. A NaN is above all, -0 is 0; no number gives 0.
DEVICE u32 ordered(float x) {
    if (x != x) return 0xffffffff;
    u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000;
}

DEVICE float number_of(u32 ordered) {
    return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffff : ~ordered);
}

// Of equal numbers the first one is the largest.
DEVICE u64 key_of(float x, u32 idx) { return (u64)ordered(x) << 32 | (u32)~idx; }

DEVICE int power_of_two_from(int n) {
    int power = 1;
    while (power < n) power *= 2;
    return power;
}

// The block sorts `keys` in shared memory, the largest first; `n`: a power of two. Bitonic. Pairs that are 32 apart
// or less belong to the same warp from step to step, which then waits for nobody else.
template <int THREADS>
DEVICE void sort_keys(u64* keys, int n) {
    __syncthreads();
    bool has_pairs = thread() - lane() < n / 2;
    for (int size = 2; size <= n; size *= 2) {
        for (int apart = size / 2; apart > 0; apart /= 2) {
            for (int pair = thread(); pair < n / 2; pair += THREADS) {
                int first = 2 * pair - (pair & (apart - 1));
                u64 a = keys[first], b = keys[first + apart];
                bool is_falling = (first & size) == 0;
                if ((a < b) == is_falling) {
                    keys[first] = b;
                    keys[first + apart] = a;
                }
            }
            int next = apart > 1 ? apart / 2 : size;
            if (apart > WARP || next > WARP)
                __syncthreads();
            else if (has_pairs)
                __syncwarp();
        }
    }
    __syncthreads();
}

// Sorts the `n` keys, and writes the first `k`. `keys` has memory up to the next power of two.
template <int THREADS>
DEVICE void write_largest(u64* keys, int n, int k, int with_relu, float* acts, i64* indices) {
    int n_sorted = power_of_two_from(n);
    for (int idx = n + thread(); idx < n_sorted; idx += THREADS) keys[idx] = 0;
    sort_keys<THREADS>(keys, n_sorted);
    for (int idx = thread(); idx < k; idx += THREADS) {
        float act = number_of((u32)(keys[idx] >> 32));
        // A NaN stays one.
        acts[idx] = with_relu && act < 0 ? 0 : act;
        indices[idx] = (u32)~keys[idx];
    }
}
