// standin.h for the other stand-ins, and the report at the end.
#include "src/standin/cudart/runtime.h"
#include "src/standin/standin.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <unistd.h>

namespace convoy::standin {

int unsupported_call(const char* name);
int unsupported_call(const char* name) {
  return unsupported(name);
}

namespace {

std::atomic<int> stopping{0};
struct sigaction before {};

// A program that touches device memory itself. Ends as it would on a GPU, but says why.
void on_fault(int signal, siginfo_t* info, void* context) {
  const int device = device_of(info->si_addr);
  if (device >= 0 && device < Machine::get().devices()) {
    Allocation allocation;
    bool inside = false;
    char text[300];
    const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    if (Machine::get().memory(device).find(at, allocation, inside)) {
      std::snprintf(text, sizeof text,
                    "the program itself read or wrote %p, which is %s allocation #%llu of %zu "
                    "bytes on device "
                    "%d (%s). Only kernels and copies may: move the data to the host first "
                    "(.cpu(), cudaMemcpy)",
                    info->si_addr, inside ? "in" : "beside",
                    static_cast<unsigned long long>(allocation.number), allocation.bytes, device,
                    allocation.owner.c_str());
    } else {
      std::snprintf(
          text, sizeof text,
          "the program itself read or wrote %p, an address of device %d where nothing is allocated",
          info->si_addr, device);
    }
    Machine::get().finding("host access", text);
    standin_write_report();
  }
  // The earlier handler, or the default, on the same fault.
  ::sigaction(signal, &before, nullptr);
  (void)context;
}

struct Guard {
  Guard() {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    ::sigaction(SIGSEGV, &action, &before);
    std::atexit([] {
      stopping = 1;
      standin_write_report();
    });
  }
};
const Guard guard;

}  // namespace
}  // namespace convoy::standin

using namespace convoy::standin;

extern "C" {

int standin_enqueue(void* stream, const StandinWork* work) {
  std::vector<OrderChecker::Access> accesses;
  for (size_t i = 0; i < work->n_ranges; ++i) {
    const StandinRange& range = work->ranges[i];
    const bool seen = device_of(range.data) >= 0 || machine().is_pinned(range.data, range.bytes);
    if (seen) accesses.push_back({range.data, range.bytes, range.write != 0});
  }
  // The context goes when the task does, run or not.
  const std::shared_ptr<void> context(work->context, [drop = work->drop](void* c) {
    if (drop != nullptr) drop(c);
  });
  machine().enqueue(stream_of(static_cast<cudaStream_t>(stream)), work->name, std::move(accesses),
                    [run = work->run, context] { run(context.get()); });
  return cudaSuccess;
}

int standin_stopping(void) {
  return stopping;
}

void* standin_alias(const void* address) {
  return alias_of(address);
}

int standin_device_of(const void* address) {
  return device_of(address);
}

int standin_export(const void* address, StandinExport* out) {
  const int device = device_of(address);
  Allocation allocation;
  bool inside = false;
  const auto at = reinterpret_cast<uintptr_t>(address);
  if (device < 0 || !machine().memory(device).find(at, allocation, inside) || !inside) {
    return cudaErrorInvalidValue;
  }
  const DeviceMemory& memory = machine().memory(device);
  *out = {::getpid(), memory.fd(), at - memory.begin(), allocation.begin + allocation.bytes - at};
  return cudaSuccess;
}

void standin_finding(const char* kind, const char* text) {
  machine().finding(kind, text);
}

void standin_write_report(void) {
  Machine& m = machine();
  for (int d = 0; d < m.devices(); ++d) {
    for (const std::string& damage : m.memory(d).check()) m.finding("out of bounds", damage);
  }
  if (m.settings().report.empty()) return;
  std::ofstream out(m.settings().report + "/" + std::to_string(::getpid()) + ".json");
  out << m.report() << '\n';
}

}  // extern "C"
