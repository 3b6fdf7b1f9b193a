// Method: two ranks, processes, perform real operations with the recording plugin, as a library and
// as part of this program; the files say what each rank's plugin was told. Orders are those of NCCL
// 2.30.7. Not checked: each event's details (profiler_test.cc), and when something is told.
#include "src/standin/nccl/profiler_abi.h"
#include "tests/standin/nccl_ranks.h"
#include "tests/standin/recording.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <cstdlib>
#include <set>
#include <thread>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

constexpr int kAll = 4095;
constexpr int kApi = kEventGroupApi | kEventCollApi | kEventP2pApi | kEventKernelLaunch;
constexpr int kCaller = kApi | kEventGroup | kEventColl | kEventP2p;
constexpr int kProxy = kEventProxyOp | kEventProxyStep | kEventProxyCtrl | kEventKernelCh;
constexpr size_t kCount = 1000;
const char* const kOneCollective =
    "GroupApi< GroupApi:23 CollApi< CollApi> GroupApi:24 KernelLaunch< KernelLaunch> Group< Coll< "
    "Coll> Group> GroupApi>";

ncclResult_t sum(const Floats& data, ncclComm_t comm, cudaStream_t stream) {
  return ncclAllReduce(data.data(), data.data(), data.bytes() / sizeof(float), ncclFloat32, ncclSum,
                       comm, stream);
}

// A run of two ranks with a plugin; afterwards what each one recorded.
class Recorded {
 public:
  Recorded(const std::function<void(Rank&, ncclComm_t)>& body,
           const char* plugin = RECORDING_PROFILER, const Environment& more = {},
           bool remote = false, int mask = kAll) {
    Environment environment = {{"NCCL_PROFILER_PLUGIN", plugin},
                               {"RECORDING_MASK", std::to_string(mask)}};
    environment.insert(more.begin(), more.end());
    outcome = run_ranks(
        2,
        [&](Rank& rank) {
          ::setenv("RECORDING_FILE", file(rank.rank).c_str(), 1);
          if (remote) ::setenv("NCCL_HOSTID", std::to_string(rank.rank).c_str(), 1);
          ncclConfig_t config = config_named("dp");
          body(rank, rank.make(&config));
        },
        environment);
  }
  Recording of(int rank) const { return Recording(file(rank)); }
  std::string file(int rank) const { return folder_ / ("rank-" + std::to_string(rank)); }

  Outcome outcome;

 private:
  TempFolder folder_;
};

void require_well(const Recorded& recorded) {
  INFO(recorded.outcome.all());
  REQUIRE(recorded.outcome.is_well());
  REQUIRE_FALSE(recorded.outcome.says("convoy stand-in: collective"));
}

void one_collective(Rank&, ncclComm_t comm) {
  const CudaStream stream;
  const Floats data(kCount, 1);
  OK(sum(data, comm, stream));
  stream.wait();
  EXPECT(all_are(data, 2));
  OK(ncclCommDestroy(comm));
}

TEST_CASE("one collective: the whole communicator's life on both ranks") {
  const Recorded recorded(one_collective);
  require_well(recorded);
  std::set<std::string> ids;
  for (int r = 0; r < 2; ++r) {
    const Recording seen = recorded.of(r);
    REQUIRE(!seen.calls().empty());
    const RecordedCall& begin = seen.calls().front();
    CHECK(begin.call == "init");
    CHECK(begin["version"] == "6");  // the library has both
    CHECK(begin["name"] == "dp");
    CHECK(begin["nodes"] == "1");
    CHECK(begin["nranks"] == "2");
    CHECK(begin["rank"] == std::to_string(r));
    ids.insert(begin["comm"]);
    CHECK(seen.calls().back().call == "finalize");
    CHECK(seen.order(kCaller) == kOneCollective);
    const auto group = seen.starts(kEventGroupApi).at(0), api = seen.starts(kEventCollApi).at(0),
               coll = seen.starts(kEventColl).at(0), kernel = seen.starts(kEventKernelCh).at(0);
    CHECK(api.parent == group.handle);
    CHECK(coll.parent == api.handle);
    CHECK(kernel.parent == coll.handle);
    CHECK(api["func"] == "AllReduce");
    CHECK(api["count"] == std::to_string(kCount));
    CHECK(coll["dtype"] == "ncclFloat32");
    CHECK(coll["seq"] == "0");
    CHECK(seen.life(kernel.handle) == "start 22 stop");
    for (const RecordedCall& call : seen.calls()) {
      if ((call.type & kCaller) != 0) CHECK(call.thread == group.thread);
      if ((call.type & kProxy) != 0) CHECK(call.thread == kernel.thread);
    }
    CHECK(kernel.thread != group.thread);
  }
  CHECK(ids.size() == 1);
}

