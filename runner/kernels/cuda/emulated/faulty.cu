// Kernels with faults that the emulation must find.

KERNEL(64, 1)
faulty_barrier(int n_waiting) {
    if (thread() < n_waiting) __syncthreads();
}

KERNEL(64, 1)
faulty_lines(int n_first) {
    if (thread() < n_first)
        __syncthreads();
    else
        __syncthreads();
}

KERNEL(64, 1)
faulty_lanes(int n_lanes, float* sums) {
    if (lane() < n_lanes) sums[thread()] = sum_of_warp(1.0f);
}
