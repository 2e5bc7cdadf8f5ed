// The kernels as a library for the CPU: `sae_run_emulate` runs one of them.

#include "emulated.hpp"

#include <cstdio>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../common.cuh"
#include "../sort.cu"
#include "../topk.cu"
#include "../dots.cu"
#include "../tokens.cu"
#include "../nested.cu"
#include "../latents.cu"
#include "../update.cu"
#include "faulty.cu"

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Goes on at `to`, and leaves in `from` where to come back.
extern "C" __attribute__((visibility("hidden"))) void sae_run_switch(void** from, void* to);
asm(R"(
.text
.globl sae_run_switch
.hidden sae_run_switch
.type sae_run_switch, @function
sae_run_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size sae_run_switch, . - sae_run_switch
)");

namespace emulated {

thread_local Thread* current;
thread_local Index block_idx;

namespace {

constexpr unsigned MOST_THREADS = 1024;
constexpr unsigned MOST_WARPS = MOST_THREADS / WARP;
constexpr std::size_t STACK_BYTES = 16 << 10;
constexpr std::size_t MOST_SHARED_BYTES = 227 << 10;
constexpr std::size_t PAGE_BYTES = 4096;
constexpr std::size_t SHARED_PAGES_BYTES = (MOST_SHARED_BYTES + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
// Registers that a switch keeps.
constexpr int N_KEPT = 6;
// Device addresses of a device that is not there have this bit.
constexpr std::uint64_t MARK = std::uint64_t(1) << 54;

struct Warp {
    // Lanes that can run.
    unsigned ready;
    unsigned arrived;
    // Values of this meeting and of the one before it, which some lanes may not have read yet.
    std::uint64_t values[2][WARP];
    unsigned n_meetings;
    int line;
};

Warp fresh() {
    Warp warp = {};
    warp.ready = ALL_LANES;
    return warp;
}

struct Launch {
    void (*run)(void** args);
    void** args;
};

void* pages(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : memory;
}

// A block of threads; kept from launch to launch.
struct Block {
    std::vector<Thread> threads;
    Warp warps[MOST_WARPS];
    // Warps with lanes that can run.
    unsigned ready;
    unsigned n_ended;
    unsigned n_arrived;
    int line;
    bool flags, flag;
    bool is_backward;
    void* caller;
    Launch launch;
    std::string error;
    char* stacks = (char*)pages(MOST_THREADS * STACK_BYTES);
    char* shared_pages = (char*)pages(SHARED_PAGES_BYTES + PAGE_BYTES);
    unsigned char* shared;

    Block() {
        // Each switch is to another stack: of small pages there are too many.
        if (stacks) madvise(stacks, MOST_THREADS * STACK_BYTES, MADV_HUGEPAGE);
        if (shared_pages) mprotect(shared_pages + SHARED_PAGES_BYTES, PAGE_BYTES, PROT_NONE);
    }

    ~Block() {
        if (stacks) munmap(stacks, MOST_THREADS * STACK_BYTES);
        if (shared_pages) munmap(shared_pages, SHARED_PAGES_BYTES + PAGE_BYTES);
    }

    bool run(unsigned idx, unsigned n_threads, unsigned shared_bytes);
    void begin(Thread& thread);
    Thread* next(unsigned warp);
    void give_way();
    void give_up(const std::string& why);
};

thread_local std::unique_ptr<Block> block;
// Whether the blocks with even numbers run backward, instead of the others.
thread_local bool is_even_backward;

unsigned first_of(unsigned bits, bool is_backward) {
    return is_backward ? 31 - __builtin_clz(bits) : __builtin_ctz(bits);
}

// What a fibre does.
void run_thread() {
    block->launch.run(block->launch.args);
    block->n_ended++;
    current->waits_for = nullptr;
    block->give_way();
}

bool Block::run(unsigned idx, unsigned n_threads, unsigned shared_bytes) {
    block_idx = {idx};
    is_backward = (idx % 2 == 1) != is_even_backward;
    // Up to the page that cannot be touched, but for what 16 bytes ask for.
    shared = (unsigned char*)shared_pages + SHARED_PAGES_BYTES - (shared_bytes + 15) / 16 * 16;
    std::memset(shared, 0xff, shared_bytes);
    threads.resize(n_threads);
    for (unsigned thread = 0; thread < n_threads; thread++) {
        threads[thread].idx = {thread};
        begin(threads[thread]);
    }
    unsigned n_warps = n_threads / WARP;
    for (unsigned warp = 0; warp < n_warps; warp++) warps[warp] = fresh();
    ready = n_warps == 32 ? ~0u : (1u << n_warps) - 1;
    n_ended = n_arrived = 0;
    flags = false;
    current = next(0);
    sae_run_switch(&caller, current->stack);
    return error.empty();
}

// As if it had just been about to return to its first instruction.
void Block::begin(Thread& thread) {
    // Not all at the same distance from a page: they would be in each other's way in the cache.
    std::size_t offset = thread.idx.x * 192 % 4032 / 64 * 64;
    void** top = (void**)(stacks + (thread.idx.x + 1) * STACK_BYTES - 64 - offset);
    *--top = nullptr;
    *--top = (void*)run_thread;
    for (int idx = 0; idx < N_KEPT; idx++) *--top = nullptr;
    thread.stack = top;
}

// Takes a thread that can run, of this warp if there is one.
Thread* Block::next(unsigned warp) {
    if (warps[warp].ready == 0) {
        if (ready == 0) return nullptr;
        warp = first_of(ready, is_backward);
    }
    unsigned lane = first_of(warps[warp].ready, is_backward);
    warps[warp].ready &= ~(1u << lane);
    if (warps[warp].ready == 0) ready &= ~(1u << warp);
    return &threads[warp * WARP + lane];
}

// Runs the others until this thread can go on.
void Block::give_way() {
    Thread* from = current;
    Thread* to = next(from->idx.x / WARP);
    if (to == from) return;
    if (to) {
        current = to;
        sae_run_switch(&from->stack, to->stack);
        return;
    }
    if (n_ended < threads.size()) {
        std::string why = "threads wait for others that never come:";
        for (const Thread& thread : threads) {
            if (!thread.waits_for || why.size() > 500) continue;
            why += " " + std::to_string(thread.idx.x) + " for its " + thread.waits_for + " in line " +
                   std::to_string(thread.line) + ",";
        }
        why += " " + std::to_string(n_ended) + " have ended";
        give_up(why);
    }
    sae_run_switch(&from->stack, caller);
}

void Block::give_up(const std::string& why) {
    error = "block " + std::to_string(block_idx.x) + ", thread " + std::to_string(current->idx.x) + ": " + why;
    sae_run_switch(&current->stack, caller);
}

template <class T>
struct Argument {
    static T of(void* arg) { return *(T*)arg; }
};
template <class T>
struct Argument<T*> {
    static T* of(void* arg) { return (T*)(*(std::uint64_t*)arg & ~MARK); }
};

template <auto FUNCTION>
struct Call;
template <class... A, void (*FUNCTION)(A...)>
struct Call<FUNCTION> {
    static void run(void** args) { run(args, std::index_sequence_for<A...>()); }
    template <std::size_t... I>
    static void run(void** args, std::index_sequence<I...>) {
        FUNCTION(Argument<A>::of(args[I])...);
    }
};

const std::unordered_map<std::string, void (*)(void**)> KERNELS = {
#define NAMED(kernel) {#kernel, Call<kernel>::run}
    NAMED(topk_float32), NAMED(topk_bfloat16), NAMED(rescore_topk), NAMED(dots_at_entries),
    NAMED(sparse_times_rows), NAMED(squared_error), NAMED(nested_errors), NAMED(rows_gradient),
    NAMED(latent_sums), NAMED(fire_counts), NAMED(rows_signum), NAMED(rows_adam),
    NAMED(dense_signum), NAMED(dense_adam), NAMED(faulty_barrier), NAMED(faulty_lines),
    NAMED(faulty_lanes),
#undef NAMED
};

}  // namespace

bool meet_block(int line, bool flag) {
    Block& at = *block;
    if (at.n_arrived > 0 && at.line != line)
        at.give_up("it waits for its block in line " + std::to_string(line) + ", others in line " +
                   std::to_string(at.line));
    at.line = line;
    at.flags |= flag;
    if (++at.n_arrived < at.threads.size()) {
        current->line = line;
        current->waits_for = "block";
        at.give_way();
        return at.flag;
    }
    at.flag = at.flags;
    at.flags = false;
    at.n_arrived = 0;
    unsigned n_warps = (unsigned)at.threads.size() / WARP;
    for (unsigned warp = 0; warp < n_warps; warp++) at.warps[warp].ready = ALL_LANES;
    at.ready = n_warps == 32 ? ~0u : (1u << n_warps) - 1;
    // It is among those that can run now.
    at.give_way();
    return at.flag;
}

const std::uint64_t* meet_warp(int line, unsigned lanes, std::uint64_t value) {
    Block& at = *block;
    unsigned idx = current->idx.x / WARP, lane = current->idx.x % WARP;
    Warp& warp = at.warps[idx];
    if (lanes != ALL_LANES) at.give_up("not all lanes are asked for in line " + std::to_string(line));
    if (warp.arrived != 0 && warp.line != line)
        at.give_up("it waits for its warp in line " + std::to_string(line) + ", others in line " +
                   std::to_string(warp.line));
    warp.line = line;
    std::uint64_t* values = warp.values[warp.n_meetings % 2];
    values[lane] = value;
    warp.arrived |= 1u << lane;
    if (warp.arrived != ALL_LANES) {
        current->line = line;
        current->waits_for = "warp";
        at.give_way();
        return values;
    }
    warp.arrived = 0;
    warp.n_meetings++;
    warp.ready = ALL_LANES;
    at.ready |= 1u << idx;
    at.give_way();
    return values;
}

unsigned char* shared_memory() { return block->shared; }

unsigned sum_of_lanes(int line, unsigned lanes, unsigned value) {
    const std::uint64_t* values = meet_warp(line, lanes, value);
    unsigned sum = 0;
    for (int lane = 0; lane < WARP; lane++) sum += (unsigned)values[lane];
    return sum;
}

}  // namespace emulated

// Runs a kernel: `grid` blocks of `block` threads with `shared_bytes` of dynamic shared memory. `args`: pointers to the
// arguments. Not 0: it did not run to its end; see sae_run_emulate_error.
EXPORTED int sae_run_emulate(const char* kernel, unsigned grid, unsigned block, unsigned shared_bytes, void** args) {
    using namespace emulated;
    if (!emulated::block) emulated::block = std::make_unique<Block>();
    Block& at = *emulated::block;
    at.error.clear();
    auto found = KERNELS.find(kernel);
    if (found == KERNELS.end())
        at.error = std::string("there is no kernel `") + kernel + "`";
    else if (grid == 0 || block == 0 || block % WARP != 0 || block > MOST_THREADS || shared_bytes > MOST_SHARED_BYTES)
        at.error = "no such launch is possible";
    else if (!at.stacks || !at.shared_pages)
        at.error = "too little memory";
    if (!at.error.empty()) return 1;
    at.launch = {found->second, args};
    for (unsigned idx = 0; idx < grid; idx++)
        if (!at.run(idx, block, shared_bytes)) return 1;
    return 0;
}

// Whether this thread's next calls run the threads of a block in the opposite order.
EXPORTED void sae_run_emulate_order(int is_opposite) {
    emulated::is_even_backward = is_opposite != 0;
}

// Why the last call of this thread failed; valid until its next call.
EXPORTED const char* sae_run_emulate_error() {
    return emulated::block ? emulated::block->error.c_str() : "";
}
