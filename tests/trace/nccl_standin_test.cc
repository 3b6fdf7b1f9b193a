// Method: the stand-in for NCCL loads the plugin by its path, as NCCL does, and the communicator's
// part is played here, as in tests/standin/profiler_test.cc: one rank, no GPU, no torch. The plugin
// shares this program's recorder. Not checked: real communicators, and times.
#include "src/standin/nccl/profiler.h"
#include "tests/trace/nccl_driver.h"
#include <convoy/trace/event.h>
#include <convoy/trace/operation.h>

#include <catch2/catch.hpp>

#include <chrono>
#include <cstdlib>
#include <dlfcn.h>
#include <set>
#include <thread>

namespace convoy::trace::nccl {
namespace {

namespace standin = convoy::standin::nccl;

class Rank {
 public:
  explicit Rank(const char* plugin, std::vector<int> nodes) {
    ::setenv("NCCL_PROFILER_PLUGIN", plugin, 1);
    standin::ProfilerIdentity identity;
    identity.comm_id = 0xfeed;
    identity.comm_name = "dp";
    identity.nranks = static_cast<int>(nodes.size());
    identity.nodes = std::move(nodes);
    profiler_ = std::make_unique<standin::Profiler>(std::move(identity));
  }
  ~Rank() { profiler_->close(false); }

  void run(standin::Function function, uint64_t count, int root = -1) {
    standin::OpRecord record;
    record.function = function;
    record.dtype = 7;  // float32
    record.count = count;
    record.root = root;
    standin::OperationTrace trace;
    standin::Profiler::call_begins();
    profiler_->enqueue(record, nullptr, 1, trace);
    standin::Profiler::group_ending();
    {
      standin::TracedLaunch launch(*profiler_, nullptr);
      launch.add(record, trace);
      launch.begin();
      launch.end();
    }
    standin::Profiler::group_ended();
    profiler_->started(trace);
    profiler_->met(trace);
    profiler_->moved(trace);
    profiler_->done(trace);
  }

 private:
  std::unique_ptr<standin::Profiler> profiler_;
};

// Until so many operations are complete: the proxy's thread tells later.
std::vector<Seen> read_until(Trace& trace, size_t completed) {
  std::vector<Seen> all;
  for (int i = 0; i < 2000; ++i) {
    size_t count = 0;
    const auto some = trace.read();
    all.insert(all.end(), some.begin(), some.end());
    for (const Seen& r : all) count += r.kind == Kind::kCompleted ? 1 : 0;
    if (count >= completed) return all;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL("operations have no end");
  return all;
}

std::set<std::string> ends_of(const std::vector<Seen>& records) {
  std::set<std::string> ends;
  for (const Seen& r : records) {
    if (r.kind == Kind::kCompleted) ends.insert(r.name + " " + std::to_string(r.sequence));
  }
  return ends;
}

void run_on_one_node(const char* plugin) {
  Trace trace(Level::kSpans);
  Rank rank(plugin, {0, 0});
  rank.run(standin::Function::all_reduce, 64);
  rank.run(standin::Function::all_gather, 1 << 20);
  rank.run(standin::Function::broadcast, 64, 1);
  rank.run(standin::Function::send, 64, 1);
  rank.run(standin::Function::all_reduce, 64);
  const auto seen = read_until(trace, 5);
  CHECK(ends_of(seen) == std::set<std::string>{"all_reduce/float32/ 1", "all_gather/float32/ 2",
                                               "broadcast/float32/ 3", "all_reduce/float32/ 4",
                                               "send/float32/ 1"});
  size_t launches = 0;
  for (const Seen& r : seen) {
    launches += r.kind == Kind::kBegin && r.name == names::kLaunch ? 1 : 0;
    if (r.kind < Kind::kIssued) continue;
    CHECK(parse_membership(r.group) == Membership{"nccl/feed", 0, 2});
  }
  CHECK(launches == 4);  // none is told of the broadcast
}

TEST_CASE("the library, found by its path") {
  run_on_one_node(CONVOY_PLUGIN);
  // It stays, though NCCL has closed it.
  void* library = ::dlopen(CONVOY_PLUGIN, RTLD_NOW | RTLD_NOLOAD);
  REQUIRE(library != nullptr);
  ::dlclose(library);
}

TEST_CASE("the program itself") {
  run_on_one_node("STATIC_PLUGIN");
}

TEST_CASE("two nodes: sums of the links are there when the communicator has ended") {
  Trace trace(Level::kDetails);
  const uint64_t bytes = 4 << 20;
  std::vector<Seen> seen;
  {
    Rank rank(CONVOY_PLUGIN, {0, 1});
    rank.run(standin::Function::all_reduce, bytes / 4);
    seen = read_until(trace, 1);
  }
  const auto rest = trace.read();
  seen.insert(seen.end(), rest.begin(), rest.end());
  CHECK(counter_of(seen, names::kSentBytes, 2) == bytes);
  CHECK(counter_of(seen, names::kReceivedBytes, 2) == bytes);
  size_t steps = 0;
  for (const Seen& r : seen) steps += r.kind == Kind::kInstant ? 1 : 0;
  CHECK(steps == 2 * bytes / (512 << 10));
}

}  // namespace
}  // namespace convoy::trace::nccl
