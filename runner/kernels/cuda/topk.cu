// The k largest of each row of products.

constexpr int TOPK_THREADS = 512;
// Groups of a row for each number that is looked for, if that is not too many or too few. The fewer there are, the more
// is read again.
constexpr int GROUPS_FOR_EACH = 32;
constexpr int LEAST_GROUPS = 2048;
constexpr int MOST_GROUPS = 8192;
// In any case.
constexpr int LEAST_GROUPS_FOR_EACH = 4;
constexpr int LEAST_CANDIDATES = 256;
constexpr int N_DIGITS = 256;

template <class T>
struct Chunk;
template <>
struct Chunk<float> {
    static constexpr int WIDTH = 4;
    // Chunks that a thread reads at a time.
    static constexpr int AT_ONCE = 4;
};
template <>
struct Chunk<bfloat16> {
    static constexpr int WIDTH = 8;
    static constexpr int AT_ONCE = 2;
};

DEVICE float least_number() { return __uint_as_float(0xff800000); }
DEVICE float widened(u32 bits) { return __uint_as_float(bits << 16); }
DEVICE float number(float product) { return product; }
DEVICE float number(bfloat16 product) { return widened(product); }

DEVICE void read_products(const float* from, float (&to)[4]) {
    Numbers<FOUR> products = read<FOUR>(from);
#pragma unroll
    for (int idx = 0; idx < FOUR; idx++) to[idx] = products.x[idx];
}

DEVICE void read_products(const bfloat16* from, float (&to)[8]) {
    uint4 pairs = __ldg((const uint4*)from);
    u32 words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
    for (int idx = 0; idx < 4; idx++) {
        to[2 * idx] = widened(words[idx] & 0xffff);
        to[2 * idx + 1] = widened(words[idx] >> 16);
    }
}

// A row of products and the bias, in chunks of 16 bytes of products.
template <class T>
struct ProductRow {
    static constexpr int WIDTH = Chunk<T>::WIDTH;
    const T* products;
    const float* bias;
    i64 n;

    METHOD int n_chunks() const { return (int)((n + WIDTH - 1) / WIDTH); }

    // Whether chunks begin at multiples of 16 bytes, and there is no rest.
    METHOD bool has_whole_chunks() const { return n % WIDTH == 0 && is_aligned(products) && is_aligned(bias); }

    METHOD float sum(i64 idx) const {
        float product = number(__ldg(products + idx));
        return bias ? product + __ldg(bias + idx) : product;
    }

    // The sums of a chunk; -infinity past the end of the row.
    METHOD void read_sums(int chunk, float (&sums)[WIDTH]) const {
        i64 first = (i64)chunk * WIDTH;
#pragma unroll
        for (int idx = 0; idx < WIDTH; idx++) sums[idx] = first + idx < n ? sum(first + idx) : least_number();
    }

    // The sums of a whole chunk.
    METHOD void read_whole(int chunk, float (&sums)[WIDTH]) const {
        i64 first = (i64)chunk * WIDTH;
        read_products(products + first, sums);
        if (!bias) return;
#pragma unroll
        for (int part = 0; part < WIDTH; part += FOUR) {
            Numbers<FOUR> of_bias = read<FOUR>(bias + first + part);
#pragma unroll
            for (int idx = 0; idx < FOUR; idx++) sums[part + idx] += of_bias.x[idx];
        }
    }
};

// How a row is divided: in step j, thread t reads chunk `j * TOPK_THREADS + t`; the chunks of `1 << log_steps` steps
// of a thread are a group.
struct Groups {
    int log_steps;
    // Groups of a thread.
    int n_of_thread;

    METHOD Groups(int n_chunks, int k) {
        int most = min(max(power_of_two_from(GROUPS_FOR_EACH * k), LEAST_GROUPS), MOST_GROUPS);
        most = max(most, power_of_two_from(LEAST_GROUPS_FOR_EACH * k)) / TOPK_THREADS;
        int n_steps = (n_chunks + TOPK_THREADS - 1) / TOPK_THREADS;
        log_steps = 0;
        while (((n_steps - 1) >> log_steps) + 1 > most) log_steps++;
        n_of_thread = ((n_steps - 1) >> log_steps) + 1;
    }

