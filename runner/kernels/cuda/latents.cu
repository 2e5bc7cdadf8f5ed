// Gradients of weights, latent by latent. `order`: entries, sorted by latent, those of a latent in the order of tokens;
// `starts`: where those of each latent begin in it, and where the last ones end; `tokens`: the token of each entry, or
// nothing if each token has `k`, one after the other.

constexpr int COUNT_THREADS = 256;

// A latent's entries.
struct LatentEntries {
    const i64* order;
    const float* values;
    const i64* tokens;
    i64 n;
    u32 k;

    METHOD LatentEntries(const i64* order, const i64* starts, i64 latent, const float* values, const i64* tokens, int k)
        : order(order + __ldg(starts + latent)), values(values), tokens(tokens),
          n(__ldg(starts + latent + 1) - __ldg(starts + latent)), k(k) {}

    METHOD i64 token_of(i64 entry) const {
        if (tokens) return __ldg(tokens + entry);
        // 64 bits take a multiple of the time.
        return entry >> 32 == 0 ? (u32)entry / k : entry / k;
    }

    // The sum of the values times the rows of their tokens, `dense`: for `finish`, see sum_rows.
    template <int N, class Finish>
    METHOD void sum(const float* dense, int width, const Staged& staged, Finish finish) const {
        auto stage = [&](i64 idx, float& factor, i64& start) {
            i64 entry = __ldg(order + idx);
            factor = __ldg(values + entry);
            start = token_of(entry) * width;
        };
        sum_rows<N>(n, dense, width, staged, stage, finish);
    }
};

template <int N>
DEVICE void write_sums(const LatentEntries& entries, const float* dense, int width, float* row) {
    Staged staged(shared_memory());
    entries.sum<N>(dense, width, staged, [&](int column, const Numbers<N>& sum) { write(row + column, sum); });
}

// Bytes of a latent: 4 width (n + 1) + 20 n, of n entries (28 n with `tokens`). FLOPs: 2 width n.
KERNEL(SUM_THREADS, 4)
rows_gradient(const i64* order, const i64* starts, const float* values, const float* dense, const i64* tokens, int k,
              int width, float* gradient) {
    LatentEntries entries(order, starts, blockIdx.x, values, tokens, k);
    float* row = gradient + (i64)blockIdx.x * width;
    if (width % FOUR == 0 && is_aligned(dense) && is_aligned(gradient))
        write_sums<FOUR>(entries, dense, width, row);
    else
        write_sums<1>(entries, dense, width, row);
}

// The warp's sum of `term(value)` over a latent's entries, in each lane.
template <class T, class Term>
DEVICE T sum_of_latent(const i64* order, const i64* starts, const float* values, i64 latent, Term term) {
    T sum = 0;
    i64 end = __ldg(starts + latent + 1);
#pragma unroll 4
    for (i64 idx = __ldg(starts + latent) + lane(); idx < end; idx += WARP) sum += term(__ldg(values + __ldg(order + idx)));
    return sum_of_warp(sum);
}

DEVICE i64 latent_of_warp() { return (i64)blockIdx.x * (COUNT_THREADS / WARP) + warp(); }

// Bytes of a latent: 12 + 12 n, of n entries (32 of memory for each value). FLOPs: n.
KERNEL(COUNT_THREADS, 4)
latent_sums(const i64* order, const i64* starts, const float* values, i64 n_latents, float* sums) {
    i64 latent = latent_of_warp();
    if (latent >= n_latents) return;
    float sum = sum_of_latent<float>(order, starts, values, latent, [](float value) { return value; });
    if (lane() == 0) sums[latent] = sum;
}

// As latent_sums: how many are above 0.
KERNEL(COUNT_THREADS, 4)
fire_counts(const i64* order, const i64* starts, const float* acts, i64 n_latents, float* counts) {
    i64 latent = latent_of_warp();
    if (latent >= n_latents) return;
    u32 count = sum_of_latent<u32>(order, starts, acts, latent, [](float act) { return act > 0; });
    if (lane() == 0) counts[latent] = (float)count;
}
