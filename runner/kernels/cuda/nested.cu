// Errors of reconstructions from a token's first latents, up to one end after the other, and from all of them.

// The most reconstructions.
constexpr int MOST_LEVELS = 16;

// Below which latent those of each reconstruction are, rising, and the weight of its squared error.
struct Levels {
    int n;
    u32 ends[MOST_LEVELS];
    float weights[MOST_LEVELS];
};

// A token's reconstructions. A level's entries are those that its reconstruction has and the one before it has not.
struct Nesting {
    int n_levels;
    // From a level's gradient to the next one's.
    i64 stride;
    // Shared memory of the block: weights of the levels, where their entries begin, and where the last ones end.
    float* weights;
    int* bounds;
    // Of the warp: parts of squared errors, `[n_levels, LANES_OF_ROW]`, and a tile's errors, `[n_levels, TILE_COLUMNS]`.
    double* squares;
    float* errors;

    static constexpr int N_BOUNDS = MOST_LEVELS + FOUR;
    static constexpr int HEAD_BYTES = MOST_LEVELS * sizeof(float) + N_BOUNDS * sizeof(int);

    METHOD Nesting(const Levels& levels, i64 stride, unsigned char* memory)
        : n_levels(levels.n), stride(stride), weights((float*)memory), bounds((int*)(weights + MOST_LEVELS)),
          squares((double*)(memory + HEAD_BYTES) + warp() * n_levels * LANES_OF_ROW),
          errors((float*)(memory + HEAD_BYTES) + (2 * ERROR_WARPS * LANES_OF_ROW + warp() * TILE_COLUMNS) * n_levels) {}

    // What is left of the block's memory.
    METHOD float* rest() const { return errors + (ERROR_WARPS - warp()) * n_levels * TILE_COLUMNS; }

    template <int N>
    METHOD float* error_part(int level) const {
        return errors + level * TILE_COLUMNS + lane() % LANES_OF_ROW * N;
    }

    // All threads of the block. The latents of a token rise.
    METHOD void begin(const Levels& levels, const Token& token) const {
        u32 end = 0;
        float weight = 0;
        // A thread takes a level: of indices that are known, the arguments need not be copied.
#pragma unroll
        for (int level = 0; level < MOST_LEVELS; level++) {
            if (thread() == level) {
                end = levels.ends[level];
                weight = levels.weights[level];
            }
        }
        if (thread() < n_levels) {
            weights[thread()] = weight;
            bounds[thread() + 1] = n_below(token, end);
        }
        if (thread() == 0) bounds[0] = 0;
        for (int idx = lane(); idx < n_levels * LANES_OF_ROW; idx += WARP) squares[idx] = 0;
        __syncthreads();
    }

    // How many of the token's latents are below `end`.
    METHOD int n_below(const Token& token, u32 end) const {
        int from = 0, to = token.n;
        while (from < to) {
            int middle = from + (to - from) / 2;
            if (__ldg(token.indices + middle) < end)
                from = middle + 1;
            else
                to = middle;
        }
        return from;
    }

    // The warp's tiles. KEEPS: whether the entries get their gradients here.
    template <int N, bool KEEPS>
    METHOD void tiles(const Token& token) const {
        if (KEEPS) token.clear_dots();
        constexpr int COLUMNS = LANES_OF_ROW * N;
        for (int tile = warp() * COLUMNS; tile < token.width; tile += ERROR_WARPS * COLUMNS) {
            int column = tile + lane() % LANES_OF_ROW * N;
            decode<N, KEEPS>(token, column);
            __syncwarp();
            sum_from_the_last<N, KEEPS>(token, column);
            __syncwarp();
        }
    }

    // One reconstruction after the other, and their errors.
    template <int N, bool KEEPS>
    METHOD void decode(const Token& token, int column) const {
        bool is_inside = column < token.width;
        Numbers<N> sum = is_inside ? read<N>(token.b_dec + column) : zeros<N>();
        Numbers<N> target = is_inside ? read<N>(token.target + column) : zeros<N>();
        for (int level = 0; level < n_levels; level++) {
            add_scaled(sum, 1, token.decoded<N, KEEPS>(column, bounds[level], bounds[level + 1]));
            if (token.part() > 0) continue;
            Numbers<N> error = sum;
            add_scaled(error, -1, target);
            write(error_part<N>(level), error);
            squares[level * LANES_OF_ROW + lane()] += dot(error, error);
        }
    }

