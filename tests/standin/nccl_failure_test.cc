// Method: ranks disagree, die, stay away, or are struck by faults from the environment or the
// control socket. That a kernel hangs is seen by its stream still running after the stand-in has
// told of it; that it ends, by the stream's end after an abort. Findings are looked for in the
// rank's output. Not checked: how NCCL's own watchdogs (RAS) would report any of this.
#include "tests/standin/nccl_ranks.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <atomic>
#include <csignal>
#include <cstring>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

constexpr int kExitDeadline = 75;
constexpr const char* kWaits = "AllReduce of 8 float32 (sum), operation #";

ncclResult_t sum(const Floats& data, ncclComm_t comm, cudaStream_t stream, size_t count = 8) {
  return ncclAllReduce(data.data(), data.data(), count, ncclFloat32, ncclSum, comm, stream);
}

ncclResult_t state_of(ncclComm_t comm) {
  ncclResult_t state = ncclInternalError;
  OK(ncclCommGetAsyncError(comm, &state));
  return state;
}

// --- Ranks that disagree.

// A sends and receives in one group what B takes and sends one after the other.
Outcome exchange_unevenly(bool connected_before) {
  return run_ranks(2, [=](Rank& rank) {
    ncclComm_t comm = rank.make();
    const CudaStream stream;
    const Floats out(8, 1), in(8, 0);
    const int peer = 1 - rank.rank;
    const auto exchange = [&](bool in_one) {
      if (in_one) OK(ncclGroupStart());
      const auto send = [&] { OK(ncclSend(out.data(), 8, ncclFloat32, peer, comm, stream)); };
      if (in_one || rank.rank == 0) send();
      OK(ncclRecv(in.data(), 8, ncclFloat32, peer, comm, stream));
      if (in_one)
        OK(ncclGroupEnd());
      else if (rank.rank == 1)
        send();
    };
    if (connected_before) exchange(true);
    exchange(rank.rank == 0);
    stream.wait();
    EXPECT(all_are(in, 1));
    OK(ncclCommDestroy(comm));
  });
}

TEST_CASE("neighbours that connect in different directions are told, once connected they are not") {
  const Outcome first = exchange_unevenly(false);
  INFO(first.all());
  CHECK(first.is_well());
  CHECK(first.says("unmatched connection"));
  CHECK(first.says("by sending and receiving in one group"));
  const Outcome later = exchange_unevenly(true);
  INFO(later.all());
  CHECK(later.is_well());
  CHECK_FALSE(later.says("unmatched connection"));
}

struct Mismatch {
  const char* name;
  ncclResult_t (*call)(int rank, float* data, ncclComm_t comm, cudaStream_t stream);
  const char* found;
};
const Mismatch kMismatches[] = {
    {"order",
     [](int rank, float* d, ncclComm_t comm, cudaStream_t s) {
       return rank == 0 ? ncclAllReduce(d, d, 8, ncclFloat32, ncclSum, comm, s)
                        : ncclAllGather(d, d, 8, ncclFloat32, comm, s);
     },
     "rank 0 of 2 called AllReduce of 8 float32 (sum) as its operation #2, but rank 1 called "
     "AllGather of 8 float32 as its operation #2"},
    {"size",
     [](int rank, float* d, ncclComm_t comm, cudaStream_t s) {
       return ncclAllReduce(d, d, rank == 0 ? 8 : 7, ncclFloat32, ncclSum, comm, s);
     },
     "called AllReduce of 8 float32 (sum) as its operation #2, but rank 1 called AllReduce of 7"},
    {"type",
     [](int rank, float* d, ncclComm_t comm, cudaStream_t s) {
       return ncclAllReduce(d, d, 8, rank == 0 ? ncclFloat32 : ncclInt32, ncclSum, comm, s);
     },
     "but rank 1 called AllReduce of 8 int32 (sum)"},
    {"operator",
     [](int rank, float* d, ncclComm_t comm, cudaStream_t s) {
       return ncclAllReduce(d, d, 8, ncclFloat32, rank == 0 ? ncclSum : ncclMax, comm, s);
     },
     "but rank 1 called AllReduce of 8 float32 (max)"},
    {"root",
     [](int rank, float* d, ncclComm_t comm, cudaStream_t s) {
       return ncclBroadcast(d, d, 8, ncclFloat32, rank, comm, s);
     },
     "called Broadcast of 8 float32 with root 0 as its operation #2, but rank 1 called Broadcast "
     "of 8 float32 with root 1"},
    {"message",
     [](int rank, float* d, ncclComm_t comm, cudaStream_t s) {
       return rank == 0 ? ncclRecv(d, 8, ncclFloat32, 1, comm, s)
                        : ncclSend(d, 4, ncclFloat32, 0, comm, s);
     },
     "called Recv of 8 float32 from rank 1 as its operation #2, but rank 1 called Send of 4"}};

