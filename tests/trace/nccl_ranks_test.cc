// Method: two ranks, processes, perform real operations on the stand-in for NCCL, which has loaded
// the plugin; each reads its own segment at the end. Not checked: times, and what NCCL tells on a
// GPU.
#include "tests/standin/nccl_ranks.h"

#include <convoy/trace/event.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <string>

namespace convoy::standin::nccl {
namespace {

constexpr size_t kCount = 1 << 20;

// "completed all_reduce/float32/ 1", and counters as "link sent bytes 2" (peer + 1) with the last
// value.
std::map<std::string, uint64_t> recorded(int rank) {
  std::map<std::string, uint64_t> all;
  const auto segment = trace::recorder_segment();
  EXPECT(segment != nullptr);
  if (segment == nullptr) return all;
  EXPECT(segment->rank() == rank);
  for (uint32_t i = 0; i < segment->rings(); ++i) {
    trace::RingReader reader(segment, i);
    std::vector<trace::Record> records;
    reader.read(records);
    for (const trace::Record& r : records) {
      const std::string name = segment->name(r.name);
      if (r.kind == trace::Kind::kCounter) all[name + " " + std::to_string(r.extra)] = r.value;
      if (r.kind < trace::Kind::kIssued) continue;
      EXPECT(trace::parse_group(segment->name(r.group)).ranks == (std::vector<uint32_t>{0, 1}));
      const char* const kinds[] = {"issued ", "started ", "completed "};
      const auto kind = static_cast<size_t>(r.kind) - static_cast<size_t>(trace::Kind::kIssued);
      ++all[kinds[kind] + name + " " + std::to_string(r.sequence)];
    }
  }
  return all;
}

void operate(Rank& rank, const char* plugin, bool remote) {
  ::setenv("NCCL_PROFILER_PLUGIN", plugin, 1);
  ::setenv("CONVOY_TRACE", "spans", 1);
  ::setenv("RANK", std::to_string(rank.rank).c_str(), 1);
  ::setenv("WORLD_SIZE", "2", 1);
  if (remote) ::setenv("NCCL_HOSTID", std::to_string(rank.rank).c_str(), 1);
  ncclComm_t comm = rank.make();
  const CudaStream stream;
  const Floats data(kCount, 1);
  OK(ncclAllReduce(data.data(), data.data(), kCount, ncclFloat32, ncclSum, comm, stream));
  OK(ncclBroadcast(data.data(), data.data(), 10, ncclFloat32, 1, comm, stream));
  if (rank.rank == 0) {
    OK(ncclSend(data.data(), kCount, ncclFloat32, 1, comm, stream));
  } else {
    OK(ncclRecv(data.data(), kCount, ncclFloat32, 0, comm, stream));
  }
  OK(ncclAllReduce(data.data(), data.data(), 10, ncclFloat32, ncclSum, comm, stream));
  stream.wait();
  OK(ncclCommDestroy(comm));
  const auto seen = recorded(rank.rank);
  const std::string message = rank.rank == 0 ? "send" : "recv";
  for (const std::string& operation :
       {std::string("all_reduce/float32/ 1"), std::string("broadcast/float32/ 2"),
        std::string("all_reduce/float32/ 3"), message + "/float32/ 1"}) {
    EXPECT(seen.count("issued " + operation) == 1);
    EXPECT(seen.count("completed " + operation) == 1);
    EXPECT(seen.count("started " + operation) == (operation[0] == 'b' ? 0U : 1U));
  }
  if (!remote) return;
  // The large sum both ways, the message one way, and the small sum.
  const uint64_t least = kCount * 4, peer = static_cast<uint64_t>(2 - rank.rank);
  const auto bytes = [&](const char* name) {
    const auto found = seen.find(std::string(name) + " " + std::to_string(peer));
    return found == seen.end() ? 0 : found->second;
  };
  const uint64_t sent = bytes(trace::names::kSentBytes);
  const uint64_t received = bytes(trace::names::kReceivedBytes);
  EXPECT(sent >= least && received >= least);
  EXPECT((rank.rank == 0 ? sent - received : received - sent) == least);
}

void run(const char* plugin, bool remote) {
  const Outcome outcome = run_ranks(2, [&](Rank& rank) { operate(rank, plugin, remote); }, {});
  INFO(outcome.all());
  CHECK(outcome.is_well());
}

TEST_CASE("two ranks of one node, with the library") {
  run(CONVOY_PLUGIN, false);
}

TEST_CASE("two ranks of two nodes, whose program is the plugin: links are told, too") {
  run("STATIC_PLUGIN", true);
}

}  // namespace
}  // namespace convoy::standin::nccl
