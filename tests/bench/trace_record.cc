// What one record costs: `trace_record [--json]`, through `make bench BENCH=trace.record`.
//
//   trace.record/loop   records one behind the other: ns each; limit: reading the time stamp
//   counter trace.record/app    one record between pieces of other work that empties the
//   first-level cache:
//                       p50 and p99 of single records, the counter's own reading taken off
//   trace.record/off    the same loop, switched off
//   trace.record/read   a reader that drains a ring: ns a record
// Rounds of all take turns; medians over the rounds.
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace {

using namespace convoy::trace;
using Clock = std::chrono::steady_clock;

constexpr int kRounds = 15;
constexpr uint64_t kLoop = 2000000;
constexpr size_t kSingles = 20000;

double ns_of(Clock::time_point begin, uint64_t count) {
  return std::chrono::duration<double, std::nano>(Clock::now() - begin).count() /
         static_cast<double>(count);
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

template <class Body>
double loop(Body body) {
  const auto begin = Clock::now();
  for (uint64_t i = 0; i < kLoop; ++i) body(i);
  return ns_of(begin, kLoop);
}

// Ticks of single calls, sorted.
template <class Body>
std::vector<uint64_t> singles(Body body, std::vector<uint64_t>& other_work) {
  std::vector<uint64_t> out(kSingles);
  for (size_t i = 0; i < kSingles; ++i) {
    for (size_t k = 0; k < other_work.size(); k += 8) other_work[k] += i;
    const uint64_t begin = __rdtsc();
    body(i);
    out[i] = __rdtsc() - begin;
  }
  std::sort(out.begin(), out.end());
  return out;
}

void report(const char* name, const char* metric, double value, const char* unit, double limit = 0,
            const char* limit_name = "") {
  std::printf(
      "{\"bench\": \"trace.record\", \"case\": \"%s\", \"metric\": \"%s\", \"value\": %.2f, "
      "\"unit\": \"%s\"",
      name, metric, value, unit);
  if (limit > 0) {
    std::printf(", \"limit\": %.2f, \"limit_name\": \"%s\", \"share_of_limit\": %.3f", limit,
                limit_name, limit / value);
  }
  std::printf("}\n");
}

}  // namespace

int main() {
  const auto opened = open_recorder({.rings = 2, .ring_records = 8192}, Level::kCollectives);
  if (!opened.ok()) {
    std::fprintf(stderr, "trace_record: %s\n", opened.status().to_string().c_str());
    return 1;
  }
  const auto& segment = *opened;
  const uint16_t name = intern("all_reduce"), group = intern("dp[0]");
  const auto write = [&](uint64_t i) {
    record(Level::kCollectives, {.value = i,
                                 .sequence = static_cast<uint32_t>(i),
                                 .extra = 7,
                                 .name = name,
                                 .group = group,
                                 .kind = Kind::kIssued});
  };
  const Anchor a = take_anchor();
  std::vector<double> on, off, counter, read, p50, p99;
  std::vector<uint64_t> other_work((48 << 10) / 8);
  uint64_t sum = 0;
  for (int round = 0; round < kRounds; ++round) {
    on.push_back(loop(write));
    segment->set_level(Level::kOff);
    off.push_back(loop(write));
    segment->set_level(Level::kCollectives);
    counter.push_back(loop([&](uint64_t) { sum += __rdtsc(); }));
    std::vector<Record> records;
    records.reserve(segment->ring_records());
    RingReader reader(segment, 0);
    const auto begin = Clock::now();
    const size_t got = reader.read(records);
    read.push_back(ns_of(begin, got));
    const auto empty = singles([&](uint64_t i) { sum += i; }, other_work);
    const auto full = singles(write, other_work);
    const auto less = [&](size_t at) {
      return static_cast<double>(full[at]) - static_cast<double>(empty[kSingles / 2]);
    };
    p50.push_back(less(kSingles / 2));
    p99.push_back(less(kSingles * 99 / 100));
  }
  const Anchor b = take_anchor();
  const double ns_per_tick =
      static_cast<double>(b.monotonic_ns - a.monotonic_ns) / static_cast<double>(b.ticks - a.ticks);
  report("loop", "record", median(on), "ns", median(counter), "rdtsc");
  report("app", "record_p50", median(p50) * ns_per_tick, "ns");
  report("app", "record_p99", median(p99) * ns_per_tick, "ns");
  report("off", "record", median(off), "ns");
  report("read", "record", median(read), "ns");
  close_recorder();
  return sum == 1 ? 1 : 0;
}