TEST_CASE("a plugin of version 5, and one that is the program itself") {
  const Recorded v5(one_collective, RECORDING_PROFILER_V5);
  require_well(v5);
  CHECK(v5.of(0).calls().front()["version"] == "5");
  CHECK(v5.of(1).order(kCaller) == kOneCollective);
  const Recorded program(one_collective, "STATIC_PLUGIN");
  require_well(program);
  CHECK(program.of(0).calls().front()["version"] == "6");
  CHECK(program.of(1).order(kCaller) == kOneCollective);
  CHECK(program.of(1).calls().back().call == "finalize");
}

TEST_CASE("no plugin, and one that refuses: operations go on, nothing is told") {
  const Recorded none(one_collective, "none");
  require_well(none);
  CHECK(none.of(0).calls().empty());
  const Recorded refuses(one_collective, RECORDING_PROFILER, {{"RECORDING_FAIL", "1"}});
  require_well(refuses);
  CHECK(refuses.of(0).calls().size() == 1);
}

TEST_CASE("a group over two communicators: one GroupApi, a launch for each") {
  const Recorded recorded([](Rank& rank, ncclComm_t comm) {
    ncclConfig_t config = config_named("tp");
    const ncclComm_t other = rank.make(&config);
    const CudaStream stream, second;
    const Floats a(kCount, 1), b(kCount, 1), c(kCount, 7);
    OK(ncclGroupStart());
    OK(sum(a, comm, stream));
    OK(ncclSend(c.data(), 10, ncclFloat32, 1 - rank.rank, other, second));
    OK(ncclRecv(b.data(), 10, ncclFloat32, 1 - rank.rank, other, second));
    OK(ncclGroupEnd());
    stream.wait();
    second.wait();
    EXPECT(b.values()[9] == 7);
    OK(ncclCommDestroy(other));
    OK(ncclCommDestroy(comm));
  });
  require_well(recorded);
  const Recording seen = recorded.of(0);
  CHECK(seen.order(kCaller) ==
        "GroupApi< GroupApi:23 CollApi< CollApi> P2pApi< P2pApi> P2pApi< P2pApi> GroupApi:24 "
        "KernelLaunch< KernelLaunch> Group< Coll< Coll> Group> KernelLaunch< KernelLaunch> Group< "
        "P2p< P2p< P2p> P2p> Group> GroupApi>");
  CHECK(seen.starts(kEventGroupApi).at(0)["depth"] == "2");
  CHECK(seen.starts(kEventP2p).at(0)["peer"] == "1");
  for (const auto& kernel : seen.starts(kEventKernelCh)) {
    CHECK(seen.life(kernel.handle) == "start 22 stop");
  }
  CHECK(seen.starts(kEventKernelCh).size() == 3);
}

