// What is computed token by token from rows of the decoder.

constexpr int SUM_THREADS = 256;
// Entries whose value and row are in shared memory at a time.
constexpr int N_STAGED = SUM_THREADS;
// Columns that a thread sums at a time, if they are read one by one, and rows that it reads at a time.
constexpr int COLUMNS_OF_THREAD = 2;
constexpr int ROWS_OF_THREAD = 4;

// Factors of rows, and where the rows begin.
struct Staged {
    float* factors;
    i64* starts;

    static constexpr int BYTES = N_STAGED * (sizeof(i64) + sizeof(float));

    METHOD Staged(unsigned char* memory) : factors((float*)(memory + N_STAGED * sizeof(i64))), starts((i64*)memory) {}
};

// `sum factors[i] * rows[starts[i]..]` for the block's columns, in the order of i. `n`: how many; `stage(i, factor,
// start)` gives them; `finish(column, sum)` takes the sums of N columns. Rows with factor 0 are not read.
template <int N, class Stage, class Finish>
DEVICE void sum_rows(i64 n, const float* rows, int width, const Staged& staged, Stage stage, Finish finish) {
    for (int pass = 0; pass < width; pass += COLUMNS_OF_THREAD * SUM_THREADS * N) {
        Numbers<N> sums[COLUMNS_OF_THREAD];
        int columns[COLUMNS_OF_THREAD];
#pragma unroll
        for (int idx = 0; idx < COLUMNS_OF_THREAD; idx++) {
            columns[idx] = pass + (thread() + idx * SUM_THREADS) * N;
            sums[idx] = zeros<N>();
        }
        for (i64 first = 0; first < n; first += N_STAGED) {
            if (pass == 0 || n > N_STAGED) {
                __syncthreads();
                float factor = 0;
                i64 start = 0;
                if (first + thread() < n) stage(first + thread(), factor, start);
                staged.factors[thread()] = factor;
                staged.starts[thread()] = start;
                __syncthreads();
            }
            int n_staged = (int)min(n - first, (i64)N_STAGED);
            for (int row = 0; row < n_staged; row += ROWS_OF_THREAD) {
                Numbers<N> of_row[ROWS_OF_THREAD][COLUMNS_OF_THREAD];
                float factors[ROWS_OF_THREAD];
#pragma unroll
                for (int at = 0; at < ROWS_OF_THREAD; at++) {
                    factors[at] = staged.factors[row + at];
                    const float* start = rows + staged.starts[row + at];
#pragma unroll
                    for (int idx = 0; idx < COLUMNS_OF_THREAD; idx++) {
                        bool is_read = factors[at] != 0 && columns[idx] < width;
                        of_row[at][idx] = is_read ? read<N>(start + columns[idx]) : zeros<N>();
                    }
                }
#pragma unroll
                for (int at = 0; at < ROWS_OF_THREAD; at++) {
#pragma unroll
                    for (int idx = 0; idx < COLUMNS_OF_THREAD; idx++)
                        add_scaled(sums[idx], factors[at], of_row[at][idx]);
                }
            }
        }
#pragma unroll
        for (int idx = 0; idx < COLUMNS_OF_THREAD; idx++)
            if (columns[idx] < width) finish(columns[idx], sums[idx]);
    }
}

template <int N>
DEVICE void sum_of_token(const float* values, const i64* indices, const float* rows, const float* bias, int n, int width,
                         float* out) {
    Staged staged(shared_memory());
    auto stage = [&](i64 idx, float& factor, i64& start) {
        factor = __ldg(values + idx);
        start = __ldg(indices + idx) * width;
    };
    auto finish = [&](int column, Numbers<N> sum) {
        if (bias) add_scaled(sum, 1, read<N>(bias + column));
        write(out + column, sum);
    };
    sum_rows<N>(n, rows, width, staged, stage, finish);
}

