// Method: the communicator's part is played here, one rank without a GPU: it calls the profiler as
// group.cc and kernels.cc do, in an order of the test's choice, and the recording plugin's file
// says what a plugin saw. Not checked: that the communicator makes these calls
// (nccl_profiler_test.cc).
#include "src/standin/nccl/profiler.h"

#include "tests/standin/recording.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

constexpr int kAll = 4095;
constexpr int kApi = kEventGroupApi | kEventCollApi | kEventP2pApi | kEventKernelLaunch;
constexpr int kCaller = kApi | kEventGroup | kEventColl | kEventP2p;
constexpr size_t kBig = 8 << 20;  // of bytes: two channels, many steps

void set(const char* name, const std::string& value) {
  ::setenv(name, value.c_str(), 1);
}

OpRecord op(Function function, uint64_t count = 64, int root = -1) {
  OpRecord record;
  record.function = function;
  record.dtype = 7;  // float32
  record.count = count;
  record.root = root;
  record.send = 0x1000;
  record.recv = 0x2000;
  return record;
}

// A rank of a communicator, with the plugin that the test wants.
class Rank {
 public:
  explicit Rank(int mask, std::vector<int> nodes = {0, 0},
                const char* plugin = RECORDING_PROFILER) {
    set("NCCL_PROFILER_PLUGIN", plugin);
    set("RECORDING_MASK", std::to_string(mask));
    set("RECORDING_FILE", folder_ / "calls");
    ProfilerIdentity identity;
    identity.comm_id = 0xabc;
    identity.comm_name = "dp";
    identity.nranks = static_cast<int>(nodes.size());
    identity.nodes = std::move(nodes);
    profiler = std::make_unique<Profiler>(std::move(identity));
  }

  struct Queued {
    OpRecord record;
    OperationTrace trace;
  };
  // One call in the program.
  void call(const OpRecord& record) {
    Profiler::call_begins();
    ++depth_;
    queued_.push_back({record, {}});
    profiler->enqueue(record, stream(), depth_, queued_.back().trace);
    group_end();
  }
  void group_start() { ++depth_; }
  void group_end() {
    Profiler::group_ending();
    if (--depth_ == 0) launch();
    Profiler::group_ended();
  }
  // The kernels of all launches so far.
  void run() {
    for (Queued& one : launched) {
      profiler->started(one.trace);
      profiler->met(one.trace);
      profiler->moved(one.trace);
      profiler->done(one.trace);
    }
    launched.clear();
  }
  Recording end(bool aborted = false) {
    profiler->close(aborted);
    return Recording(folder_ / "calls");
  }
  std::string file() const { return folder_ / "calls"; }
  static void* stream() { return reinterpret_cast<void*>(0x77); }

  std::unique_ptr<Profiler> profiler;
  std::vector<Queued> launched;

 private:
  void launch() {
    TracedLaunch launch(*profiler, stream());
    for (Queued& one : queued_) launch.add(one.record, one.trace);
    launch.begin();
    launch.end();
    for (Queued& one : queued_) launched.push_back(std::move(one));
    queued_.clear();
  }

  TempFolder folder_;
  int depth_ = 0;
  std::vector<Queued> queued_;
};

void set_mask(int mask) {
  void* library = ::dlopen(RECORDING_PROFILER, RTLD_NOW | RTLD_NOLOAD);
  REQUIRE(library != nullptr);
  reinterpret_cast<void (*)(int)>(::dlsym(library, "recording_set_mask"))(mask);
  ::dlclose(library);
}