// RECORDED_ON_GPU: the same plugin's file of one rank of train_llama (tp=2, pp=2) on an H100:
// pipeline neighbours that connect, a received hidden state, sums in the tensor-parallel group.
TEST_CASE("messages and collectives are told in the order in which an H100 told them") {
  const Recorded recorded([](Rank& rank, ncclComm_t comm) {
    const CudaStream stream;
    const Floats out(kCount, 1), in(kCount, 0);
    const int peer = 1 - rank.rank;
    OK(ncclGroupStart());
    OK(ncclSend(out.data(), 1, ncclFloat32, peer, comm, stream));
    OK(ncclRecv(in.data(), 1, ncclFloat32, peer, comm, stream));
    OK(ncclGroupEnd());
    if (rank.rank == 0) {
      OK(ncclSend(out.data(), kCount, ncclFloat32, peer, comm, stream));
    } else {
      OK(ncclRecv(in.data(), kCount, ncclFloat32, peer, comm, stream));
    }
    OK(sum(in, comm, stream));
    stream.wait();
    OK(ncclCommDestroy(comm));
  });
  require_well(recorded);
  const Recording hardware(RECORDED_ON_GPU), standin = recorded.of(1);
  const std::string told = standin.order(kCaller);
  CHECK(told.size() > 300);
  CHECK(hardware.order(kCaller).substr(0, told.size()) == told);
  for (const int type : {kEventGroupApi, kEventCollApi, kEventP2pApi, kEventKernelLaunch,
                         kEventGroup, kEventColl, kEventP2p, kEventKernelCh}) {
    const uint64_t ours = standin.starts(type).at(0).handle;
    CHECK(hardware.life(hardware.starts(type).at(0).handle) == standin.life(ours));
  }
}

TEST_CASE("every operation is told as NCCL tells it") {
  const Recorded recorded([](Rank& rank, ncclComm_t comm) {
    const CudaStream s;
    const Floats in(2 * kCount, 1), out(2 * kCount, 0);
    float *i = in.data(), *o = out.data();
    OK(ncclAllGather(i, o, kCount, ncclFloat32, comm, s));
    OK(ncclReduceScatter(i, o, kCount, ncclFloat32, ncclSum, comm, s));
    OK(ncclReduce(i, o, kCount, ncclFloat32, ncclSum, 1, comm, s));
    OK(ncclBroadcast(i, o, kCount, ncclFloat32, 1, comm, s));
    OK(ncclAlltoAll(i, o, kCount, ncclFloat32, comm, s));
    OK(ncclGather(i, o, kCount, ncclFloat32, 0, comm, s));
    OK(ncclScatter(i, o, kCount, ncclFloat32, 0, comm, s));
    OK(sum(in, comm, s));
    OK(sum(in, comm, s));
    OK(ncclAllReduce(i, o, 0, ncclFloat32, ncclSum, comm, s));
    s.wait();
    (void)rank;
    OK(ncclCommDestroy(comm));
  });
  require_well(recorded);
  const Recording seen = recorded.of(1);
  std::string colls, messages;
  for (const auto& coll : seen.starts(kEventColl)) colls += coll["func"] + coll["seq"] + " ";
  for (const auto& p2p : seen.starts(kEventP2p)) messages += p2p["func"] + p2p["peer"] + " ";
  CHECK(colls == "AllGather0 ReduceScatter0 Reduce0 AllReduce0 AllReduce1 ");
  CHECK(messages == "Send0 Recv0 Send1 Recv1 Send0 Recv0 ");
  CHECK(seen.starts(kEventCollApi).size() == 6);  // and Broadcast's
}