// Bytes of a token: 4 width (n + 1) + 12 n, of n entries, and the bias from a cache. FLOPs: 2 width n.
KERNEL(SUM_THREADS, 4)
sparse_times_rows(const float* values, const i64* indices, const i64* starts, const float* rows, const float* bias,
                  int k, int width, float* out) {
    EntriesOfToken entries(starts, k, blockIdx.x);
    const float* of_values = values + entries.first;
    const i64* of_indices = indices + entries.first;
    float* out_row = out + (i64)blockIdx.x * width;
    if (width % FOUR == 0 && is_aligned(rows) && is_aligned(bias) && is_aligned(out))
        sum_of_token<FOUR>(of_values, of_indices, rows, bias, entries.n, width, out_row);
    else
        sum_of_token<1>(of_values, of_indices, rows, bias, entries.n, width, out_row);
}

constexpr int ERROR_THREADS = 128;
constexpr int ERROR_WARPS = ERROR_THREADS / WARP;
// A warp works on a tile of the rows: 32 columns of all entries, on 4 entries at a time: 8 lanes read 128 bytes of a row.
// Where columns are read one by one, a tile has 8.
constexpr int LANES_OF_ROW = 8;
constexpr int ROWS_AT_ONCE = WARP / LANES_OF_ROW;
constexpr int TILE_COLUMNS = LANES_OF_ROW * FOUR;
// Rows that a lane waits for at the same time.
constexpr int ROWS_OF_LANE = 8;
// Entries whose columns are kept in shared memory from the reconstruction to the gradient: 99 KB. Of more, the rows
// are read twice.
constexpr int MOST_KEPT = 192;

// A token, its entries, and the decoder.
struct Token {
    const float* acts;
    const i64* indices;
    const float* w_dec;
    const float* b_dec;
    const float* target;
    float* grad_out;
    int n;
    int width;
    // Whether rows of entries with activation 0 are read, too.
    bool reads_idle;
    // The warp's part of shared memory. For each entry, the gradient at its activation: `[n]`.
    float* dots;
    // The rows' columns: `[n, TILE_COLUMNS]`, or fewer.
    float* kept;

    METHOD int part() const { return lane() / LANES_OF_ROW; }

    // What a lane keeps of an entry.
    template <int N>
    METHOD float* kept_part(int entry) const {
        return kept + (entry * LANES_OF_ROW + lane() % LANES_OF_ROW) * N;
    }

    // Columns of an entry's row; zeros if it is not read.
    template <int N>
    METHOD Numbers<N> row_part(float act, int entry, int column, int end) const {
        bool is_read = (act != 0 || (reads_idle && entry < end)) && column < width;
        return is_read ? read<N>(w_dec + __ldg(indices + entry) * width + column) : zeros<N>();
    }

    METHOD float act(int entry, int end) const { return entry < end ? __ldg(acts + entry) : 0; }

    // The sum of the columns of the entries from `begin` to `end`.
    template <int N, bool KEEPS>
    METHOD Numbers<N> decoded(int column, int begin, int end) const {
        Numbers<N> sum = zeros<N>();
        for (int first = begin + part(); first < end; first += ROWS_OF_LANE * ROWS_AT_ONCE) {
            Numbers<N> rows[ROWS_OF_LANE];
            float factors[ROWS_OF_LANE];
#pragma unroll
            for (int idx = 0; idx < ROWS_OF_LANE; idx++) {
                int entry = first + idx * ROWS_AT_ONCE;
                factors[idx] = act(entry, end);
                rows[idx] = row_part<N>(factors[idx], entry, column, end);
            }
#pragma unroll
            for (int idx = 0; idx < ROWS_OF_LANE; idx++) {
                int entry = first + idx * ROWS_AT_ONCE;
                add_scaled(sum, factors[idx], rows[idx]);
                if (KEEPS && entry < end) write(kept_part<N>(entry), rows[idx]);
            }
        }
#pragma unroll
        for (int idx = 0; idx < N; idx++) {
#pragma unroll
            for (int away = LANES_OF_ROW; away < WARP; away *= 2)
                sum.x[idx] += __shfl_xor_sync(ALL_LANES, sum.x[idx], away);
        }
        return sum;
    }