    METHOD int n_groups() const { return n_of_thread * TOPK_THREADS; }

    // The chunk of this thread in a step.
    static METHOD int chunk(int step) { return step * TOPK_THREADS + thread(); }

    // Where this thread's group of an index is.
    static METHOD int group(int idx) { return idx * TOPK_THREADS + thread(); }
};

// What the threads of a block share.
struct Shared {
    // Keys of numbers that may be among the k largest.
    u64* candidates;
    u32 most_candidates;
    // The largest number of each group, ordered; and digits are counted here.
    u32* largest;
    // Groups that hold a candidate.
    u32* hits;
    u32 most_hits;
    // Three sums that the threads need one after the other.
    u32* sums;
    u32* n_candidates;
    u32* n_hits;
    // The digit that was chosen, what is looked for in it, and whether all of it is taken.
    u32* chosen;

    METHOD Shared(int n_groups, int k) {
        most_candidates = max(power_of_two_from(2 * k), LEAST_CANDIDATES);
        most_hits = k + k / 2 + 64;
        candidates = (u64*)shared_memory();
        largest = (u32*)(candidates + most_candidates);
        hits = largest + n_groups;
        sums = hits + most_hits;
        n_candidates = sums + 3;
        n_hits = n_candidates + 1;
        chosen = n_hits + 1;
    }

    METHOD void add_candidate(u64 key) const {
        u32 idx = atomicAdd(n_candidates, 1u);
        if (idx < most_candidates) candidates[idx] = key;
    }
};

// Writes the largest number of each group; `has_nan`: of the row, as far as the thread has read it.
template <bool WHOLE, class T>
DEVICE void find_largest(const ProductRow<T>& row, const Groups& groups, u32* largest, bool& has_nan) {
    constexpr int WIDTH = Chunk<T>::WIDTH, AT_ONCE = WHOLE ? Chunk<T>::AT_ONCE : 1;
    int n_chunks = row.n_chunks(), n_steps = groups.n_of_thread << groups.log_steps;
    int last_of_group = (1 << groups.log_steps) - 1;
    float most = least_number();
    for (int first = 0; first < n_steps; first += AT_ONCE) {
        float sums[AT_ONCE][WIDTH];
#pragma unroll
        for (int idx = 0; idx < AT_ONCE; idx++) {
            int chunk = groups.chunk(first + idx);
            if (chunk >= n_chunks) {
#pragma unroll
                for (int number = 0; number < WIDTH; number++) sums[idx][number] = least_number();
            } else if constexpr (WHOLE) {
                row.read_whole(chunk, sums[idx]);
            } else {
                row.read_sums(chunk, sums[idx]);
            }
        }
#pragma unroll
        for (int idx = 0; idx < AT_ONCE; idx++) {
#pragma unroll
            for (int number = 0; number < WIDTH; number++) {
                float x = sums[idx][number];
                has_nan |= x != x;
                most = fmaxf(most, x);
            }
            int step = first + idx;
            if ((step & last_of_group) == last_of_group && step < n_steps) {
                bool is_there = groups.chunk(step - last_of_group) < n_chunks;
                largest[groups.group(step >> groups.log_steps)] = is_there ? ordered(most) : 0;
                most = least_number();
            }
        }
    }
}

// The same; whether the row has no NaN.
template <class T>
DEVICE bool find_largest(const ProductRow<T>& row, const Groups& groups, u32* largest) {
    bool has_nan = false;
    if (row.has_whole_chunks())
        find_largest<true>(row, groups, largest, has_nan);
    else
        find_largest<false>(row, groups, largest, has_nan);
    return !__syncthreads_or(has_nan);
}

