// Method: ranks are processes, or threads of one, and call NCCL as its documentation says and
// against it; results, states and error codes are compared with the documentation. Covers how
// communicators begin and end, non-blocking mode, groups, streams, registration and one-sided
// operations. Not checked: children (nccl_children_test.cc), failures (nccl_failure_test.cc).
#include "tests/standin/nccl_ranks.h"

#include <catch2/catch.hpp>

#include <cstring>
#include <memory>
#include <thread>

// Of nccl_device.h, which needs a compiler for GPUs.
extern "C" ncclResult_t ncclGetPeerDevicePointer(ncclWindow_t window, size_t offset, int peer,
                                                 void** out);

namespace convoy::standin::nccl {
namespace {

constexpr size_t kCount = 1000;

void require_well(const Outcome& outcome) {
  INFO(outcome.all());
  REQUIRE(outcome.is_well());
  REQUIRE_FALSE(outcome.says("convoy stand-in:"));
}

ncclResult_t sum(const Floats& data, ncclComm_t comm, cudaStream_t stream) {
  return ncclAllReduce(data.data(), data.data(), data.bytes() / sizeof(float), ncclFloat32, ncclSum,
                       comm, stream);
}

// --- The beginning.

TEST_CASE("a communicator knows its ranks, and several ids are as good as one") {
  require_well(run_ranks(3, [](Rank& rank) {
    int version = 0;
    OK(ncclGetVersion(&version));
    EXPECT(version == NCCL_VERSION_CODE);
    EXPECT(std::string(ncclGetErrorString(ncclRemoteError)).find("remote") != std::string::npos);
    ncclUniqueId ids[] = {rank.next_id(), rank.next_id()};
    ncclComm_t comm = nullptr;
    ncclConfig_t config = config_named("dp");
    OK(ncclCommInitRankScalable(&comm, rank.n, rank.rank, 2, ids, &config));
    int value = -1;
    OK(ncclCommCount(comm, &value));
    EXPECT(value == 3);
    OK(ncclCommUserRank(comm, &value));
    EXPECT(value == rank.rank);
    OK(ncclCommCuDevice(comm, &value));
    int device = -1;
    CUDA(cudaGetDevice(&device));
    EXPECT(value == device);
    EXPECT(sum_of(comm, static_cast<float>(rank.rank + 1)) == 6);
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("bad arguments of the beginning are refused") {
  require_well(run_ranks(1, [](Rank& rank) {
    const ncclUniqueId id = rank.next_id();
    ncclComm_t comm = nullptr;
    EXPECT(ncclCommInitRank(nullptr, 1, id, 0) == ncclInvalidArgument);
    EXPECT(ncclCommInitRank(&comm, 1, id, 1) == ncclInvalidArgument);
    EXPECT(ncclCommInitRank(&comm, 0, id, 0) == ncclInvalidArgument);
    EXPECT(comm == nullptr);
    ncclConfig_t config{};  // not from NCCL_CONFIG_INITIALIZER
    EXPECT(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclInvalidArgument);
    ncclUniqueId rubbish;
    std::memset(&rubbish, 7, sizeof rubbish);
    EXPECT(ncclCommInitRank(&comm, 1, rubbish, 0) == ncclInternalError);
    EXPECT(ncclCommInitRankScalable(&comm, 1, 0, 2, &rubbish, nullptr) == ncclInvalidArgument);
    OK(ncclCommInitRank(&comm, 1, id, 0));
    ncclComm_t second = nullptr;  // an id serves one communicator
    EXPECT(ncclCommInitRank(&second, 1, id, 0) != ncclSuccess);
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("a rank that comes twice, and ranks that disagree on their number, are refused") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        const ncclUniqueId id = rank.next_id();
        ncclComm_t comm = nullptr;
        if (rank.rank == 0) {
          ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
          config.blocking = 0;
          EXPECT(ncclCommInitRankConfig(&comm, 2, id, 0, &config) == ncclInProgress);
          EXPECT(rank.says("initialisation waited"));  // has its place
        }
        rank.meet();
        if (rank.rank == 1) {
          EXPECT(ncclCommInitRank(&comm, 3, id, 1) == ncclInvalidArgument);
          EXPECT(comm == nullptr);
          EXPECT(ncclCommInitRank(&comm, 2, id, 0) == ncclInvalidUsage);
        }
        rank.meet();
        // Nobody else will ever come: an abort ends the initialisation.
        if (rank.rank == 0) OK(ncclCommAbort(comm));
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.says("the communicator's initialisation waited"));
}

TEST_CASE("two ranks on one device are refused, with a finding") {
  const Outcome outcome = run_ranks(2, [](Rank& rank) {
    CUDA(cudaSetDevice(0));
    ncclComm_t comm = nullptr;
    EXPECT(ncclCommInitRank(&comm, 2, rank.next_id(), rank.rank) == ncclInvalidUsage);
    EXPECT(comm == nullptr);
    EXPECT(std::string(ncclGetLastError(nullptr)).find("Duplicate GPU") != std::string::npos);
  });
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.says("wrong device: ranks 0 and 1 both use device 0 of one node"));
}

// --- Non-blocking.

TEST_CASE("non-blocking: in progress until the query says success, and not used before that") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclUniqueId id = rank.next_id();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm = nullptr;
    if (rank.rank == 1) rank.meet();
    EXPECT(ncclCommInitRankConfig(&comm, 2, id, rank.rank, &config) == ncclInProgress);
    const CudaStream stream;
    const Floats data(kCount, 1);
    if (rank.rank == 0) {  // the other one can't be there
      ncclResult_t state = ncclSuccess;
      OK(ncclCommGetAsyncError(comm, &state));
      EXPECT(state == ncclInProgress);
      int count = 0;
      EXPECT(ncclCommCount(comm, &count) == ncclInvalidArgument);
      EXPECT(sum(data, comm, stream) == ncclInvalidArgument);
      EXPECT(ncclCommFinalize(comm) == ncclInvalidArgument);
      EXPECT(ncclCommDestroy(comm) == ncclInvalidArgument);
      rank.meet();
    }
    EXPECT(settled(comm) == ncclSuccess);
    // So is a launch, whether or not it is done.
    EXPECT(sum(data, comm, stream) == ncclInProgress);
    EXPECT(sum(data, comm, stream) == ncclInvalidArgument);
    EXPECT(settled(comm) == ncclSuccess);
    stream.wait();
    EXPECT(all_are(data, 2));
    OK(ncclGroupStart());
    OK(sum(data, comm, stream));
    OK(sum(data, comm, stream));
    EXPECT(ncclGroupEnd() == ncclInProgress);
    EXPECT(settled(comm) == ncclSuccess);
    stream.wait();
    EXPECT(all_are(data, 8));
    EXPECT(ncclCommFinalize(comm) == ncclInProgress);
    EXPECT(settled(comm) == ncclSuccess);
    OK(ncclCommDestroy(comm));
  }));
}

// --- Groups and streams.

TEST_CASE("nested groups launch at the outermost end; collectives and messages fuse") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream stream;
    const Floats a(kCount, 1), b(kCount, 2), mine(kCount, static_cast<float>(rank.rank));
    const Floats theirs(kCount, -1);
    OK(ncclGroupStart());
    OK(sum(a, comm, stream));
    OK(ncclGroupStart());
    OK(ncclSend(mine.data(), kCount, ncclFloat32, 1 - rank.rank, comm, stream));
    OK(ncclRecv(theirs.data(), kCount, ncclFloat32, 1 - rank.rank, comm, stream));
    OK(ncclGroupEnd());
    stream.wait();
    EXPECT(all_are(a, 1));  // nothing has been launched
    OK(sum(b, comm, stream));
    OK(ncclGroupEnd());
    stream.wait();
    EXPECT(all_are(a, 2));
    EXPECT(all_are(b, 4));
    EXPECT(all_are(theirs, static_cast<float>(1 - rank.rank)));
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("messages of a group make progress together, those of a pair in their order") {
  require_well(run_ranks(4, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream stream;
    constexpr int kEach = 3;
    std::vector<std::unique_ptr<Floats>> out, in;
    OK(ncclGroupStart());
    for (int i = 0; i < kEach; ++i) {
      for (int peer = 0; peer < rank.n; ++peer) {  // oneself too
        out.push_back(
            std::make_unique<Floats>(kCount, static_cast<float>(100 * rank.rank + 10 * peer + i)));
        in.push_back(std::make_unique<Floats>(kCount, -1.0F));
        OK(ncclSend(out.back()->data(), kCount, ncclFloat32, peer, comm, stream));
        OK(ncclRecv(in.back()->data(), kCount, ncclFloat32, peer, comm, stream));
      }
    }
    OK(ncclGroupEnd());
    stream.wait();
    for (int i = 0; i < kEach; ++i) {
      for (int peer = 0; peer < rank.n; ++peer) {
        EXPECT(all_are(*in[static_cast<size_t>(i * rank.n + peer)],
                       static_cast<float>(100 * peer + 10 * rank.rank + i)));
      }
    }
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("several communicators in one group, called in different orders by the ranks") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclComm_t comms[] = {rank.make(), rank.make()};
    const CudaStream streams[2];
    const Floats a(kCount, 1), b(kCount, 5);
    const Floats* data[] = {&a, &b};
    OK(ncclGroupStart());
    for (int i = 0; i < 2; ++i) {
      const int which = i ^ rank.rank;
      OK(sum(*data[which], comms[which], streams[which]));
    }
    OK(ncclGroupEnd());
    for (const CudaStream& stream : streams) stream.wait();
    EXPECT(all_are(a, 2));
    EXPECT(all_are(b, 10));
    for (const ncclComm_t comm : comms) OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("operations of one communicator follow each other on different streams too") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream first, second;
    const Floats data(kCount, 1);
    static std::atomic<bool> was_late{false};
    CUDA(cudaLaunchHostFunc(
        first,
        [](void*) {
          pause_ms(200);
          was_late = true;
        },
        nullptr));
    OK(sum(data, comm, first));
    OK(sum(data, comm, second));
    second.wait();
    EXPECT(was_late);
    EXPECT(all_are(data, 4));
    // A group over both streams: it comes after both, and both after it.
    was_late = false;
    CUDA(cudaLaunchHostFunc(
        second,
        [](void*) {
          pause_ms(200);
          was_late = true;
        },
        nullptr));
    const Floats other(kCount, 1);
    OK(ncclGroupStart());
    OK(sum(data, comm, first));
    OK(sum(other, comm, second));
    OK(ncclGroupEnd());
    first.wait();
    EXPECT(was_late);
    EXPECT(all_are(data, 8));
    second.wait();
    EXPECT(all_are(other, 2));
    OK(ncclCommDestroy(comm));
  }));
}

// --- One process with several devices.

TEST_CASE("ncclCommInitAll: one thread drives all devices in groups, and ends them one by one") {
  require_well(
      run_ranks(1,
                [](Rank&) {
                  constexpr int kDevices = 4;
                  ncclComm_t comms[kDevices] = {};
                  OK(ncclCommInitAll(comms, kDevices, nullptr));
                  std::vector<std::unique_ptr<Floats>> data;
                  std::vector<std::unique_ptr<CudaStream>> streams;
                  for (int d = 0; d < kDevices; ++d) {
                    CUDA(cudaSetDevice(d));
                    data.push_back(std::make_unique<Floats>(kCount, static_cast<float>(d)));
                    streams.push_back(std::make_unique<CudaStream>());
                  }
                  OK(ncclGroupStart());
                  for (int d = 0; d < kDevices; ++d) OK(sum(*data[d], comms[d], *streams[d]));
                  OK(ncclGroupEnd());
                  for (int d = 0; d < kDevices; ++d) {
                    CUDA(cudaSetDevice(d));
                    streams[d]->wait();
                    EXPECT(all_are(*data[d], 6));
                  }
                  for (const ncclComm_t comm : comms) OK(ncclCommDestroy(comm));
                  EXPECT(ncclCommInitAll(comms, kDevices + 1, nullptr) == ncclUnhandledCudaError);
                },
                {{"CONVOY_STANDIN_GPUS", "4"}}));
}

TEST_CASE("ranks as threads of one process") {
  require_well(run_ranks(1,
                         [](Rank& rank) {
                           const ncclUniqueId id = rank.next_id();
                           std::vector<std::thread> threads;
                           for (int r = 0; r < 3; ++r) {
                             threads.emplace_back([r, id] {
                               CUDA(cudaSetDevice(r));
                               ncclComm_t comm = nullptr;
                               OK(ncclCommInitRank(&comm, 3, id, r));
                               for (int i = 0; i < 20; ++i)
                                 EXPECT(sum_of(comm, static_cast<float>(r)) == 3);
                               OK(ncclCommFinalize(comm));
                               OK(ncclCommDestroy(comm));
                             });
                           }
                           for (std::thread& thread : threads) thread.join();
                         },
                         {{"CONVOY_STANDIN_GPUS", "3"}}));
}

// --- The end.

TEST_CASE("finalize waits for what was launched; destroy then needs nobody") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream stream;
    const Floats data(kCount, 1);
    if (rank.rank == 1) pause_ms(100);
    OK(sum(data, comm, stream));
    OK(ncclCommFinalize(comm));
    EXPECT(!is_running(stream));
    EXPECT(all_are(data, 2));
    if (rank.rank == 0) OK(ncclCommDestroy(comm));
    rank.meet();
    if (rank.rank == 1) OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("a suspended communicator is not used until it is resumed") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    OK(ncclCommSuspend(comm, NCCL_SUSPEND_MEM));
    EXPECT(ncclCommSuspend(comm, NCCL_SUSPEND_MEM) == ncclInvalidUsage);
    const Floats data(1, 1);
    const CudaStream stream;
    EXPECT(sum(data, comm, stream) == ncclInvalidUsage);
    OK(ncclCommResume(comm));
    EXPECT(ncclCommResume(comm) == ncclInvalidUsage);
    EXPECT(sum_of(comm, 1) == 2);
    OK(ncclCommDestroy(comm));
  }));
}