    // Adds the columns' part of `grad . row` for each of these entries.
    template <int N, bool KEEPS>
    METHOD void add_dots(int column, const Numbers<N>& grad, int begin, int end) const {
#pragma unroll 4
        for (int first = begin; first < end; first += ROWS_AT_ONCE) {
            int entry = first + part();
            float sum = 0;
            if (KEEPS && entry < end)
                sum = dot(grad, read_own<N>(kept_part<N>(entry)));
            else if (!KEEPS)
                sum = dot(grad, row_part<N>(act(entry, end), entry, column, end));
#pragma unroll
            for (int away = 1; away < LANES_OF_ROW; away *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, away);
            if (lane() % LANES_OF_ROW == 0 && entry < end) dots[entry] += sum;
        }
    }

    // Whether its pre-activation has a gradient.
    METHOD bool is_reached(int entry) const { return reads_idle || __ldg(acts + entry) > 0; }

    METHOD void clear_dots() const {
        for (int entry = lane(); entry < n; entry += WARP) dots[entry] = 0;
        __syncwarp();
    }

    // The warp's tiles; gives the lane's part of the squared error.
    template <int N, bool KEEPS>
    METHOD double tiles() const {
        double squares = 0;
        clear_dots();
        constexpr int COLUMNS = LANES_OF_ROW * N;
        for (int tile = warp() * COLUMNS; tile < width; tile += ERROR_WARPS * COLUMNS) {
            int column = tile + lane() % LANES_OF_ROW * N;
            Numbers<N> error = zeros<N>(), grad = zeros<N>(), sum = decoded<N, KEEPS>(column, 0, n);
            if (column < width) {
                add_scaled(sum, 1, read<N>(b_dec + column));
                error = read<N>(target + column);
#pragma unroll
                for (int idx = 0; idx < N; idx++) {
                    error.x[idx] = sum.x[idx] - error.x[idx];
                    grad.x[idx] = 2 * error.x[idx];
                }
                if (part() == 0) {
                    write(grad_out + column, grad);
                    squares += dot(error, error);
                }
            }
            // A lane keeps what it needs itself, so none waits for another.
            add_dots<N, KEEPS>(column, grad, 0, n);
        }
        return squares;
    }
};

template <int N>
DEVICE double squares_of_token(const Token& token) {
    return token.n <= MOST_KEPT ? token.tiles<N, true>() : token.tiles<N, false>();
}

// Bytes of a token: 4 width (k + 2) + 16 k (twice as many of the rows where k is above 192), and b_dec from a cache.
// FLOPs: 4 width k. A row's columns are kept in shared memory from the reconstruction to the gradient.
KERNEL(ERROR_THREADS, 5)
squared_error(const float* acts, const i64* indices, const float* w_dec, const float* b_dec, const float* target, int k,
              int width, float* grad_out, float* grad_pre, double* sums) {
    i64 entry = (i64)blockIdx.x * k, column = (i64)blockIdx.x * width;
    float* dots = (float*)shared_memory();
    float* kept = dots + ERROR_WARPS * k;
    Token token = {acts + entry,
                   indices + entry,
                   w_dec,
                   b_dec,
                   target + column,
                   grad_out + column,
                   k,
                   width,
                   false,
                   dots + warp() * k,
                   kept + warp() * k * TILE_COLUMNS};
    bool aligned = width % FOUR == 0 && is_aligned(w_dec) && is_aligned(b_dec) && is_aligned(target) &&
                   is_aligned(grad_out);
    double squares = sum_of_warp(aligned ? squares_of_token<FOUR>(token) : squares_of_token<1>(token));
    __syncthreads();
    for (int idx = thread(); idx < k; idx += ERROR_THREADS) {
        float grad = 0;
#pragma unroll
        for (int of_warp = 0; of_warp < ERROR_WARPS; of_warp++) grad += dots[of_warp * k + idx];
        grad_pre[entry + idx] = token.is_reached(idx) ? grad : 0;
    }
    __syncthreads();
    double* of_warps = (double*)shared_memory();
    if (lane() == 0) of_warps[warp()] = squares;
    __syncthreads();
    if (thread() > 0) return;
    double sum = 0;
#pragma unroll
    for (int of_warp = 0; of_warp < ERROR_WARPS; of_warp++) sum += of_warps[of_warp];
    sums[blockIdx.x] = sum;
}
