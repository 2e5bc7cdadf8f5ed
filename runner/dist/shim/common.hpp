// What both plug-ins share: a file includes this, defines `make_backend` and `kBackend`, and has a plug-in.
#pragma once

#include "plugin.h"

#include "../../setup/glibc.hpp"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/version.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

namespace {

using StorePtr = c10::intrusive_ptr<c10d::Store>;
using BackendPtr = c10::intrusive_ptr<c10d::Backend>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using Millis = std::chrono::milliseconds;

// Defined by the plug-in. `interface` is empty where the library shall choose.
extern const char* const kBackend;
BackendPtr make_backend(
    const StorePtr& store,
    int rank,
    int size,
    Millis timeout,
    const std::string& interface);

StorePtr& as_store(void* handle) {
  return *static_cast<StorePtr*>(handle);
}

BackendPtr& as_backend(void* handle) {
  return *static_cast<BackendPtr*>(handle);
}

WorkPtr& as_work(void* handle) {
  return *static_cast<WorkPtr*>(handle);
}

at::Tensor& as_tensor(void* handle) {
  return *static_cast<at::Tensor*>(handle);
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

// Gloo throws plain runtime errors, and stores one type for several causes: the words tell more.
FailureKind kind_of(const std::string& text) {
  if (contains(text, "EADDRINUSE") || contains(text, "Address already in use")) {
    return kAddressInUse;
  }
  for (const char* sign : {"imed out", "imeout", "TIMEDOUT"}) {
    if (contains(text, sign)) {
      return kTimeout;
    }
  }
  for (const char* sign :
       {"onnection", "Broken pipe", "ECONN", "recvBytes", "failed to recv", "peer", "remote process"}) {
    if (contains(text, sign)) {
      return kConnection;
    }
  }
  return kOther;
}

void fill(Failure* failure, const std::string& text) {
  failure->kind = kind_of(text);
  // The first line; c10 adds a stack of addresses.
  const std::string line = text.substr(0, text.find('\n'));
  const size_t len = std::min(line.size(), sizeof(failure->text) - 1);
  std::memcpy(failure->text, line.data(), len);
  failure->text[len] = 0;
}

// Runs `call`; what it throws goes into `failure`. True: it returned.
template <typename Call>
bool guarded(Failure* failure, Call&& call) {
  failure->kind = kNone;
  try {
    call();
    return true;
  } catch (const c10::Error& error) {
    fill(failure, error.what_without_backtrace());
  } catch (const std::exception& error) {
    fill(failure, error.what());
  } catch (...) {
    fill(failure, "an exception that is none of the standard library's");
  }
  return false;
}

template <typename Ptr, typename Make>
void* made(Failure* failure, Make&& make) {
  Ptr* handle = nullptr;
  guarded(failure, [&] { handle = new Ptr(make()); });
  return handle;
}

void* store_open(
    const char* host,
    uint16_t port,
    int32_t is_server,
    int32_t listen_fd,
    int64_t timeout_ms,
    const char* prefix,
    Failure* failure) {
  return made<StorePtr>(failure, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = is_server != 0;
    if (listen_fd >= 0) {
      options.masterListenFd = listen_fd;
    }
    // Who is missing is told better by the ranks' own greetings.
    options.waitWorkers = false;
    options.timeout = Millis(timeout_ms);
    auto store = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
    return StorePtr(c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), store));
  });
}

int32_t store_set(void* store, const char* key, const uint8_t* data, size_t len, Failure* failure) {
  guarded(failure, [&] { as_store(store)->set(key, std::vector<uint8_t>(data, data + len)); });
  return failure->kind;
}

int32_t store_get(void* store, const char* key, int64_t timeout_ms, Bytes* bytes, Failure* failure) {
  guarded(failure, [&] {
    as_store(store)->wait({key}, Millis(timeout_ms));
    const std::vector<uint8_t> value = as_store(store)->get(key);
    bytes->data = new uint8_t[value.size()];
    bytes->len = value.size();
    std::copy(value.begin(), value.end(), bytes->data);
  });
  return failure->kind;
}

