// What joining one operation costs in process, without decoding it: `trace_join [ranks]`.
// Ranks take turns with batches of 64 operations, spread over eight groups each, as they come
// from a job; at 10,000 ranks these are 20,000 groups or so. Prints ns an operation and the memory.
#include <convoy/trace/join.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

namespace {

using namespace convoy::trace;

// Of this thread: others on the machine don't count.
double processor_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e9 + static_cast<double>(t.tv_nsec);
}

constexpr uint32_t kGroupsOfRank = 8;
constexpr uint32_t kBatch = 64;
constexpr uint32_t kRounds = 24;

// Groups of one kind: `size` ranks, `stride` apart.
void add_groups(Registry& registry, uint32_t ranks, uint32_t kind, uint32_t size, uint32_t stride,
                std::vector<std::vector<uint32_t>>& signatures) {
  std::vector<uint32_t> done(ranks, 0);
  for (uint32_t first = 0; first < ranks; ++first) {
    if (done[first] != 0) continue;
    GroupInfo info;
    info.name = std::to_string(kind);
    info.name += ":";
    info.name += std::to_string(first);
    for (uint32_t i = 0; i < size && first + i * stride < ranks; ++i) {
      if (done[first + i * stride] == 0) info.ranks.push_back(first + i * stride);
    }
    const uint32_t group = registry.group(info);
    Signature s;
    s.group = group;
    s.operation = "all_reduce";
    s.dtype = "bfloat16";
    s.reduction = "sum";
    s.bytes = 1 << 20;
    const uint32_t number = registry.signature(s);
    for (const uint32_t r : info.ranks) done[r] = 1, signatures[r].push_back(number);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const uint32_t ranks = count > 1 ? static_cast<uint32_t>(std::atoi(arguments[1])) : 10'000;
  Registry registry;
  std::vector<std::vector<uint32_t>> signatures(ranks);
  for (uint32_t kind = 0; kind < kGroupsOfRank; ++kind) {
    add_groups(registry, ranks, kind, 2U << kind % 4, 1U << kind, signatures);
  }
  ClockModel clocks;
  for (uint32_t r = 0; r < ranks; ++r) clocks.place(r, "host" + std::to_string(r / 8));
  Join join(registry);
  std::vector<std::vector<Operation>> batches(ranks, std::vector<Operation>(kBatch));
  std::vector<double> ns;
  uint64_t finished = 0, operations = 0;
  for (uint32_t round = 0; round < kRounds; ++round) {
    for (uint32_t r = 0; r < ranks; ++r) {
      for (uint32_t i = 0; i < kBatch; ++i) {
        const int64_t at = int64_t{1'000'000} * (round * kBatch + i + 1);
        batches[r][i] = {signatures[r][i % kGroupsOfRank],
                         round * (kBatch / kGroupsOfRank) + i / kGroupsOfRank + 1, at, at + 10'000,
                         at + 500'000 + r};
      }
    }
    const double begin = processor_ns();
    for (uint32_t r = 0; r < ranks; ++r) {
      join.add(r, batches[r], clocks, [&](uint32_t, const Instance&) { ++finished; });
    }
    ns.push_back((processor_ns() - begin) / (double{kBatch} * ranks));
    operations += uint64_t{kBatch} * ranks;
  }
  std::sort(ns.begin() + 1, ns.end());  // the first round lays memory out
  std::printf("%u ranks, %zu groups, %.1f M operations, %.2f M instances joined\n", ranks,
              registry.groups().size(), static_cast<double>(operations) / 1e6,
              static_cast<double>(finished) / 1e6);
  std::printf("trace.join %.2f ns an operation (median of rounds; %.2f at best), rings %.0f MB\n",
              ns[ns.size() / 2], ns[1], static_cast<double>(join.bytes()) / 1e6);
  return 0;
}