// A bound that at least k groups reach, and few more: the k-th largest number of groups, or as many of its first bits
// as are needed for that. Gives how many reach it; 0: there are fewer than k groups.
DEVICE u32 find_bound(const Groups& groups, u32 k, const Shared& shared, u32& bound) {
    bound = 0;
    u32 n_hits = 0;
    if (thread() < 3) shared.sums[thread()] = 0;
    __syncthreads();
    for (int bit = 31; bit >= 0; bit--) {
        u32 tried = bound | 1u << bit, n = 0;
        for (int idx = 0; idx < groups.n_of_thread; idx++) n += shared.largest[groups.group(idx)] >= tried;
        n = __reduce_add_sync(ALL_LANES, n);
        if (lane() == 0 && n > 0) atomicAdd(shared.sums + bit % 3, n);
        // That of the next bit; all have read it before the last barrier.
        if (thread() == 0) shared.sums[(bit + 2) % 3] = 0;
        __syncthreads();
        n = shared.sums[bit % 3];
        if (n >= k) {
            bound = tried;
            n_hits = n;
            if (n <= k + k / 8) break;
        }
    }
    return n_hits;
}

// Collects the numbers that reach the bound.
template <class T>
DEVICE void collect_hits(const ProductRow<T>& row, const Groups& groups, u32 n_hits, u32 bound, const Shared& shared) {
    constexpr int WIDTH = Chunk<T>::WIDTH;
    for (int idx = 0; idx < groups.n_of_thread; idx++) {
        int group = groups.group(idx);
        if (shared.largest[group] >= bound) shared.hits[atomicAdd(shared.n_hits, 1u)] = group;
    }
    __syncthreads();
    int n_chunks = row.n_chunks(), n_items = (int)(n_hits << groups.log_steps);
    for (int item = thread(); item < n_items; item += TOPK_THREADS) {
        u32 group = shared.hits[item >> groups.log_steps];
        int step = (group / TOPK_THREADS << groups.log_steps) + (item & ((1 << groups.log_steps) - 1));
        int chunk = step * TOPK_THREADS + group % TOPK_THREADS;
        if (chunk >= n_chunks) continue;
        float sums[WIDTH];
        row.read_sums(chunk, sums);
#pragma unroll
        for (int idx = 0; idx < WIDTH; idx++) {
            i64 at = (i64)chunk * WIDTH + idx;
            if (at < row.n && ordered(sums[idx]) >= bound) shared.add_candidate(key_of(sums[idx], (u32)at));
        }
    }
    __syncthreads();
}

// Runs `take(key)` for each number of the row.
template <class T, class Take>
DEVICE void for_each_key(const ProductRow<T>& row, Take take) {
#pragma unroll 4
    for (i64 idx = thread(); idx < row.n; idx += TOPK_THREADS) take(key_of(row.sum(idx), (u32)idx));
}

// Counts of keys by a digit. Those of a thread that come one after the other with the same one are counted first: the
// keys of a row may share a digit.
struct DigitCounter {
    u32* counts;
    u32 digit = 0;
    u32 n = 0;

    METHOD void add(u32 next) {
        if (next != digit) {
            flush();
            digit = next;
        }
        n++;
    }

    METHOD void flush() {
        if (n > 0) atomicAdd(counts + digit, n);
        n = 0;
    }
};

// The first digits of the k-th largest key, and how many are looked for among the keys that share them.
struct Prefix {
    u64 digits = 0;
    u32 n_wanted;
    // Whether these are all that share them.
    bool is_all = false;

    METHOD Prefix(u32 k) : n_wanted(k) {}