int32_t store_has(void* store, const char* key, int32_t* has, Failure* failure) {
  guarded(failure, [&] { *has = as_store(store)->check({key}) ? 1 : 0; });
  return failure->kind;
}

// Connections to peers that are gone may make destructors throw.
template <typename Ptr>
void close(void* handle) {
  Failure ignored;
  guarded(&ignored, [&] { delete static_cast<Ptr*>(handle); });
}

void bytes_close(Bytes bytes) {
  delete[] bytes.data;
}

void* group_open(
    void* store,
    int32_t rank,
    int32_t size,
    int64_t timeout_ms,
    const char* interface,
    Failure* failure) {
  return made<BackendPtr>(failure, [&] {
    return make_backend(as_store(store), rank, size, Millis(timeout_ms), interface);
  });
}

template <typename Options>
Options with_timeout(int64_t timeout_ms) {
  Options options;
  options.timeout = Millis(timeout_ms);
  return options;
}

void* all_reduce(void* group, void* tensor, int64_t timeout_ms, Failure* failure) {
  return made<WorkPtr>(failure, [&] {
    std::vector<at::Tensor> tensors{as_tensor(tensor)};
    return as_backend(group)->allreduce(tensors, with_timeout<c10d::AllreduceOptions>(timeout_ms));
  });
}

void* broadcast(void* group, void* tensor, int32_t root, int64_t timeout_ms, Failure* failure) {
  return made<WorkPtr>(failure, [&] {
    std::vector<at::Tensor> tensors{as_tensor(tensor)};
    auto options = with_timeout<c10d::BroadcastOptions>(timeout_ms);
    options.rootRank = root;
    return as_backend(group)->broadcast(tensors, options);
  });
}

void* all_gather(void* group, void* output, void* input, int64_t timeout_ms, Failure* failure) {
  return made<WorkPtr>(failure, [&] {
    const auto options = with_timeout<c10d::AllgatherOptions>(timeout_ms);
    return as_backend(group)->_allgather_base(as_tensor(output), as_tensor(input), options);
  });
}

void* all_to_all(
    void* group,
    void* output,
    void* input,
    Splits splits,
    int64_t timeout_ms,
    Failure* failure) {
  return made<WorkPtr>(failure, [&] {
    std::vector<int64_t> of_output(splits.of_output, splits.of_output + splits.len);
    std::vector<int64_t> of_input(splits.of_input, splits.of_input + splits.len);
    const auto options = with_timeout<c10d::AllToAllOptions>(timeout_ms);
    return as_backend(group)->alltoall_base(
        as_tensor(output), as_tensor(input), of_output, of_input, options);
  });
}

int32_t work_wait(void* work, Failure* failure) {
  guarded(failure, [&] { as_work(work)->wait(); });
  return failure->kind;
}

int32_t work_wait_for(void* work, int64_t timeout_ms, int32_t* done, Failure* failure) {
  guarded(failure, [&] {
    // c10d throws if the time is over, and has no kind of exception for it.
    try {
      as_work(work)->wait(Millis(timeout_ms));
    } catch (...) {
      if (as_work(work)->isCompleted()) {
        throw;
      }
      *done = 0;
      return;
    }
    *done = 1;
  });
  return failure->kind;
}

int32_t work_is_done(void* work) {
  return as_work(work)->isCompleted() ? 1 : 0;
}

} // namespace

const Plugin* sae_run_dist_plugin() {
  static const Plugin plugin = {
      kAbi,
      kBackend,
      TORCH_VERSION,
      store_open,
      store_set,
      store_get,
      store_has,
      close<StorePtr>,
      bytes_close,
      group_open,
      close<BackendPtr>,
      all_reduce,
      broadcast,
      all_gather,
      all_to_all,
      work_wait,
      work_wait_for,
      work_is_done,
      close<WorkPtr>,
  };
  return &plugin;
}