// --- Memory.

TEST_CASE("registration: handles come and go, host memory is refused") {
  require_well(run_ranks(2, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    void *data = nullptr, *handle = nullptr;
    OK(ncclMemAlloc(&data, 4096));
    OK(ncclCommRegister(comm, data, 4096, &handle));
    OK(ncclCommDeregister(comm, handle));
    EXPECT(ncclCommDeregister(comm, handle) == ncclInvalidArgument);
    char host[16];
    EXPECT(ncclCommRegister(comm, host, sizeof host, &handle) == ncclInvalidArgument);
    OK(ncclMemFree(data));
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("windows: put with a signal, signals alone, and the peer's memory") {
  require_well(run_ranks(3, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const CudaStream stream;
    const int next = (rank.rank + 1) % rank.n, previous = (rank.rank + rank.n - 1) % rank.n;
    const Floats shared(2 * kCount, -1), mine(kCount, static_cast<float>(rank.rank));
    ncclWindow_t window = nullptr;
    OK(ncclCommWindowRegister(comm, shared.data(), shared.bytes(), &window, NCCL_WIN_DEFAULT));
    void* at = nullptr;
    OK(ncclWinGetUserPtr(comm, window, &at));
    EXPECT(at == shared.data());
    ncclWaitSignalDesc_t one{1, previous, 0, 0};
    for (int round = 1; round <= 3; ++round) {
      OK(ncclPutSignal(mine.data(), kCount, ncclFloat32, next, window, kCount * sizeof(float), 0, 0,
                       0, comm, stream));
      OK(ncclWaitSignal(1, &one, comm, stream));
      stream.wait();
      const std::vector<float> values = shared.values();
      EXPECT(values[0] == -1);
      EXPECT(values[kCount] == static_cast<float>(previous));
      EXPECT(values[2 * kCount - 1] == static_cast<float>(previous));
    }
    // Several signals of one peer, waited for at once.
    OK(ncclSignal(next, 0, 0, 0, comm, stream));
    OK(ncclSignal(next, 0, 0, 0, comm, stream));
    ncclWaitSignalDesc_t two{2, previous, 0, 0};
    OK(ncclWaitSignal(1, &two, comm, stream));
    stream.wait();
    rank.meet();
    void* theirs = nullptr;
    OK(ncclGetPeerDevicePointer(window, kCount * sizeof(float), next, &theirs));
    float value = -1;
    CUDA(cudaMemcpy(&value, theirs, sizeof value, cudaMemcpyDeviceToHost));
    EXPECT(value == static_cast<float>(rank.rank));  // I put it there
    EXPECT(ncclPutSignal(mine.data(), kCount, ncclFloat32, next, window, kCount * sizeof(float) + 4,
                         0, 0, 0, comm, stream) == ncclInvalidArgument);
    EXPECT(ncclPutSignal(mine.data(), 1, ncclFloat32, next, window, 0, 1, 0, 0, comm, stream) ==
           ncclInvalidArgument);
    OK(ncclCommWindowDeregister(comm, window));
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("what only kernels could use is refused as unsupported") {
  const Outcome outcome = run_ranks(1, [](Rank&) {
    ncclSimInfo_t info = NCCL_SIM_INFO_INITIALIZER;
    OK(ncclGroupStart());
    EXPECT(ncclGroupSimulateEnd(&info) == ncclInvalidUsage);
    OK(ncclGroupEnd());
  });
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.says("unsupported call: ncclGroupSimulateEnd"));
}

}  // namespace
}  // namespace convoy::standin::nccl