TEST_CASE("ranks that disagree hang, are found with both sides, and end by an abort") {
  for (const Mismatch& mismatch : kMismatches) {
    INFO(mismatch.name);
    const Outcome outcome = run_ranks(
        2,
        [&](Rank& rank) {
          const ncclComm_t comm = rank.make();
          EXPECT(sum_of(comm, 1) == 2);
          const CudaStream stream;
          const Floats data(64, 1);
          OK(mismatch.call(rank.rank, data.data(), comm, stream));
          if (rank.rank == 0) EXPECT(rank.says("collective mismatch"));
          rank.meet();
          pause_ms(50);
          EXPECT(is_running(stream));
          EXPECT(state_of(comm) == ncclSuccess);
          std::thread([&] { OK(ncclCommAbort(comm)); }).join();
          stream.wait();
        },
        kImpatient);
    INFO(outcome.all());
    CHECK(outcome.is_well());
    CHECK(outcome.says("collective mismatch: communicator"));
    CHECK(outcome.outputs[0].find(mismatch.found) != std::string::npos);
  }
}

TEST_CASE("two communicators in opposite order without a group: found as a deadlock") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        ncclConfig_t first = config_named("tp"), second = config_named("dp");
        const ncclComm_t comms[] = {rank.make(&first), rank.make(&second)};
        const CudaStream stream;
        const Floats data(8, 1);
        for (int i = 0; i < 2; ++i) OK(sum(data, comms[i ^ rank.rank], stream));
        EXPECT(rank.says(kWaits));
        EXPECT(is_running(stream));
        rank.meet();
        for (const ncclComm_t comm : comms) OK(ncclCommAbort(comm));
        stream.wait();
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.says("collective never met: communicator 'tp'"));
  CHECK(outcome.says("collective never met: communicator 'dp'"));
  CHECK(outcome.says("waited"));
  CHECK(outcome.says("(has begun no operation)"));
}

// --- Ranks that stay away.

TEST_CASE("abort from another thread ends a synchronize on a kernel that hangs") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        const ncclComm_t comm = rank.make();
        EXPECT(sum_of(comm, 1) == 2);
        if (rank.rank == 0) {
          const CudaStream stream;
          const Floats data(8, 1);
          OK(sum(data, comm, stream));
          OK(sum(data, comm, stream));  // one that hasn't begun, too
          std::thread aborting([&] {
            EXPECT(rank.says(kWaits));
            EXPECT(is_running(stream));
            OK(ncclCommAbort(comm));
          });
          stream.wait();
          aborting.join();
          EXPECT(all_are(data, 1));
          EXPECT(sum(data, comm, stream) == ncclInvalidArgument);
        }
        rank.meet();
        if (rank.rank == 1) OK(ncclCommAbort(comm));
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.says("AllReduce of 8 float32 (sum), operation #2, waited"));
  CHECK(outcome.says("for rank 1 (idle after AllReduce of 1 float32 (sum), its operation #1)"));
}

TEST_CASE("an abort waits for other communicators' kernels, unless all are aborted in one group") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        for (const bool together : {false, true}) {
          const ncclComm_t comms[] = {rank.make(), rank.make()};
          if (rank.rank == 0) {
            const CudaStream streams[2];
            const Floats data(8, 1);
            for (int i = 0; i < 2; ++i) OK(sum(data, comms[i], streams[i]));
            for (int i = 0; i < 2; ++i) EXPECT(rank.says(kWaits));
            std::atomic<bool> has_ended{false};
            std::thread aborting([&] {
              if (together) OK(ncclGroupStart());
              OK(ncclCommAbort(comms[0]));
              if (together) {
                OK(ncclCommAbort(comms[1]));
                OK(ncclGroupEnd());
              }
              has_ended = true;
            });
            streams[0].wait();
            if (!together) {
              std::this_thread::sleep_for(std::chrono::milliseconds(200));
              EXPECT(!has_ended);
              OK(ncclCommAbort(comms[1]));
            }
            aborting.join();
            streams[1].wait();
          }
          rank.meet();
          for (const ncclComm_t comm : comms) {
            if (rank.rank == 1) OK(ncclCommAbort(comm));
          }
        }
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
}