TEST_CASE("ranks of two nodes: the proxies tell their steps, sends and receives") {
  const Recorded recorded(
      [](Rank& rank, ncclComm_t comm) {
        const CudaStream stream;
        const Floats big(1 << 20, 1);
        OK(sum(big, comm, stream));
        if (rank.rank == 0) {
          OK(ncclSend(big.data(), 1 << 20, ncclFloat32, 1, comm, stream));
        } else {
          OK(ncclRecv(big.data(), 1 << 20, ncclFloat32, 0, comm, stream));
        }
        stream.wait();
        OK(ncclCommDestroy(comm));
      },
      RECORDING_PROFILER, {}, true);
  require_well(recorded);
  for (int r = 0; r < 2; ++r) {
    const Recording seen = recorded.of(r);
    CHECK(seen.calls().front()["nodes"] == "2");
    const auto proxies = seen.starts(kEventProxyOp);
    CHECK(proxies.size() == 4 + 2);  // both ways on two channels, then one way
    std::set<uint64_t> sends;
    for (const auto& proxy : proxies) {
      CHECK(proxy["peer"] == std::to_string(1 - r));
      CHECK(seen.life(proxy.handle) == "start 19 stop");
      if (proxy["send"] == "1") sends.insert(proxy.handle);
    }
    CHECK(sends.size() == (r == 0 ? 4 : 2));
    CHECK(seen.starts(kEventProxyStep).size() == 4 * 4 + 2 * 4);
    for (const auto& step : seen.starts(kEventProxyStep)) {
      const bool is_send = sends.count(step.parent) != 0;
      CHECK(seen.life(step.handle) == (is_send ? "start 8 20 9 stop" : "start 10 11 12 stop"));
    }
  }
}

TEST_CASE("children have contexts of their own; the plugin stays until the last has gone") {
  const Recorded recorded([](Rank& rank, ncclComm_t comm) {
    ncclConfig_t config = config_named("child");
    ncclComm_t child = nullptr;
    OK(ncclCommSplit(comm, 0, -rank.rank, &child, &config));
    EXPECT(sum_of(child, 1) == 2);
    OK(ncclCommDestroy(comm));
    EXPECT(sum_of(child, 1) == 2);
    OK(ncclCommDestroy(child));
  });
  require_well(recorded);
  const Recording seen = recorded.of(0);
  std::vector<RecordedCall> begins, ends;
  for (const RecordedCall& call : seen.calls()) {
    if (call.call == "init") begins.push_back(call);
    if (call.call == "finalize") ends.push_back(call);
  }
  REQUIRE(begins.size() == 2);
  CHECK(begins[1]["name"] == "child");
  CHECK(begins[1]["rank"] == "1");
  CHECK(begins[1]["comm"] != begins[0]["comm"]);
  REQUIRE(ends.size() == 2);
  CHECK(ends[0].handle == begins[0].handle);
  CHECK(ends[1].handle == begins[1].handle);
  for (const auto& coll : seen.starts(kEventColl)) {
    CHECK(coll["context"] == std::to_string(begins[1].handle));
  }
}

TEST_CASE("a non-blocking communicator tells the same") {
  const Recorded recorded([](Rank& rank, ncclComm_t comm) {
    OK(ncclCommDestroy(comm));
    ncclConfig_t config = config_named("late");
    config.blocking = 0;
    ncclComm_t late = nullptr;
    EXPECT(ncclCommInitRankConfig(&late, 2, rank.next_id(), rank.rank, &config) == ncclInProgress);
    EXPECT(settled(late) == ncclSuccess);
    const CudaStream stream;
    const Floats data(kCount, 1);
    EXPECT(sum(data, late, stream) == ncclInProgress);
    EXPECT(settled(late) == ncclSuccess);
    stream.wait();
    EXPECT(ncclCommFinalize(late) == ncclInProgress);
    EXPECT(settled(late) == ncclSuccess);
    OK(ncclCommDestroy(late));
  });
  require_well(recorded);
  CHECK(recorded.of(0).order(kCaller) == kOneCollective);
  CHECK(recorded.of(0).calls().back().call == "finalize");
}

// --- With faults.

