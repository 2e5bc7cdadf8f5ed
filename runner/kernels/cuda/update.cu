// The optimizer's update of weights, row by row: of a gradient that is summed up in shared memory and never written
// (`rows_`), or of one in memory (`dense_`).

// A gradient's row in shared memory.
struct SummedGradient {
    const float* row;

    template <int N>
    METHOD Numbers<N> at(int column) const {
        return read_own<N>(row + column);
    }
};

// A gradient's row in memory, which is divided when it is read.
struct DenseGradient {
    const float* row;
    float divisor;

    template <int N>
    METHOD Numbers<N> at(int column) const {
        Numbers<N> gradient = read<N>(row + column);
#pragma unroll
        for (int idx = 0; idx < N; idx++) gradient.x[idx] = __fdiv_rn(gradient.x[idx], divisor);
        return gradient;
    }
};

// `from + weight * (to - from)`, from the nearer end, as libtorch computes it.
DEVICE float lerp(float from, float to, float weight) {
    if (weight < 0.5f) return from + __fmul_rn(weight, to - from);
    return to - __fmul_rn(to - from, 1 - weight);
}

// Schedule-free signum: y to x, z - lr sign(g), the mean of x and z, and back. `z`: the row.
struct Signum {
    float lr;
    float to_x;
    float average;
    float to_y;
    float* z;

    METHOD bool is_aligned() const { return ::is_aligned(z); }

    METHOD Signum of_row(i64 start) const { return {lr, to_x, average, to_y, z + start}; }

    template <int N>
    METHOD void update(int column, const Numbers<N>& gradient, Numbers<N>& y) const {
        Numbers<N> of_z = read_own<N>(z + column);
#pragma unroll
        for (int idx = 0; idx < N; idx++) step(gradient.x[idx], y.x[idx], of_z.x[idx]);
        write(z + column, of_z);
    }

    METHOD void step(float gradient, float& y, float& z) const {
        float x = y + __fmul_rn(to_x, z - y);
        // A NaN is neither, and stays one.
        float sign = gradient > 0 ? 1 : gradient < 0 ? -1 : gradient * 0;
        z -= __fmul_rn(lr, sign);
        x = lerp(x, z, average);
        y = x + __fmul_rn(to_y, z - x);
    }
};

// Adam. `exp_avg`, `exp_avg_sq`: rows.
struct Adam {
    float lr_over_correction1;
    float one_minus_beta1;
    float one_minus_beta2;
    float correction2_sqrt;
    float eps;
    float* exp_avg;
    float* exp_avg_sq;

    METHOD bool is_aligned() const { return ::is_aligned(exp_avg) && ::is_aligned(exp_avg_sq); }

    METHOD Adam of_row(i64 start) const {
        return {lr_over_correction1, one_minus_beta1,  one_minus_beta2,   correction2_sqrt,
                eps,                 exp_avg + start, exp_avg_sq + start};
    }

    template <int N>
    METHOD void update(int column, const Numbers<N>& gradient, Numbers<N>& weight) const {
        Numbers<N> first = read_own<N>(exp_avg + column), second = read_own<N>(exp_avg_sq + column);
#pragma unroll
        for (int idx = 0; idx < N; idx++) step(gradient.x[idx], weight.x[idx], first.x[idx], second.x[idx]);
        write(exp_avg + column, first);
        write(exp_avg_sq + column, second);
    }

    METHOD void step(float gradient, float& weight, float& first, float& second) const {
        first = lerp(first, gradient, one_minus_beta1);
        second = lerp(second, __fmul_rn(gradient, gradient), one_minus_beta2);
        float denominator = __fdiv_rn(__fsqrt_rn(second), correction2_sqrt) + eps;
        weight -= __fmul_rn(__fdiv_rn(first, denominator), lr_over_correction1);
    }
};

// A row of weights and what it goes through.
struct WeightRow {
    float* weights;
    bfloat16* rounded;
    int width;
    int is_projected;
    // Shared memory.
    float* sums;

    // Without the gradient's part parallel to the row if it is projected: g - (g . w) w.
    template <int N, class Gradient, class Rule>
    METHOD void update(const Gradient& gradient, const Rule& rule) const {
        float parallel = is_projected ? sum_of_block<SUM_THREADS>(dot_of_thread<N>(gradient), sums) : 0;
#pragma unroll 1
        for (int column = thread() * N; column < width; column += SUM_THREADS * N) {
            Numbers<N> of_column = gradient.template at<N>(column);
            Numbers<N> weight = read_own<N>(weights + column);
            if (is_projected) add_scaled(of_column, -parallel, weight);
            rule.template update<N>(column, of_column, weight);
            write(weights + column, weight);
            if (rounded) write_rounded(rounded + column, weight);
        }
    }

    template <int N, class Gradient>
    METHOD float dot_of_thread(const Gradient& gradient) const {
        float sum = 0;
#pragma unroll 1
        for (int column = thread() * N; column < width; column += SUM_THREADS * N)
            sum += dot(gradient.template at<N>(column), read_own<N>(weights + column));
        return sum;
    }
};

