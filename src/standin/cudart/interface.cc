// standin.h for the other stand-ins, and the report at the end.
#include "src/standin/core/peer_memory.h"
#include "src/standin/cudart/runtime.h"
#include "src/standin/standin.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>

namespace convoy::standin {

namespace {

struct sigaction before {};

void write_report(bool ended) {
  Machine* m = Machine::existing();
  // Children that were forked tell what they themselves found; programs that used nothing, nothing.
  if (m == nullptr || !m->is_own_process()) return;
  for (int d = 0; d < m->devices(); ++d) {
    for (const std::string& damage : m->memory(d).check()) m->finding("out of bounds", damage);
  }
  m->write_report(ended);
}

// A program that touches device memory itself. Ends as it would on a GPU, but says why.
void on_fault(int signal, siginfo_t* info, void* context) {
  const int device = device_of(info->si_addr);
  if (Machine::existing() != nullptr && device >= 0 && device < Machine::get().devices()) {
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
    write_report(true);
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
    std::atexit([] { write_report(true); });
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
    if (machine().is_tracked(range.data, range.bytes)) {
      accesses.push_back({range.data, range.bytes, range.write != 0});
    }
  }
  // The context goes when the task does, run or not.
  const std::shared_ptr<void> context(work->context, [drop = work->drop](void* c) {
    if (drop != nullptr) drop(c);
  });
  machine().enqueue(stream_of(static_cast<cudaStream_t>(stream)), work->name, std::move(accesses),
                    [run = work->run, context] { run(context.get()); });
  return cudaSuccess;
}

void* standin_alias(const void* address) {
  return alias_of(address);
}

int standin_device_of(const void* address) {
  return device_of(address);
}

int standin_export_device(int device, StandinPeerDevice* out) {
  if (!valid_device(device)) return 0;
  *out = machine().memory(device).exported();
  return 1;
}

void* standin_open_peer(const StandinPeerDevice* peer, char* why, size_t why_bytes) {
  std::string text;
  const uintptr_t begin = open_peer(*peer, text);
  if (begin == 0) std::snprintf(why, why_bytes, "%s", text.c_str());
  return reinterpret_cast<void*>(begin);
}

void* standin_device_base(int device) {
  return reinterpret_cast<void*>(kDeviceBase + static_cast<uintptr_t>(device) * kDeviceStride);
}

void standin_finding(const char* kind, const char* text) {
  machine().finding(kind, text);
}

int standin_unsupported(const char* call) {
  const std::string text =
      std::string(call) + " is not part of the stand-in: what needs it can't be rehearsed";
  machine().finding("unsupported call", text);
  return cudaErrorNotSupported;
}

void standin_write_report(void) {
  write_report(false);
}

}  // extern "C"