    // Finds the next digit.
    template <class T>
    METHOD void lengthen(const ProductRow<T>& row, int shift, const Shared& shared) {
        u32* counts = shared.largest;
        __syncthreads();
        if (thread() < N_DIGITS) counts[thread()] = 0;
        __syncthreads();
        DigitCounter counter = {counts};
        u64 known = shift == 56 ? 0 : ~(u64)0 << (shift + 8);
        for_each_key(row, [&](u64 key) {
            if (((key ^ digits) & known) == 0) counter.add(key >> shift & (N_DIGITS - 1));
        });
        counter.flush();
        __syncthreads();
        if (thread() < N_DIGITS) {
            u32 n_above = 0, n = counts[thread()];
            for (int digit = thread() + 1; digit < N_DIGITS; digit++) n_above += counts[digit];
            if (n_above < n_wanted && n_above + n >= n_wanted) {
                shared.chosen[0] = thread();
                shared.chosen[1] = n_wanted - n_above;
                shared.chosen[2] = n_above + n == n_wanted;
            }
        }
        __syncthreads();
        digits |= (u64)shared.chosen[0] << shift;
        n_wanted = shared.chosen[1];
        is_all = shared.chosen[2];
    }
};

// Collects the k largest numbers of any row, digit by digit of their keys.
template <class T>
DEVICE void collect_by_digits(const ProductRow<T>& row, int k, const Shared& shared) {
    Prefix prefix(k);
#pragma unroll 1
    for (int shift = 56; shift >= 0 && !prefix.is_all; shift -= 8) {
        bool is_same_in_all = shift < 32 && (row.n - 1) >> shift == 0;
        if (is_same_in_all)
            prefix.digits |= (u64)(N_DIGITS - 1) << shift;
        else
            prefix.lengthen(row, shift, shared);
    }
    if (thread() == 0) *shared.n_candidates = 0;
    __syncthreads();
    for_each_key(row, [&](u64 key) {
        if (key >= prefix.digits) shared.add_candidate(key);
    });
    __syncthreads();
}

// Collects numbers of which the k largest are those of the row; gives how many.
template <class T>
DEVICE int collect(const ProductRow<T>& row, int k, const Groups& groups, const Shared& shared) {
    if (thread() == 0) *shared.n_candidates = *shared.n_hits = 0;
    __syncthreads();
    if (row.n <= shared.most_candidates) {
        for_each_key(row, [&](u64 key) { shared.add_candidate(key); });
        return (int)row.n;
    }
    u32 n = 0;
    if (find_largest(row, groups, shared.largest)) {
        u32 bound, n_hits = find_bound(groups, k, shared, bound);
        if (n_hits > 0 && n_hits <= shared.most_hits) {
            collect_hits(row, groups, n_hits, bound, shared);
            n = *shared.n_candidates;
        }
    }
    if (n > 0 && n <= shared.most_candidates) return (int)n;
    collect_by_digits(row, k, shared);
    return k;
}

template <class T>
DEVICE void topk(const T* products, const float* bias, i64 n_latents, int k, int with_relu, float* acts, i64* indices) {
    ProductRow<T> row = {products + blockIdx.x * n_latents, bias, n_latents};
    Groups groups(row.n_chunks(), k);
    Shared shared(groups.n_groups(), k);
    int n = collect(row, k, groups, shared);
    i64 first = (i64)blockIdx.x * k;
    write_largest<TOPK_THREADS>(shared.candidates, n, k, with_relu, acts + first, indices + first);
}

// Bytes of a row: 4 n read (2 n in bfloat16), 5 % of it again, 4 n of the bias (from the L2 cache), 12 k written.
// FLOPs: 2 n (a sum and a comparison). The largest numbers of groups, a bound that k of them reach, and then only the
// groups that do. In rows with NaN or too many equal numbers, the k largest are found digit by digit: up to 9 reads.
KERNEL(TOPK_THREADS, 2)
topk_float32(const float* products, const float* bias, i64 n_latents, int k, int with_relu, float* acts, i64* indices) {
    topk(products, bias, n_latents, k, with_relu, acts, indices);
}

KERNEL(TOPK_THREADS, 2)
topk_bfloat16(const bfloat16* products, const float* bias, i64 n_latents, int k, int with_relu, float* acts,
              i64* indices) {
    topk(products, bias, n_latents, k, with_relu, acts, indices);
}
