// Streams: what is started on one is done in order, and what is started on two in no order unless an event says so.
//
// Everything is computed at once here, so nothing goes wrong where order is missing. Instead each use of memory is
// compared with the uses before it: a `race` is written down where a GPU could do the two in the other order.

#pragma once

#include "log.hpp"

#include <c10/core/Stream.h>

#include <array>
#include <map>
#include <memory>

namespace fake_cuda {

using StreamId = size_t;
constexpr StreamId kDefault = 0;
constexpr size_t kStreams = 4;

// How much of each stream's work is done before something.
using Clock = std::array<uint64_t, kStreams>;

inline void join(Clock& clock, const Clock& other) {
  for (size_t i = 0; i < kStreams; i++) {
    clock[i] = std::max(clock[i], other[i]);
  }
}

// A use of memory: the stream, and and which piece of its work it is, from 1.
struct Use {
  StreamId stream = kDefault;
  uint64_t number = 0;

  bool is_before(const Clock& clock) const {
    return number <= clock[stream];
  }
};

// The uses of a block of memory.
struct Uses {
  StreamId owner = kDefault;
  Use last_write;
  std::map<StreamId, Use> last_reads;
  // Other streams that the allocator was told of.
  std::set<StreamId> recorded;
};

// All devices share the streams: the tests have one at a time.
struct Streams {
  std::mutex mutex;
  std::array<Clock, kStreams> clocks{};
  // What the host has waited for: all that is started later is after it.
  Clock host{};
  StreamId n_given = 1;

  StreamId give() {
    std::lock_guard lock(mutex);
    return n_given < kStreams ? n_given++ : kStreams - 1;
  }
  // The next piece of work on a stream.
  Use start(StreamId stream) {
    std::lock_guard lock(mutex);
    join(clocks[stream], host);
    return {stream, ++clocks[stream][stream]};
  }
  Clock clock_of(StreamId stream) {
    std::lock_guard lock(mutex);
    return clocks[stream];
  }
  void wait_for(StreamId stream, const Clock& clock) {
    std::lock_guard lock(mutex);
    join(clocks[stream], clock);
  }
  void host_waits_for(StreamId stream) {
    std::lock_guard lock(mutex);
    join(host, clocks[stream]);
  }
};

inline Streams& streams = *new Streams;
inline thread_local StreamId current_stream = kDefault;

// The host waits for the current stream.
inline void host_waits(const std::string& what) {
  streams.host_waits_for(current_stream);
  write_event("wait", what);
}

// Notes a use of a block, and says whether it is after those that it must be after.
inline bool note_use(Uses& uses, const Use& use, bool is_write) {
  const Clock clock = streams.clock_of(use.stream);
  bool is_ordered = uses.last_write.is_before(clock);
  if (!is_write) {
    uses.last_reads[use.stream] = use;
    return is_ordered;
  }
  for (const auto& [stream, read] : uses.last_reads) {
    is_ordered &= read.is_before(clock);
  }
  uses.last_write = use;
  uses.last_reads.clear();
  return is_ordered;
}

// Whether the owner of a block may use its memory again: all uses are done by then, or are known to the allocator.
inline bool may_be_freed(const Uses& uses) {
  const Clock clock = streams.clock_of(uses.owner);
  const auto is_done = [&](const Use& use) {
    return use.is_before(clock) || uses.recorded.count(use.stream) != 0;
  };
  bool all = is_done(uses.last_write);
  for (const auto& [stream, read] : uses.last_reads) {
    all &= is_done(read);
  }
  return all;
}

} // namespace fake_cuda