TEST_CASE("after the deadline the process ends, in whatever it hangs") {
  for (const bool mismatch : {false, true}) {
    const Outcome outcome =
        run_ranks(2,
                  [&](Rank& rank) {
                    const ncclComm_t comm = rank.make();
                    const CudaStream stream;
                    const Floats data(8, 1);
                    rank.meet();  // whoever dies has been in the communicator of all
                    if (!mismatch) rank.die(1);
                    OK(sum(data, comm, stream, rank.rank == 0 ? 8 : 7));
                    stream.wait();
                  },
                  {{"CONVOY_STANDIN_NOTICE_S", "0.2"}, {"CONVOY_STANDIN_DEADLINE_S", "2"}});
    INFO(outcome.all());
    CHECK(outcome.codes == std::vector<int>{kExitDeadline, mismatch ? kExitDeadline : -SIGKILL});
    CHECK(outcome.says("a GPU job would wait for ever; this process ends"));
    CHECK(outcome.says(mismatch ? "collective mismatch" : "has ended)"));
  }
}

TEST_CASE("destroy hangs when a peer of the same node has died, until somebody aborts") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        const ncclComm_t comm = rank.make();
        EXPECT(sum_of(comm, 1) == 2);
        rank.die(1);
        std::atomic<bool> destroyed{false};
        std::thread destroying([&] {
          OK(ncclCommDestroy(comm));
          destroyed = true;
        });
        EXPECT(rank.says("the communicator's end waited"));
        pause_ms(100);
        EXPECT(!destroyed);
        OK(ncclCommAbort(comm));
        destroying.join();
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.codes == std::vector<int>{0, -SIGKILL});
  CHECK(outcome.says("rank 1 (its process has ended) of the same node"));
}

TEST_CASE("destroy waits for a peer that has aborted instead, and says so") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        const ncclComm_t comm = rank.make();
        if (rank.rank == 1) return OK(ncclCommAbort(comm)), rank.meet();
        std::thread destroying([&] { OK(ncclCommDestroy(comm)); });
        EXPECT(rank.says("for rank 1 (has aborted or revoked it) of the same node"));
        OK(ncclCommAbort(comm));
        destroying.join();
        rank.meet();
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
}

TEST_CASE("a dead peer of the same node is no error; one of another node is ncclRemoteError") {
  for (const bool remote : {false, true}) {
    const Outcome outcome = run_ranks(
        2,
        [&](Rank& rank) {
          if (remote) ::setenv("NCCL_HOSTID", std::to_string(rank.rank).c_str(), 1);
          const ncclComm_t comm = rank.make();
          EXPECT(sum_of(comm, 1) == 2);
          rank.die(1);
          const CudaStream stream;
          const Floats data(8, 1);
          OK(sum(data, comm, stream));
          EXPECT(rank.says(kWaits));
          if (remote) EXPECT(becomes_true([&] { return state_of(comm) == ncclRemoteError; }));
          pause_ms(300);  // there are looks after peers meanwhile
          EXPECT(state_of(comm) == (remote ? ncclRemoteError : ncclSuccess));
          EXPECT(is_running(stream));  // the kernel doesn't end by itself
          if (remote) {
            EXPECT(sum(data, comm, stream) == ncclRemoteError);
            EXPECT(ncclCommDestroy(comm) == ncclRemoteError);
            EXPECT(std::string(ncclGetLastError(comm)).find("abort it") != std::string::npos);
          }
          OK(ncclCommAbort(comm));
          stream.wait();
        },
        kImpatient);
    INFO(outcome.all());
    CHECK(outcome.codes == std::vector<int>{0, -SIGKILL});
  }
}

// --- Faults on purpose.

Outcome with_fault(const char* fault, const std::function<void(Rank&, ncclComm_t)>& body,
                   Environment environment = kImpatient) {
  environment["CONVOY_STANDIN_NCCL_FAULT"] = fault;
  return run_ranks(
      2,
      [&](Rank& rank) {
        ncclConfig_t config = config_named("dp");
        body(rank, rank.make(&config));
      },
      environment);
}

