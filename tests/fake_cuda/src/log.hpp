// What is written down: lines of tab-separated fields, appended to the file that FAKE_CUDA_LOG names.
//
//   op     NAME   KINDS      an operator and the kinds of its tensors on the device, once each
//   EVENT  WHAT   ADDRESSES  each time; the addresses of the callers in the program, innermost first
//
// A line is written at once, as a program may end without exit handlers, and several may share a file.

#pragma once

#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

namespace fake_cuda {

// The number that a variable has; `otherwise` if it is not set.
inline size_t number_of(const char* variable, size_t otherwise) {
  const char* text = std::getenv(variable);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

inline void write_line(const std::string& line) {
  static const int file = [] {
    const char* name = std::getenv("FAKE_CUDA_LOG");
    const int file = name ? open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (name && file < 0) {
      std::perror("fake CUDA: FAKE_CUDA_LOG");
    }
    return file;
  }();
  if (file >= 0 && write(file, line.data(), line.size()) < 0) {
    std::perror("fake CUDA: FAKE_CUDA_LOG");
  }
}

inline void write_op(const std::string& op) {
  static std::mutex mutex;
  static auto* seen = new std::set<std::string>; // threads may outlive static destructors
  std::lock_guard lock(mutex);
  if (seen->insert(op).second) {
    write_line("op\t" + op + "\n");
  }
}

// Where the program itself is in memory, without its libraries.
struct Range {
  uintptr_t base = 0;
  uintptr_t end = 0;
};

inline const Range& range_of_program() {
  static const Range range = [] {
    Range range;
    // The first object is the program.
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* into) {
          auto* range = static_cast<Range*>(into);
          range->base = info->dlpi_addr;
          for (int i = 0; i < info->dlpi_phnum; i++) {
            const auto& part = info->dlpi_phdr[i];
            if (part.p_type == PT_LOAD) {
              range->end = std::max<uintptr_t>(range->end, range->base + part.p_vaddr + part.p_memsz);
            }
          }
          return 1;
        },
        &range);
    return range;
  }();
  return range;
}

// Addresses in the program's file, innermost first, as addr2line takes them.
inline std::string callers() {
  void* frames[128];
  const int n_frames = backtrace(frames, 128);
  const Range& program = range_of_program();
  std::string callers;
  for (int i = 0; i < n_frames; i++) {
    const auto address = reinterpret_cast<uintptr_t>(frames[i]);
    if (address <= program.base || address > program.end) {
      continue;
    }
    char caller[24];
    // It is where the call returns to: the call is before it.
    std::snprintf(caller, sizeof caller, "%#lx ", static_cast<unsigned long>(address - program.base - 1));
    callers += caller;
  }
  return callers;
}

inline void write_event(const char* event, const std::string& what) {
  write_line(std::string(event) + "\t" + what + "\t" + callers() + "\n");
}

// A fault, as host code that uses a device address gets it: written down, and then it ends the program.
inline void on_fault(int, siginfo_t*, void*) {
  signal(SIGSEGV, SIG_DFL);
  void* frames[40];
  const int n_frames = backtrace(frames, 40);
  static const char message[] = "fake CUDA: a fault, as of host code that uses memory of the device\n";
  if (write(STDERR_FILENO, message, sizeof message - 1) > 0) {
    backtrace_symbols_fd(frames, n_frames, STDERR_FILENO);
  }
  write_event("fault", "host code at memory of the device");
}

inline const bool is_watching = [] {
  // The first call loads a library, which a signal handler must not do.
  callers();
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  return sigaction(SIGSEGV, &action, nullptr) == 0;
}();

} // namespace fake_cuda