    // A level's entries get the gradients at its own reconstruction and at all later ones.
    template <int N, bool KEEPS>
    METHOD void sum_from_the_last(const Token& token, int column) const {
        Numbers<N> grad = zeros<N>();
        for (int level = n_levels - 1; level >= 0; level--) {
            add_scaled(grad, 2 * weights[level], read_own<N>(error_part<N>(level)));
            if (token.part() == 0 && column < token.width) write(token.grad_out + level * stride + column, grad);
            if (KEEPS) token.add_dots<N, true>(column, grad, bounds[level], bounds[level + 1]);
        }
    }

    // The gradients at entries whose rows were not kept, from what the block has written.
    template <int N>
    METHOD void dots_of_rows(const Token& token, float* grad_acts) const {
        for (int level = 0; level < n_levels; level++) {
            DotRows<ERROR_WARPS, true> of_level = {token.grad_out + level * stride, token.w_dec, nullptr, token.width};
            int begin = bounds[level], n = bounds[level + 1] - begin;
            of_level.template for_each<N>(token.indices + begin, n, [&](int idx, i64, float dot) {
                grad_acts[begin + idx] = token.is_reached(begin + idx) ? dot : 0;
            });
        }
    }
};

template <int N>
DEVICE void errors_of_token(const Token& token, const Nesting& nesting, int most_kept, float* grad_acts) {
    if (token.n > most_kept) {
        nesting.tiles<N, false>(token);
        __syncthreads();
        nesting.dots_of_rows<N>(token, grad_acts);
        return;
    }
    nesting.tiles<N, true>(token);
    __syncthreads();
    const float* dots = nesting.rest();
    for (int idx = thread(); idx < token.n; idx += ERROR_THREADS) {
        float grad = 0;
#pragma unroll
        for (int of_warp = 0; of_warp < ERROR_WARPS; of_warp++) grad += dots[of_warp * most_kept + idx];
        grad_acts[idx] = token.is_reached(idx) ? grad : 0;
    }
}

// Bytes of a token: 4 width (n + 1 + levels) + 16 n, of n entries, and b_dec from a cache; the rows twice where n is
// above `most_kept`. FLOPs: 4 width n. `grad_out`: `[levels, n_tokens, width]`, `sums`: `[levels, n_tokens]`.
KERNEL(ERROR_THREADS, 4)
nested_errors(const float* acts, const i64* indices, const i64* starts, const float* w_dec, const float* b_dec,
              const float* target, Levels levels, int most_kept, int reads_idle, i64 n_tokens, int width,
              float* grad_out, float* grad_acts, double* sums) {
    EntriesOfToken entries(starts, 0, blockIdx.x);
    i64 column = (i64)blockIdx.x * width;
    Nesting nesting(levels, n_tokens * width, shared_memory());
    float* dots = nesting.rest();
    float* kept = dots + ERROR_WARPS * most_kept;
    Token token = {acts + entries.first,
                   indices + entries.first,
                   w_dec,
                   b_dec,
                   target + column,
                   grad_out + column,
                   entries.n,
                   width,
                   reads_idle != 0,
                   dots + warp() * most_kept,
                   kept + warp() * most_kept * TILE_COLUMNS};
    nesting.begin(levels, token);
    bool aligned = width % FOUR == 0 && is_aligned(w_dec) && is_aligned(b_dec) && is_aligned(target) &&
                   is_aligned(grad_out);
    if (aligned)
        errors_of_token<FOUR>(token, nesting, most_kept, grad_acts + entries.first);
    else
        errors_of_token<1>(token, nesting, most_kept, grad_acts + entries.first);
    if (thread() >= levels.n) return;
    const double* squares = (const double*)(shared_memory() + Nesting::HEAD_BYTES);
    double sum = 0;
    for (int of_warp = 0; of_warp < ERROR_WARPS; of_warp++)
        for (int idx = 0; idx < LANES_OF_ROW; idx++)
            sum += squares[(of_warp * levels.n + thread()) * LANES_OF_ROW + idx];
    sums[thread() * n_tokens + blockIdx.x] = sum;
}