TEST_CASE("a kernel that hangs has begun and doesn't end; an abort ends the plugin's context") {
  const Recorded recorded(
      [](Rank& rank, ncclComm_t comm) {
        EXPECT(sum_of(comm, 1) == 2);
        const CudaStream stream;
        const Floats data(kCount, 1);
        OK(sum(data, comm, stream));
        const std::string path = std::getenv("RECORDING_FILE");
        // Both kernels run, on the rank that hangs too.
        EXPECT(becomes_true([&] { return Recording(path).starts(kEventKernelCh).size() == 2; }));
        EXPECT(rank.says(rank.rank == 0 ? "collective never met" : "strikes rank 1"));
        rank.meet();
        EXPECT(is_running(stream));
        OK(ncclCommAbort(comm));
        stream.wait();
      },
      RECORDING_PROFILER,
      {{"CONVOY_STANDIN_NCCL_FAULT", "do=hang rank=1 op=2"}, {"CONVOY_STANDIN_NOTICE_S", "0.5"}});
  INFO(recorded.outcome.all());
  CHECK(recorded.outcome.is_well());
  for (int r = 0; r < 2; ++r) {
    const Recording seen = recorded.of(r);
    const auto kernels = seen.starts(kEventKernelCh);
    REQUIRE(kernels.size() == 2);
    CHECK(seen.life(kernels[0].handle) == "start 22 stop");
    CHECK(seen.life(kernels[1].handle) == "start");
    CHECK(seen.life(seen.starts(kEventColl).at(1).handle) == "start stop");
    CHECK(seen.calls().back().call == "finalize");
  }
}

TEST_CASE("a delayed proxy tells nothing of an operation that has long been done") {
  const Recorded recorded(
      [](Rank& rank, ncclComm_t comm) {
        EXPECT(sum_of(comm, 1) == 2);
        EXPECT(sum_of(comm, 1) == 2);
        EXPECT(rank.has_said("fault 'do=proxy_delay rank=1 op=2 by=1000s' strikes") ==
               (rank.rank == 1));
        const std::string path = std::getenv("RECORDING_FILE");
        const auto kernels = [&] { return Recording(path).starts(kEventKernelCh).size(); };
        if (rank.rank == 0) EXPECT(becomes_true([&] { return kernels() == 2; }));
        rank.meet();
        OK(ncclCommAbort(comm));  // destroy would wait for the proxy
      },
      RECORDING_PROFILER, {{"CONVOY_STANDIN_NCCL_FAULT", "do=proxy_delay rank=1 op=2 by=1000s"}});
  INFO(recorded.outcome.all());
  CHECK(recorded.outcome.is_well());
  CHECK(recorded.of(0).starts(kEventKernelCh).size() == 2);
  CHECK(recorded.of(1).starts(kEventKernelCh).size() <= 1);
  CHECK(recorded.of(1).starts(kEventColl).size() == 2);
}

TEST_CASE("a delay that ends: everything is told, late") {
  const Recorded recorded(
      [](Rank&, ncclComm_t comm) {
        for (int i = 0; i < 4; ++i) EXPECT(sum_of(comm, 1) == 2);
        OK(ncclCommDestroy(comm));
      },
      RECORDING_PROFILER, {{"CONVOY_STANDIN_NCCL_FAULT", "do=proxy_delay op=2 by=100ms"}}, true);
  require_well(recorded);
  for (int r = 0; r < 2; ++r) {
    const Recording seen = recorded.of(r);
    CHECK(seen.starts(kEventKernelCh).size() == 4);
    for (const auto& proxy : seen.starts(kEventProxyOp)) {
      CHECK(seen.life(proxy.handle) == "start 19 stop");
    }
  }
}

TEST_CASE("abort from another thread while operations are told") {
  const Recorded recorded(
      [](Rank& rank, ncclComm_t comm) {
        const CudaStream stream;
        const Floats data(kCount, 0);
        std::thread aborting([&] {
          pause_ms(20);
          OK(ncclCommAbort(comm));
        });
        // Errors from some call on, and no crash.
        for (int i = 0; i < 200; ++i) (void)sum(data, comm, stream);
        aborting.join();
        stream.wait();
        (void)rank;
      },
      RECORDING_PROFILER, {}, true);
  INFO(recorded.outcome.all());
  CHECK(recorded.outcome.is_well());
  CHECK(recorded.of(0).calls().back().call != "init");
}

}  // namespace
}  // namespace convoy::standin::nccl