void wait_for(const std::function<bool()>& condition) {
  for (int i = 0; i < 20'000 && !condition(); ++i) ::usleep(1000);
  REQUIRE(condition());
}

TEST_CASE("one collective: calls in NCCL's order, on the caller's thread, with their parents") {
  Rank rank(kAll);
  rank.call(op(Function::all_reduce));
  rank.run();
  const Recording seen = rank.end();
  CHECK(seen.calls().front().call == "init");
  CHECK(seen.calls().front()["comm"] == "abc");
  CHECK(seen.calls().front()["name"] == "dp");
  CHECK(seen.calls().back().call == "finalize");
  CHECK(seen.order(kCaller) ==
        "GroupApi< GroupApi:23 CollApi< CollApi> GroupApi:24 KernelLaunch< KernelLaunch> Group< "
        "Coll< Coll> Group> GroupApi>");
  const auto group = seen.starts(kEventGroupApi).at(0);
  const auto api = seen.starts(kEventCollApi).at(0);
  const auto coll = seen.starts(kEventColl).at(0);
  CHECK(group["depth"] == "1");  // an implicit group
  CHECK(api.parent == group.handle);
  CHECK(api["func"] == "AllReduce");
  CHECK(api["dtype"] == "ncclFloat32");
  CHECK(seen.starts(kEventKernelLaunch).at(0).parent == group.handle);
  CHECK(coll.parent == api.handle);
  CHECK(coll["algo"] == "RING");
  for (const RecordedCall& call : seen.calls()) {
    if ((call.type & kCaller) != 0) CHECK(call.thread == ::gettid());
  }
  // One node: no network; the kernel's times come from the proxy's thread.
  CHECK(seen.starts(kEventProxyOp).empty());
  const auto kernel = seen.starts(kEventKernelCh);
  REQUIRE(kernel.size() == 1);
  CHECK(kernel[0].parent == coll.handle);
  CHECK(kernel[0].thread != ::gettid());
  CHECK(seen.life(kernel[0].handle) == "start 22 stop");
}

TEST_CASE("a group: one GroupApi at the depth of the first call, one launch, tasks together") {
  Rank rank(kCaller);
  rank.group_start();
  rank.call(op(Function::all_reduce));
  rank.call(op(Function::send, 64, 1));
  rank.call(op(Function::recv, 64, 1));
  rank.group_end();
  const Recording seen = rank.end();
  CHECK(seen.order(kCaller) ==
        "GroupApi< GroupApi:23 CollApi< CollApi> P2pApi< P2pApi> P2pApi< P2pApi> GroupApi:24 "
        "KernelLaunch< KernelLaunch> Group< Coll< P2p< P2p< Coll> P2p> P2p> Group> GroupApi>");
  CHECK(seen.starts(kEventGroupApi).at(0)["depth"] == "2");
  CHECK(seen.starts(kEventP2p).at(1)["func"] == "Recv");
  CHECK(seen.starts(kEventP2p).at(1)["peer"] == "1");
  CHECK(seen.starts(kEventP2p).at(1)["buffer"] == "0x2000");
}

TEST_CASE("NCCL's depth doesn't see a nested ncclGroupStart: the inner end stops GroupApi") {
  Rank rank(kApi);
  rank.group_start();
  rank.call(op(Function::all_reduce));
  rank.group_start();
  rank.call(op(Function::all_reduce));
  rank.group_end();
  rank.group_end();
  const Recording seen = rank.end();
  CHECK(seen.order(kApi) ==
        "GroupApi< GroupApi:23 CollApi< CollApi> CollApi< CollApi> GroupApi:24 GroupApi> "
        "KernelLaunch< KernelLaunch>");
}

TEST_CASE("sequence numbers count each function for itself") {
  Rank rank(kEventColl);
  for (const Function f : {Function::all_reduce, Function::all_gather, Function::all_reduce,
                           Function::all_reduce, Function::all_gather}) {
    rank.call(op(f));
  }
  const Recording seen = rank.end();
  std::string text;
  for (const auto& coll : seen.starts(kEventColl)) text += coll["func"] + coll["seq"] + " ";
  CHECK(text == "AllReduce0 AllGather0 AllReduce1 AllReduce2 AllGather1 ");
}

TEST_CASE("AllGather counts bytes in Coll and elements in CollApi") {
  Rank rank(kCaller);
  rank.call(op(Function::all_gather, 10));
  const Recording seen = rank.end();
  CHECK(seen.starts(kEventCollApi).at(0)["count"] == "10");
  CHECK(seen.starts(kEventColl).at(0)["count"] == "40");
  CHECK(seen.starts(kEventColl).at(0)["dtype"] == "ncclInt8");
}

TEST_CASE("Broadcast is told as CollApi only, as NCCL 2.30.7 does by default") {
  Rank rank(kAll);
  rank.call(op(Function::broadcast, 10, 0));
  rank.run();
  const Recording seen = rank.end();
  CHECK(seen.order(kCaller) == "GroupApi< GroupApi:23 CollApi< CollApi> GroupApi:24 GroupApi>");
  CHECK(seen.starts(kEventKernelCh).empty());
}

TEST_CASE("AlltoAll, Gather and Scatter are messages; a single rank's collectives are nothing") {
  Rank rank(kCaller, {0, 0, 0});
  rank.call(op(Function::all_to_all, 5));
  rank.call(op(Function::gather, 5, 0));
  rank.call(op(Function::scatter, 5, 1));
  const Recording seen = rank.end();
  std::string text;
  for (const auto& p2p : seen.starts(kEventP2p)) text += p2p["func"] + p2p["peer"] + " ";
  CHECK(text == "Send0 Recv0 Send1 Recv1 Send2 Recv2 Send0 Recv0 Recv1 Recv2 Recv1 ");
  CHECK(seen.starts(kEventColl).empty());
  Rank alone(kAll, {0});
  alone.call(op(Function::all_reduce));
  alone.run();
  CHECK(alone.end().calls().size() == 2);  // init, finalize
}

TEST_CASE("one bit of the mask turns on the ancestors' start, and no one else's") {
  struct Case {
    int mask;
    const char* seen;
  };
  for (const Case& one : {Case{kEventGroupApi, "GroupApi< GroupApi:23 GroupApi:24 GroupApi>"},
                          Case{kEventProxyStep,
                               "GroupApi< GroupApi:23 CollApi< CollApi> GroupApi:24 Group< Coll< "
                               "Coll> Group> GroupApi>"},
                          Case{kEventKernelLaunch,
                               "GroupApi< GroupApi:23 GroupApi:24 KernelLaunch< KernelLaunch> "
                               "GroupApi>"},
                          Case{kEventProxyCtrl, ""}, Case{0, ""}}) {
    Rank rank(one.mask);
    rank.call(op(Function::all_reduce));
    rank.run();
    CHECK(rank.end().order(kAll) == one.seen);
  }
}

TEST_CASE("the mask is read at each call, and the last CollApi is stopped again when it is off") {
  Rank rank(kEventCollApi);
  rank.call(op(Function::all_reduce));
  set_mask(0);
  rank.call(op(Function::all_reduce));
  rank.call(op(Function::send, 1, 1));  // of which there is no CollApi
  rank.call(op(Function::all_gather));
  const Recording seen = rank.end();
  CHECK(seen.life(seen.starts(kEventCollApi).at(0).handle) == "start stop stop stop");
  CHECK(seen.starts(kEventGroupApi).size() == 1);
}

TEST_CASE("an event without a handle is not stopped, and has no states") {
  set("RECORDING_NULL",
      std::to_string(kEventGroupApi | kEventColl | kEventProxyOp | kEventKernelCh));
  Rank rank(kAll, {0, 1});
  rank.call(op(Function::all_reduce));
  rank.run();
  const Recording seen = rank.end();
  ::unsetenv("RECORDING_NULL");
  for (const int type : {+kEventGroupApi, +kEventColl, +kEventProxyOp, +kEventKernelCh}) {
    REQUIRE(!seen.starts(type).empty());
    for (const auto& start : seen.starts(type)) CHECK(seen.life(start.handle) == "start");
  }
  CHECK(seen.starts(kEventCollApi).at(0).parent == 0);
}

TEST_CASE("the proxy tells steps of peers on other nodes, from its one thread") {
  Rank rank(kAll, {0, 0, 1});  // rank 0: previous in the ring is rank 2, next is rank 1
  rank.call(op(Function::all_reduce, kBig / 4));
  rank.run();
  const Recording seen = rank.end();
  const auto ops = seen.starts(kEventProxyOp);
  REQUIRE(ops.size() == kChannelsMax);
  for (const auto& proxy : ops) {
    CHECK(proxy["peer"] == "2");
    CHECK(proxy["send"] == "0");
    CHECK(proxy["chunk"] == std::to_string(512 << 10));
    CHECK(proxy["steps"] == "11");  // 2 * 2/3 * 8 MiB over two channels
    CHECK(proxy["pid"] == std::to_string(::getpid()));
    CHECK(proxy.parent == seen.starts(kEventColl).at(0).handle);
    CHECK(seen.life(proxy.handle) == "start 19 stop");
  }
  const auto steps = seen.starts(kEventProxyStep);
  CHECK(steps.size() == 2 * 11);
  for (const auto& step : steps) CHECK(seen.life(step.handle) == "start 10 11 12 stop");
  int thread = 0;
  for (const RecordedCall& call : seen.calls()) {
    if ((call.type & (kEventProxyOp | kEventProxyStep | kEventProxyCtrl | kEventKernelCh)) == 0) {
      continue;
    }
    if (thread == 0) thread = call.thread;
    CHECK(call.thread == thread);
    CHECK(call.thread != ::gettid());
  }
}

TEST_CASE("send steps wait for the kernel, then for the peers, then for the data") {
  Rank rank(kEventProxyStep, {0, 1});
  rank.call(op(Function::send, 100 << 10, 1));  // 400 KiB: one step on each channel
  const OperationTrace trace = rank.launched.at(0).trace;
  const auto is = [&](const std::string& life) {
    const Recording seen(rank.file());
    const auto steps = seen.starts(kEventProxyStep);
    return steps.size() == 2 && seen.life(steps[0].handle) == life &&
           seen.life(steps[1].handle) == life;
  };
  wait_for([&] { return is("start 8"); });
  rank.profiler->started(trace);
  wait_for([&] { return is("start 8 20"); });
  rank.profiler->met(trace);
  wait_for([&] { return is("start 8 20 9"); });
  rank.profiler->moved(trace);
  wait_for([&] { return is("start 8 20 9 stop"); });
  rank.profiler->done(trace);
  const Recording seen = rank.end();
  for (const RecordedCall& call : seen.calls()) {
    if (call.state == kStateSendWait) CHECK(call["value"] == std::to_string(200 << 10));
  }
}

TEST_CASE("ProxyCtrl: idle, sleep, wake up, append, and work again") {
  Rank rank(kEventProxyCtrl | kEventProxyOp, {0, 1});
  const auto asleep = [&] {
    const auto calls = Recording(rank.file()).calls();
    return !calls.empty() && calls.back().state == kStateProxySleep;
  };
  for (int i = 0; i < 2; ++i) {
    rank.call(op(Function::all_reduce));
    rank.run();
    wait_for(asleep);
  }
  const Recording seen = rank.end();
  std::string text;
  for (const auto& control : seen.starts(kEventProxyCtrl)) {
    CHECK(control.parent == 0);
    text += seen.life(control.handle) + ", ";
  }
  // The operation is posted before the thread begins, so it doesn't sleep at first.
  CHECK(text.rfind("start 13 stop, start 17 18 stop, start 14 stop, ", 0) == 0);
  CHECK(text.find("start 15 16 stop, start 17 18 stop, ") != std::string::npos);
  for (const RecordedCall& call : seen.calls()) {
    if (call.state == kStateProxyAppendEnd && call["value"] != "0") CHECK(call["value"] == "2");
  }
}

TEST_CASE("collectives of one kind that are fused in a group share their times") {
  Rank rank(kEventKernelCh);
  rank.group_start();
  rank.call(op(Function::all_reduce));
  rank.call(op(Function::all_reduce));
  rank.call(op(Function::all_gather));
  rank.group_end();
  ::usleep(2000);
  for (auto& one : rank.launched) {
    rank.profiler->started(one.trace);
    rank.profiler->moved(one.trace);
    rank.profiler->done(one.trace);
    ::usleep(1000);
  }
  const Recording seen = rank.end();
  const auto kernels = seen.starts(kEventKernelCh);
  REQUIRE(kernels.size() == 3);
  CHECK(kernels[0]["timer"] == kernels[1]["timer"]);
  CHECK(kernels[0]["timer"] != kernels[2]["timer"]);
  std::map<uint64_t, std::string> stops;
  for (const RecordedCall& call : seen.calls()) {
    if (call.state == kStateKernelChStop) stops[call.handle] = call["value"];
  }
  CHECK(stops[kernels[0].handle] == stops[kernels[1].handle]);
  CHECK(std::stoull(stops[kernels[0].handle]) > std::stoull(kernels[0]["timer"]));
}

TEST_CASE("a proxy that is more than 64 operations late reads later operations' times") {
  Rank rank(kEventKernelCh);
  rank.call(op(Function::all_reduce));
  Profiler::delay_proxy(rank.launched.at(0).trace, std::chrono::milliseconds(0));
  // The kernels run before the proxy gets its work.
  Rank::Queued first = rank.launched.at(0);
  rank.launched.clear();
  rank.profiler->started(first.trace);
  rank.profiler->done(first.trace);
  wait_for([&] { return Recording(rank.file()).starts(kEventKernelCh).size() == 1; });
  std::vector<OperationTrace> late;
  {
    TracedLaunch launch(*rank.profiler, Rank::stream());
    for (int i = 0; i < 65; ++i) {
      OperationTrace trace;
      OpRecord record = op(i % 2 == 0 ? Function::all_reduce : Function::all_gather);
      Profiler::call_begins();
      rank.profiler->enqueue(record, Rank::stream(), 1, trace);
      Profiler::group_ending();
      Profiler::group_ended();
      launch.add(record, trace);
      late.push_back(trace);
    }
    for (OperationTrace& trace : late) {
      rank.profiler->started(trace);
      ::usleep(200);
      rank.profiler->done(trace);
    }
    launch.begin();
    launch.end();
  }
  const auto kernels = rank.end().starts(kEventKernelCh);
  REQUIRE(kernels.size() == 66);
  // Works 2 and 66 have the same slot.
  CHECK(kernels[1]["timer"] == kernels[65]["timer"]);
  CHECK(kernels[2]["timer"] != kernels[65]["timer"]);
}

TEST_CASE("an aborted communicator ends at once, and tells nothing afterwards") {
  Rank rank(kAll, {0, 1});
  rank.call(op(Function::all_reduce, kBig));
  const OperationTrace trace = rank.launched.at(0).trace;
  rank.profiler->started(trace);
  wait_for([&] { return !Recording(rank.file()).starts(kEventProxyOp).empty(); });
  const size_t before = rank.end(true).calls().size();
  rank.profiler->met(trace);
  rank.profiler->moved(trace);
  rank.profiler->done(trace);
  rank.call(op(Function::all_reduce));
  const Recording seen = rank.end(true);
  CHECK(seen.calls().size() == before);
  CHECK(seen.calls().back().call == "finalize");
  CHECK(seen.life(seen.starts(kEventProxyOp).at(0).handle).find("stop") == std::string::npos);
}

TEST_CASE("abort from another thread while calls, kernels and the proxy are at work") {
  for (int round = 0; round < 20; ++round) {
    Rank rank(kAll, {0, 1});
    std::thread aborting([&] {
      ::usleep(static_cast<useconds_t>(round * 100));
      rank.profiler->close(true);
    });
    for (int i = 0; i < 50; ++i) {
      rank.call(op(Function::all_reduce, kBig / 16));
      rank.run();
    }
    aborting.join();
    CHECK(rank.end(true).calls().back().call != "");
  }
}

// NCCL looks once; so each way takes a process of its own. Returns the calls that were recorded.
size_t calls_with(const char* plugin, const char* folder) {
  const TempFolder home;
  const std::string count = home / "count";
  const pid_t child = ::fork();
  if (child == 0) {
    // The loader reads its path when a program starts.
    ::setenv("LD_LIBRARY_PATH", folder, 1);
    ::setenv("PLUGIN", plugin, 1);
    ::setenv("COUNT", count.c_str(), 1);
    ::execl("/proc/self/exe", "test", "[.child]", nullptr);
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(status == 0);
  size_t calls = 0;
  std::ifstream(count) >> calls;
  return calls;
}

TEST_CASE("child: one collective with the plugin that the environment names", "[.child]") {
  Rank rank(kCaller, {0, 0}, std::getenv("PLUGIN"));
  rank.call(op(Function::all_reduce));
  rank.run();
  std::ofstream(std::getenv("COUNT")) << rank.end().calls().size();
}

TEST_CASE("the plugin is found by path, library name, suffix, in the program, or not at all") {
  const std::string folder = std::filesystem::path(RECORDING_PROFILER).parent_path().string();
  const size_t all = 2 + 12;
  CHECK(calls_with(RECORDING_PROFILER, "") == all);
  CHECK(calls_with("libnccl-profiler-recording.so", folder.c_str()) == all);
  CHECK(calls_with("recording", folder.c_str()) == all);
  CHECK(calls_with("", folder.c_str()) == 0);  // libnccl-profiler.so, which isn't there
  CHECK(calls_with("none", folder.c_str()) == 0);
  CHECK(calls_with("/no/such/plugin.so", folder.c_str()) == 0);
  CHECK(calls_with("STATIC_PLUGIN", folder.c_str()) == 0);  // this program has none
}

TEST_CASE("a plugin of version 5 doesn't get the copy engine's bits") {
  Rank rank(kAll | kEventCeColl | kEventCeSync, {0, 0}, RECORDING_PROFILER_V5);
  CHECK(ProfilerPlugin::get().mask() == kAll);
  rank.call(op(Function::all_reduce));
  rank.run();
  CHECK(rank.end().starts(kEventColl).size() == 1);
  Rank v6(kAll | kEventCeColl);
  CHECK(ProfilerPlugin::get().mask() == (kAll | kEventCeColl));
}

TEST_CASE("a plugin whose init fails is gone, and the job goes on") {
  set("RECORDING_FAIL", "1");
  Rank rank(kAll);
  ::unsetenv("RECORDING_FAIL");
  rank.call(op(Function::all_reduce));
  rank.run();
  const Recording seen = rank.end();
  REQUIRE(seen.calls().size() == 1);
  CHECK(seen.calls()[0].call == "init");
}

}  // namespace
}  // namespace convoy::standin::nccl