template <int N, class Rule>
DEVICE void update_from_entries(const LatentEntries& entries, const float* dense, float divisor, const WeightRow& row,
                                const Rule& rule, const Staged& staged, float* summed) {
    entries.sum<N>(dense, row.width, staged, [&](int column, Numbers<N> sum) {
#pragma unroll
        for (int idx = 0; idx < N; idx++) sum.x[idx] = __fdiv_rn(sum.x[idx], divisor);
        write(summed + column, sum);
    });
    // Each thread reads what it wrote.
    SummedGradient gradient = {summed};
    row.update<N>(gradient, rule);
}

// What all rules have in common.
struct Update {
    int width;
    const float* divisor;
    int is_projected;
    float* weights;
    bfloat16* rounded;

    template <class Rule>
    METHOD bool is_aligned(const Rule& rule) const {
        return width % FOUR == 0 && ::is_aligned(weights) && rule.is_aligned() && (u64)rounded % 8 == 0;
    }

    METHOD i64 start() const { return (i64)blockIdx.x * width; }

    METHOD WeightRow row(float* sums) const {
        return {weights + start(), rounded ? rounded + start() : nullptr, width, is_projected, sums};
    }

    // Shared memory: what is staged, a sum for each warp, and the gradient's row.
    template <class Rule>
    METHOD void from_entries(const LatentEntries& entries, const float* dense, const Rule& rule) const {
        Staged staged(shared_memory());
        float* sums = (float*)(shared_memory() + Staged::BYTES);
        float* summed = sums + SUM_THREADS / WARP;
        float by = __ldg(divisor);
        Rule of_row = rule.of_row(start());
        if (is_aligned(rule) && ::is_aligned(dense))
            update_from_entries<FOUR>(entries, dense, by, row(sums), of_row, staged, summed);
        else
            update_from_entries<1>(entries, dense, by, row(sums), of_row, staged, summed);
    }

    template <class Rule>
    METHOD void from_dense(const float* gradient, const Rule& rule) const {
        float* sums = (float*)shared_memory();
        DenseGradient of_row = {gradient + start(), __ldg(divisor)};
        if (is_aligned(rule) && ::is_aligned(gradient))
            row(sums).update<FOUR>(of_row, rule.of_row(start()));
        else
            row(sums).update<1>(of_row, rule.of_row(start()));
    }
};

// Bytes of a row: 4 width n + 20 n of n entries, and 16 width of the weights (18 with the rounded copy). FLOPs: 2 width
// n, 10 width (14 if it is projected).
KERNEL(SUM_THREADS, 4)
rows_signum(const i64* order, const i64* starts, const float* values, const float* dense, const i64* tokens, int k,
            int width, const float* divisor, int is_projected, float lr, float to_x, float average, float to_y, float* y,
            float* z, bfloat16* rounded) {
    Update update = {width, divisor, is_projected, y, rounded};
    Signum rule = {lr, to_x, average, to_y, z};
    update.from_entries(LatentEntries(order, starts, blockIdx.x, values, tokens, k), dense, rule);
}

// Bytes of a row: 4 width n + 20 n of n entries, and 24 width of the weights (26 with the rounded copy). FLOPs: 2 width
// n, 15 width (19 if it is projected).
KERNEL(SUM_THREADS, 4)
rows_adam(const i64* order, const i64* starts, const float* values, const float* dense, const i64* tokens, int k,
          int width, const float* divisor, int is_projected, float lr_over_correction1, float one_minus_beta1,
          float one_minus_beta2, float correction2_sqrt, float eps, float* weight, float* exp_avg, float* exp_avg_sq,
          bfloat16* rounded) {
    Update update = {width, divisor, is_projected, weight, rounded};
    Adam rule = {lr_over_correction1, one_minus_beta1, one_minus_beta2, correction2_sqrt, eps, exp_avg, exp_avg_sq};
    update.from_entries(LatentEntries(order, starts, blockIdx.x, values, tokens, k), dense, rule);
}

// Bytes of a row: 20 width (22 with the rounded copy); if it is projected, 8 width of them twice, from a cache the
// second time. FLOPs: as rows_signum without entries.
KERNEL(SUM_THREADS, 4)
dense_signum(const float* gradient, int width, const float* divisor, int is_projected, float lr, float to_x,
             float average, float to_y, float* y, float* z, bfloat16* rounded) {
    Update update = {width, divisor, is_projected, y, rounded};
    update.from_dense(gradient, Signum{lr, to_x, average, to_y, z});
}

// Bytes of a row: 28 width (30 with the rounded copy), and likewise.
KERNEL(SUM_THREADS, 4)
dense_adam(const float* gradient, int width, const float* divisor, int is_projected, float lr_over_correction1,
           float one_minus_beta1, float one_minus_beta2, float correction2_sqrt, float eps, float* weight,
           float* exp_avg, float* exp_avg_sq, bfloat16* rounded) {
    Update update = {width, divisor, is_projected, weight, rounded};
    Adam rule = {lr_over_correction1, one_minus_beta1, one_minus_beta2, correction2_sqrt, eps, exp_avg, exp_avg_sq};
    update.from_dense(gradient, rule);
}
