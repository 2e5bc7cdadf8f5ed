// Products of a token's row with single rows of a matrix.

constexpr int DOTS_THREADS = 256;
constexpr int DOTS_WARPS = DOTS_THREADS / WARP;
// Rows that a warp reads at a time.
constexpr int ROWS_OF_WARP = 4;

// A token's row, and the rows of a matrix. IS_OWN: whether the block has written the token's row. WARPS: of the block.
template <int WARPS = DOTS_WARPS, bool IS_OWN = false>
struct DotRows {
    const float* dense;
    const float* rows;
    const float* bias;
    int width;

    // The warp's sums of `dense . rows[index] (+ bias[index])`, in each of its lanes.
    template <int N>
    METHOD void dots(const i64 (&indices)[ROWS_OF_WARP], float (&sums)[ROWS_OF_WARP]) const {
        const float* row[ROWS_OF_WARP];
#pragma unroll
        for (int idx = 0; idx < ROWS_OF_WARP; idx++) {
            row[idx] = rows + indices[idx] * width;
            sums[idx] = 0;
        }
#pragma unroll 2
        for (int column = lane() * N; column < width; column += WARP * N) {
            Numbers<N> of_token = IS_OWN ? read_own<N>(dense + column) : read<N>(dense + column);
            Numbers<N> of_row[ROWS_OF_WARP];
#pragma unroll
            for (int idx = 0; idx < ROWS_OF_WARP; idx++) of_row[idx] = read<N>(row[idx] + column);
#pragma unroll
            for (int idx = 0; idx < ROWS_OF_WARP; idx++) sums[idx] += dot(of_token, of_row[idx]);
        }
#pragma unroll
        for (int idx = 0; idx < ROWS_OF_WARP; idx++) {
            sums[idx] = sum_of_warp(sums[idx]);
            if (bias) sums[idx] += __ldg(bias + indices[idx]);
        }
    }

    // Runs `take(idx, index, dot)` for each of `n` indices, in one thread each.
    template <int N, class Take>
    METHOD void for_each(const i64* indices, int n, Take take) const {
        for (int first = warp() * ROWS_OF_WARP; first < n; first += WARPS * ROWS_OF_WARP) {
            i64 of_warp[ROWS_OF_WARP];
            float sums[ROWS_OF_WARP];
#pragma unroll
            for (int idx = 0; idx < ROWS_OF_WARP; idx++) of_warp[idx] = __ldg(indices + min(first + idx, n - 1));
            dots<N>(of_warp, sums);
#pragma unroll
            for (int idx = 0; idx < ROWS_OF_WARP; idx++)
                if (lane() == idx && first + idx < n) take(first + idx, of_warp[idx], sums[idx]);
        }
    }

    template <class Take>
    METHOD void for_each(const i64* indices, int n, Take take) const {
        if (width % FOUR == 0 && is_aligned(dense) && is_aligned(rows))
            for_each<FOUR>(indices, n, take);
        else
            for_each<1>(indices, n, take);
    }
};

// Bytes of a token: 4 width (n + 1) + 12 n, of n entries. FLOPs: 2 width n. A warp reads four rows at a time.
KERNEL(DOTS_THREADS, 3)
dots_at_entries(const float* dense, const float* rows, const float* bias, const i64* indices, const i64* starts,
                int width, int k, float* out) {
    DotRows<> of_token = {dense + (i64)blockIdx.x * width, rows, bias, width};
    EntriesOfToken entries(starts, k, blockIdx.x);
    float* of_entries = out + entries.first;
    of_token.for_each(indices + entries.first, entries.n, [&](int idx, i64, float dot) { of_entries[idx] = dot; });
}

// Bytes of a token: 4 width (n + 1) + 12 n + 12 k, of n candidates. FLOPs: 2 width n. The same, then a sort.
KERNEL(DOTS_THREADS, 3)
rescore_topk(const float* x, const float* weight, const float* bias, const i64* candidates, int width, int n_candidates,
             int k, int with_relu, float* acts, i64* indices) {
    u64* keys = (u64*)shared_memory();
    DotRows<> of_token = {x + (i64)blockIdx.x * width, weight, bias, width};
    const i64* of_row = candidates + (i64)blockIdx.x * n_candidates;
    of_token.for_each(of_row, n_candidates,
                      [&](int idx, i64 latent, float dot) { keys[idx] = key_of(dot, (u32)latent); });
    i64 first = (i64)blockIdx.x * k;
    write_largest<DOTS_THREADS>(keys, n_candidates, k, with_relu, acts + first, indices + first);
}