TEST_CASE("fault hang: the operation named never begins on its rank, until an abort") {
  const Outcome outcome =
      with_fault("do=hang rank=1 op=3 comm=dp kind=AllReduce", [](Rank& rank, ncclComm_t comm) {
        for (int i = 0; i < 2; ++i) EXPECT(sum_of(comm, 1) == 2);
        const CudaStream stream;
        const Floats data(8, 1);
        OK(sum(data, comm, stream));
        EXPECT(rank.says(rank.rank == 1 ? "fault '" : kWaits));
        rank.meet();
        EXPECT(is_running(stream));
        EXPECT(state_of(comm) == ncclSuccess);
        OK(ncclCommAbort(comm));
        stream.wait();
        EXPECT(all_are(data, 1));
      });
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.outputs[1].find("fault 'do=hang rank=1 op=3 comm=dp kind=AllReduce' strikes rank 1 "
                                "of communicator 'dp' in AllReduce, its operation #3") !=
        std::string::npos);
  CHECK(outcome.outputs[0].find("for rank 1 (a fault holds it in AllReduce of 8 float32 (sum), its "
                                "operation #3)") != std::string::npos);
  CHECK(outcome.outputs[1].find("never met") == std::string::npos);
}

TEST_CASE("fault hang: of a message and of a one-sided operation") {
  const Outcome outcome =
      with_fault("do=hang kind=Send; do=hang kind=Signal", [](Rank& rank, ncclComm_t comm) {
        const CudaStream stream;
        const Floats data(8, 1);
        if (rank.rank == 0) {
          OK(ncclSend(data.data(), 8, ncclFloat32, 1, comm, stream));
        } else {
          OK(ncclSignal(0, 0, 0, 0, comm, stream));
        }
        EXPECT(rank.says("strikes rank"));
        EXPECT(is_running(stream));
        rank.meet();
        OK(ncclCommAbort(comm));
        stream.wait();
      });
  INFO(outcome.all());
  CHECK(outcome.is_well());
}

TEST_CASE("fault fail: an asynchronous error, and a kernel that hangs until the abort") {
  const struct {
    const char* fault;
    ncclResult_t result;
  } cases[] = {{"do=fail rank=0 op=2", ncclRemoteError},
               {"do=fail rank=0 op=2 result=system_error", ncclSystemError},
               {"do=fail rank=0 op=2 result=internal_error", ncclInternalError},
               {"do=fail rank=0 op=2 result=cuda_error", ncclUnhandledCudaError},
               {"do=fail rank=0 op=2 result=timeout", ncclTimeout}};
  for (const auto& one : cases) {
    const Outcome outcome = with_fault(one.fault, [&](Rank& rank, ncclComm_t comm) {
      EXPECT(sum_of(comm, 1) == 2);
      const CudaStream stream;
      const Floats data(8, 1);
      OK(sum(data, comm, stream));
      if (rank.rank == 0) {
        EXPECT(becomes_true([&] { return state_of(comm) != ncclSuccess; }));
        EXPECT(state_of(comm) == one.result);
        EXPECT(sum(data, comm, stream) == one.result);
      }
      rank.meet();
      EXPECT(is_running(stream));
      if (rank.rank == 1) EXPECT(state_of(comm) == ncclSuccess);
      OK(ncclCommAbort(comm));
      stream.wait();
    });
    INFO(outcome.all());
    CHECK(outcome.is_well());
    CHECK(outcome.says("strikes rank 0"));
  }
}

TEST_CASE("fault slow: the rank comes late by that, and everything is right") {
  const Outcome outcome =
      with_fault("do=slow rank=0 op=1+ by=100ms", [](Rank& rank, ncclComm_t comm) {
        const auto began = std::chrono::steady_clock::now();
        for (int i = 0; i < 3; ++i) EXPECT(sum_of(comm, 1) == 2);
        // A lower bound, for the peer too: nobody ends before the last one has come.
        EXPECT(std::chrono::steady_clock::now() - began >= std::chrono::milliseconds(300));
        OK(ncclCommDestroy(comm));
      });
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.outputs[0].find("its operation #3") != std::string::npos);
}

TEST_CASE("fault die: the process ends by SIGKILL in the operation") {
  const Outcome outcome = with_fault("do=die rank=1 op=2", [](Rank& rank, ncclComm_t comm) {
    EXPECT(sum_of(comm, 1) == 2);
    const CudaStream stream;
    const Floats data(8, 1);
    if (rank.rank == 0) EXPECT(rank.says("strikes rank 1", 1));
    OK(sum(data, comm, stream));
    EXPECT(rank.says(kWaits));
    OK(ncclCommAbort(comm));
    stream.wait();
  });
  INFO(outcome.all());
  CHECK(outcome.codes == std::vector<int>{0, -SIGKILL});
  CHECK(outcome.outputs[1].find("fault 'do=die rank=1 op=2' strikes") != std::string::npos);
  CHECK(outcome.outputs[0].find("has ended)") != std::string::npos);
}

TEST_CASE("a bad fault ends the rank with the code of a bad configuration") {
  const Outcome outcome = run_ranks(1, [](Rank& rank) { (void)rank.make(); },
                                    {{"CONVOY_STANDIN_NCCL_FAULT", "do=sing"}});
  INFO(outcome.all());
  CHECK(outcome.codes == std::vector<int>{64});
}

