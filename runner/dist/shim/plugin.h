// The C ABI between the crate and its plug-ins, one for each kind of process group.
//
// Tensors cross as `at::Tensor*`, as tch holds them. Stores, groups and works are handles that are closed
// by their `*_close`. No exception leaves a plug-in: a call that fails fills its `Failure` and returns
// null or a code that is not 0. `src/plugin.rs` has the same declarations.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

enum FailureKind : int32_t {
  kNone = 0,
  kOther = 1,
  kTimeout = 2,
  kConnection = 3,
  kAddressInUse = 4,
};

struct Failure {
  int32_t kind;
  // Ends with 0.
  char text[2048];
};

// Owned by the caller, who gives it back to `bytes_close`.
struct Bytes {
  uint8_t* data;
  size_t len;
};

struct Splits {
  const int64_t* of_output;
  const int64_t* of_input;
  // Of each of the two.
  size_t len;
};

// Timeouts are in milliseconds; of collectives, -1 is the group's.
struct Plugin {
  uint32_t abi;
  const char* backend;
  // Of the headers it was compiled with.
  const char* torch_version;

  // `listen_fd`: a bound socket for the server, which it takes over; -1: it binds its own, on all interfaces.
  void* (*store_open)(const char* host, uint16_t port, int32_t is_server, int32_t listen_fd,
                      int64_t timeout_ms, const char* prefix, Failure*);
  int32_t (*store_set)(void* store, const char* key, const uint8_t* data, size_t len, Failure*);
  int32_t (*store_get)(void* store, const char* key, int64_t timeout_ms, Bytes*, Failure*);
  int32_t (*store_has)(void* store, const char* key, int32_t* has, Failure*);
  void (*store_close)(void* store);
  void (*bytes_close)(Bytes);

  void* (*group_open)(void* store, int32_t rank, int32_t size, int64_t timeout_ms,
                      const char* interface, Failure*);
  void (*group_close)(void* group);

  void* (*all_reduce)(void* group, void* tensor, int64_t timeout_ms, Failure*);
  void* (*broadcast)(void* group, void* tensor, int32_t root, int64_t timeout_ms, Failure*);
  void* (*all_gather)(void* group, void* output, void* input, int64_t timeout_ms, Failure*);
  void* (*all_to_all)(void* group, void* output, void* input, Splits, int64_t timeout_ms, Failure*);

  int32_t (*work_wait)(void* work, Failure*);
  // Waits no longer than this for a work of Gloo; `done`: whether it has ended.
  int32_t (*work_wait_for)(void* work, int64_t timeout_ms, int32_t* done, Failure*);
  int32_t (*work_is_done)(void* work);
  void (*work_close)(void* work);
};

// Grows with every change of what stands above.
constexpr uint32_t kAbi = 3;

__attribute__((visibility("default"))) const Plugin* sae_run_dist_plugin();
}
