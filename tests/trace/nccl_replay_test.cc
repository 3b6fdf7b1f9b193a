// Method: the calls that a plugin got from NCCL 2.30.7 on an H100 (one rank of tp = 2 × pp = 2, all
// on one GPU), as tests/standin/recording_profiler.cc wrote them down, are made again, in that
// order, at the times that the kernels' clock says. What comes out is compared with what the file
// says by itself.
#include "tests/trace/nccl_driver.h"
#include <convoy/trace/operation.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>
#include <time.h>

namespace convoy::trace::nccl {
namespace {

struct Line {
  int thread = 0;
  std::string call;
  std::map<std::string, std::string> fields;
  uint64_t number(const char* name, int base = 10) const {
    const auto found = fields.find(name);
    return found == fields.end() ? 0 : std::stoull(found->second, nullptr, base);
  }
  const char* text(const char* name) const {
    const auto found = fields.find(name);
    return found == fields.end() ? nullptr : found->second.c_str();
  }
  uint64_t timer() const {
    return call == "start" ? number("timer") : number("state") == 22 ? number("value") : 0;
  }
};

std::vector<Line> read_lines(const std::string& path) {
  std::ifstream file(path);
  std::vector<Line> lines;
  for (std::string text; std::getline(file, text);) {
    std::istringstream words(text);
    Line line;
    words >> line.thread >> line.call;
    for (std::string word; words >> word;) {
      const size_t at = word.find('=');
      line.fields[word.substr(0, at)] = word.substr(at + 1);
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

// Makes the calls; handles of the file become ours.
class Replay {
 public:
  explicit Replay(FakeNccl& nccl) : nccl_(nccl) {}

  void make(const Line& line) {
    void*& handle = handles_[line.number("handle")];
    if (line.call == "init") {
      handle = nccl_.open(line.number("comm", 16), static_cast<int>(line.number("nranks")),
                          static_cast<int>(line.number("rank")), line.text("name"));
    } else if (line.call == "start") {
      const uint64_t type = line.number("type");
      // Asked for what this level asks for, and what that brings along.
      const uint64_t asked = static_cast<uint64_t>(nccl_.mask) | event::kGroup | event::kGroupCall;
      if ((type & asked) != 0) handle = nccl_.start(handles_[line.number("context")], event(line));
    } else if (handle != nullptr && line.call == "stop") {
      nccl_.stop(handle);
    } else if (handle != nullptr && line.call == "state") {
      nccl_.state(handle, static_cast<int>(line.number("state")), line.number("value"));
    }
  }

 private:
  Description event(const Line& line) {
    Description d{};
    d.type = line.number("type");
    d.parent = handles_[line.number("parent")];
    d.rank = static_cast<int>(line.number("rank"));
    const char* function = line.text("func");
    const char* dtype = line.text("dtype");
    const auto channels = static_cast<uint8_t>(line.number("channels"));
    if (d.type == event::kCollectiveCall) {
      d.collective_call.function = function;
      d.collective_call.count = line.number("count");
      d.collective_call.dtype = dtype;
    } else if (d.type == event::kCollective) {
      d.collective.function = function;
      d.collective.count = line.number("count");
      d.collective.dtype = dtype;
      d.collective.channels = channels;
    } else if (d.type == event::kMessageCall) {
      d.message_call.function = function;
    } else if (d.type == event::kMessage) {
      d.message.function = function;
      d.message.count = line.number("count");
      d.message.dtype = dtype;
      d.message.peer = static_cast<int>(line.number("peer"));
      d.message.channels = channels;
    } else if (d.type == event::kKernelChannel) {
      d.kernel_channel.channel = static_cast<uint8_t>(line.number("channel"));
      d.kernel_channel.timer = line.timer();
    }
    return d;
  }

  FakeNccl& nccl_;
  std::map<uint64_t, void*> handles_;
};

// What the file says of a Coll or P2p: its first and last kernel times, and channels without an
// end.
struct Truth {
  std::string name;
  uint64_t begin = UINT64_MAX, end = 0;
  uint64_t running = 0;
};

std::vector<Truth> truth_of(const std::vector<Line>& lines) {
  std::map<uint64_t, Truth> operations;
  std::map<uint64_t, uint64_t> parent_of;
  for (const Line& line : lines) {
    const uint64_t handle = line.number("handle"), type = line.number("type");
    if (line.call == "start" && (type == event::kCollective || type == event::kMessage)) {
      operations[handle].name = line.text("func");
      operations[handle].running = line.number("channels");
    } else if (line.call == "start" && type == event::kKernelChannel) {
      parent_of[handle] = line.number("parent");
      Truth& t = operations.at(line.number("parent"));
      t.begin = std::min(t.begin, line.timer());
    } else if (line.call == "state" && parent_of.count(handle) != 0) {
      Truth& t = operations.at(parent_of[handle]);
      t.end = std::max(t.end, line.timer());
      --t.running;
    }
  }
  std::vector<Truth> all;
  for (auto& [handle, t] : operations) all.push_back(std::move(t));
  return all;
}

int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void replay(const std::vector<Line>& lines, Replay& replay) {
  int64_t begin = 0;
  uint64_t begin_timer = 0;
  for (const Line& line : lines) {
    if (begin == 0 && line.timer() != 0) {
      begin = now_ns();
      begin_timer = line.timer();
    }
    // Not before the GPU can have come so far.
    while (line.timer() > begin_timer &&
           static_cast<uint64_t>(now_ns() - begin) < line.timer() - begin_timer) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    replay.make(line);
  }
}

TEST_CASE("what an H100 told becomes operations, with its kernels' times") {
  const std::vector<Line> lines = read_lines(RECORDED_ON_GPU);
  REQUIRE(lines.size() == 420);
  const std::vector<Truth> truth = truth_of(lines);
  Trace trace;
  FakeNccl nccl;
  const uint64_t bogus = Profiler::get().losses().bogus_times;
  Replay calls(nccl);
  replay(lines, calls);
  const auto seen = trace.read();

  // Send and Recv that connect, a hidden state, two sums of gradients.
  std::map<std::string, std::string> issued;
  std::vector<const Seen*> completed, started;
  for (const Seen& r : seen) {
    const auto member = parse_membership(r.group);
    if (r.kind == Kind::kIssued) {
      REQUIRE(member);
      issued[member->group] += r.name + " " + std::to_string(r.sequence) + " " +
                               std::to_string(r.value) + " " + std::to_string(r.extra) + "\n";
    }
    if (r.kind == Kind::kStarted) started.push_back(&r);
    if (r.kind == Kind::kCompleted) completed.push_back(&r);
  }
  CHECK(issued == std::map<std::string, std::string>{
                      {"nccl/c43b3757b9d16d36",
                       "send/int32/ 1 4 1\nrecv/int32/ 1 4 1\nrecv/float32/ 2 524288 1\n"},
                      {"nccl/5336c8dfcf087ef1",
                       "all_reduce/float32/ 1 524288 0\nall_reduce/float32/ 2 524288 0\n"}});
  REQUIRE(truth.size() == 5);
  REQUIRE(started.size() == 5);
  // The recording ends while the last one's channels do.
  const auto ended = static_cast<size_t>(
      std::count_if(truth.begin(), truth.end(), [](const Truth& t) { return t.running == 0; }));
  CHECK(ended == 4);
  REQUIRE(completed.size() == ended);
  for (size_t i = 0; i < ended; ++i) {
    INFO(completed[i]->name << " " << i);
    CHECK(completed[i]->value == truth[i].end - truth[i].begin);
  }
  // Distances on the host's clock are the GPU's, as far as a busy machine's threads are punctual.
  const TimeScale scale = trace.segment->time_scale();
  for (size_t i = 1; i < started.size(); ++i) {
    const int64_t host =
        scale.monotonic_ns(started[i]->time) - scale.monotonic_ns(started[0]->time);
    const auto gpu = static_cast<int64_t>(truth[i].begin - truth[0].begin);
    INFO(started[i]->name << ": " << host << " ns, on the GPU " << gpu << " ns");
    CHECK(std::abs(host - gpu) < 20'000'000);
  }
  CHECK(Profiler::get().losses().bogus_times == bogus);
}

}  // namespace
}  // namespace convoy::trace::nccl