// --- The control socket.

// An answer of the process's socket, without the empty line.
std::string ask(const std::string& folder, int pid, const std::string& line) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder + "/" + std::to_string(pid) + ".sock";
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const timeval limit{60, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  EXPECT(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  (void)!::send(fd, (line + "\n").data(), line.size() + 1, MSG_NOSIGNAL);
  std::string all;
  char c = 0;
  while (::recv(fd, &c, 1, 0) == 1) {
    all += c;
    if (all == "\n" || (all.size() > 1 && all.substr(all.size() - 2) == "\n\n")) break;
  }
  ::close(fd);
  return all.empty() ? all : all.substr(0, all.size() - 1);
}

bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  std::fprintf(stderr, "'%s' isn't in '%s'\n", part.c_str(), text.c_str());
  return false;
}

TEST_CASE("the socket tells each communicator's state, and injects faults while it runs") {
  const TempFolder folder;
  const Outcome outcome = run_ranks(
      2,
      [&](Rank& rank) {
        ncclConfig_t config = config_named("dp");
        const ncclComm_t comm = rank.make(&config);
        const auto me = [&](const std::string& line) {
          return ask(folder.path(), ::getpid(), line);
        };
        EXPECT(has(me("status"), "1 communicators\ncommunicator 'dp' ("));
        EXPECT(has(me("status"),
                   "rank " + std::to_string(rank.rank) + " of 2: launched 0, entered 0, left 0\n"));
        EXPECT(sum_of(comm, 1) == 2);
        EXPECT(has(me("status"),
                   "launched 1, entered 1, left 1, idle after AllReduce of 1 float32 "
                   "(sum), operation #1\n"));
        if (rank.rank == 1) EXPECT(me("fault do=hang op=2+") == "ok\n");
        rank.meet();
        const CudaStream stream;
        const Floats data(8, 1);
        OK(sum(data, comm, stream));
        const std::string in = rank.rank == 1 ? "held by a fault" : "launched 2, entered 2, left 1";
        EXPECT(becomes_true([&] { return me("status").find(in) != std::string::npos; }));
        EXPECT(has(me("status"), "in AllReduce of 8 float32 (sum), operation #2"));
        if (rank.rank == 1) EXPECT(has(me("faults"), "do=hang op=2+: struck 1 times"));
        rank.meet();
        EXPECT(is_running(stream));
        OK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
        stream.wait();
        EXPECT(has(me("status"), ", revoked\n"));
        if (rank.rank == 1) EXPECT(me("clear") == "ok\n");
        ncclComm_t child = nullptr;
        OK(ncclCommSplit(comm, 0, rank.rank, &child, nullptr));
        EXPECT(sum_of(child, 1) == 2);
        EXPECT(has(me("status"), "2 communicators\n"));
        OK(ncclCommDestroy(child));
        OK(ncclCommAbort(comm));
        EXPECT(has(me("status"), "0 communicators\n"));
        rank.meet();
      },
      {{"CONVOY_STANDIN_CONTROL", folder.path()}});
  INFO(outcome.all());
  CHECK(outcome.is_well());
}

TEST_CASE("each kind of fault strikes when it comes by the socket") {
  for (const char* fault : {"do=fail", "do=slow by=1ms", "do=die"}) {
    const TempFolder folder;
    const std::string kind = fault;
    const Outcome outcome = run_ranks(
        1,
        [&](Rank& rank) {
          const ncclComm_t comm = rank.make();
          EXPECT(sum_of(comm, 1) == 1);
          EXPECT(ask(folder.path(), ::getpid(), "fault " + kind) == "ok\n");
          const CudaStream stream;
          const Floats data(8, 1);
          OK(sum(data, comm, stream));
          if (kind == "do=slow by=1ms") stream.wait();
          if (kind == "do=fail")
            EXPECT(becomes_true([&] { return state_of(comm) == ncclRemoteError; }));
          EXPECT(rank.says("strikes rank 0"));
          EXPECT(has(ask(folder.path(), ::getpid(), "faults"), kind + ": struck 1 times"));
          OK(ncclCommAbort(comm));
          stream.wait();
        },
        {{"CONVOY_STANDIN_CONTROL", folder.path()}});
    INFO(outcome.all());
    CHECK(outcome.codes == std::vector<int>{kind == "do=die" ? -SIGKILL : 0});
  }
}

}  // namespace
}  // namespace convoy::standin::nccl
