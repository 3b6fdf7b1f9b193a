// What one callback of the NCCL profiler plugin costs: `trace_nccl`, through
// `make bench BENCH=trace.nccl`.
//
//   call      ncclAllReduce: CollApi, Coll, their ends, at level collectives
//   kernel    KernelCh: start, time, end of each of 16 channels, which the proxy's thread does
//   step      ProxyStep: start, three states, end, at level spans
//   off       what is left of `call` at level off
// p50 and p99 of single callbacks between pieces of other work that empties the first-level cache,
// the counter's own reading taken off; callback_mean: one behind the other. Medians over rounds.
#include "trace/nccl_profiler/abi.h"
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

extern "C" {
extern convoy::trace::nccl::Plugin ncclProfiler_v6;
}

namespace {

using namespace convoy::trace;
using namespace convoy::trace::nccl;

constexpr int kRounds = 9;
constexpr int kOperations = 2000;
constexpr int kChannels = 16;

// Counts the ticks of each callback, or only makes it.
class Meter {
 public:
  explicit Meter(bool single) : single_(single), other_work_(single ? (48 << 10) / 8 : 0) {}
  template <class Body>
  void operator()(Body body) {
    ++calls;
    if (!single_) return body();
    for (size_t k = 0; k < other_work_.size(); k += 8) other_work_[k] += k;
    const uint64_t begin = __rdtsc();
    body();
    ticks.push_back(__rdtsc() - begin);
  }
  std::vector<uint64_t> ticks;
  uint64_t calls = 0;

 private:
  const bool single_;
  std::vector<uint64_t> other_work_;
};

uint64_t gpu_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

const Plugin& plugin = ncclProfiler_v6;
void* context = nullptr;

void* call(Meter& meter) {
  Description d{};
  d.type = event::kCollectiveCall;
  d.collective_call.function = "AllReduce";
  d.collective_call.dtype = "ncclBfloat16";
  d.collective_call.count = 1000;
  void *api = nullptr, *coll = nullptr;
  meter([&] { plugin.start(context, &api, &d); });
  if (api != nullptr) meter([&] { plugin.stop(api); });
  d = {};
  d.type = event::kCollective;
  d.parent = api;
  d.collective.function = "AllReduce";
  d.collective.dtype = "ncclBfloat16";
  d.collective.channels = kChannels;
  meter([&] { plugin.start(context, &coll, &d); });
  if (coll != nullptr) meter([&] { plugin.stop(coll); });
  return coll;
}

void kernel(Meter& meter, void* coll) {
  void* handles[kChannels] = {};
  Description d{};
  d.type = event::kKernelChannel;
  d.parent = coll;
  StateArguments arguments{};
  for (int c = 0; c < kChannels; ++c) {
    d.kernel_channel.channel = static_cast<uint8_t>(c);
    d.kernel_channel.timer = gpu_now();
    meter([&] { plugin.start(context, &handles[c], &d); });
  }
  for (void* handle : handles) {
    arguments.kernel_channel.timer = gpu_now();
    meter([&] { plugin.state(handle, event_state::kKernelChannelStop, &arguments); });
    meter([&] { plugin.stop(handle); });
  }
}

void step(Meter& meter, void* proxy, int number) {
  Description d{};
  d.type = event::kProxyStep;
  d.parent = proxy;
  d.proxy_step.step = number;
  StateArguments arguments{};
  arguments.proxy_step.bytes = 512 << 10;
  void* handle = nullptr;
  meter([&] { plugin.start(context, &handle, &d); });
  for (const int s :
       {event_state::kSendGpuWait, event_state::kSendPeerWait, event_state::kSendWait}) {
    meter([&] { plugin.state(handle, s, &arguments); });
  }
  meter([&] { plugin.stop(handle); });
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// ns that one reading of the counter takes, as singles see it.
uint64_t counter_ticks() {
  Meter meter(true);
  for (int i = 0; i < kOperations; ++i) meter([] {});
  std::sort(meter.ticks.begin(), meter.ticks.end());
  return meter.ticks[meter.ticks.size() / 2];
}

void report(const char* name, const char* metric, double value) {
  std::printf(
      "{\"bench\": \"trace.nccl\", \"case\": \"%s\", \"metric\": \"%s\", \"value\": %.2f, "
      "\"unit\": \"ns\"}\n",
      name, metric, value);
}

// `body` makes one operation's callbacks with the meter it is given.
// `is_whole`: it makes no others, so that the mean is theirs alone.
void measure(const char* name, double ns_per_tick, bool is_whole,
             const std::function<void(Meter&)>& body) {
  std::vector<double> p50, p99, loop;
  for (int round = 0; round < kRounds; ++round) {
    Meter all(false), single(true);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kOperations; ++i) body(all);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    loop.push_back(took.count() / static_cast<double>(all.calls));
    for (int i = 0; i < kOperations / 10; ++i) body(single);
    std::sort(single.ticks.begin(), single.ticks.end());
    const auto empty = static_cast<double>(counter_ticks());
    const auto at = [&](size_t percent) {
      const auto ticks = static_cast<double>(single.ticks[single.ticks.size() * percent / 100]);
      return std::max(0.0, ticks - empty) * ns_per_tick;
    };
    p50.push_back(at(50));
    p99.push_back(at(99));
  }
  report(name, "callback_p50", median(p50));
  report(name, "callback_p99", median(p99));
  if (is_whole) report(name, "callback_mean", median(loop));
}

}  // namespace

int main() {
  const auto opened = open_recorder({.rings = 4, .rank = 0, .world_size = 8}, Level::kSpans);
  int mask = 0;
  if (!opened.ok() || plugin.init(&context, 1, &mask, "bench", 2, 8, 0, nullptr) != 0) {
    std::fprintf(stderr, "trace_nccl: no recorder\n");
    return 1;
  }
  const Anchor a = take_anchor();
  timespec pause{0, 100'000'000};
  ::nanosleep(&pause, nullptr);
  const Anchor b = take_anchor();
  const double ns_per_tick =
      static_cast<double>(b.monotonic_ns - a.monotonic_ns) / static_cast<double>(b.ticks - a.ticks);
  Meter unmeasured(false);
  measure("call", ns_per_tick, false, [&](Meter& meter) { kernel(unmeasured, call(meter)); });
  measure("kernel", ns_per_tick, false, [&](Meter& meter) { kernel(meter, call(unmeasured)); });
  Description d{};
  d.type = event::kProxyOp;
  d.proxy_op.peer = 1;
  d.proxy_op.is_send = 1;
  void* proxy = nullptr;
  plugin.start(context, &proxy, &d);
  int number = 0;
  measure("step", ns_per_tick, true, [&](Meter& meter) { step(meter, proxy, number++); });
  (*opened)->set_level(Level::kOff);
  measure("off", ns_per_tick, true, [&](Meter& meter) { (void)call(meter); });
  plugin.finalize(context);
  close_recorder();
  return 0;
}
