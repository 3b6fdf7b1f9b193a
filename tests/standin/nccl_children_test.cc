// Method: communicators are split, shrunk, grown and revoked by processes as NCCL documents it; the
// children must sum over just their ranks, in their order. What an abort reaches is proved by
// kernels that hang until they are aborted. Not checked: faults that NCCL itself would notice
// (nccl_failure_test.cc).
#include "tests/standin/nccl_ranks.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <thread>

namespace convoy::standin::nccl {
namespace {

void require_well(const Outcome& outcome) {
  INFO(outcome.all());
  REQUIRE(outcome.is_well());
  REQUIRE_FALSE(outcome.says("convoy stand-in:"));
}

int rank_in(ncclComm_t comm) {
  int rank = -1;
  OK(ncclCommUserRank(comm, &rank));
  return rank;
}

int count_of(ncclComm_t comm) {
  int count = -1;
  OK(ncclCommCount(comm, &count));
  return count;
}

constexpr const char* kWaits = "AllReduce of 8 float32 (sum), operation #";

// A collective that hangs because nobody else calls it.
struct Hanging {
  explicit Hanging(ncclComm_t comm) : data(8, 1) {
    OK(ncclAllReduce(data.data(), data.data(), 8, ncclFloat32, ncclSum, comm, stream));
  }
  bool hangs() const { return is_running(stream); }
  void ends() const { stream.wait(); }
  const Floats data;
  const CudaStream stream;
};

TEST_CASE("split: by color, in the order of keys, and none for NOCOLOR") {
  require_well(run_ranks(5, [](Rank& rank) {
    const ncclComm_t comm = rank.make();
    const bool is_out = rank.rank == 4;
    const int color = is_out ? NCCL_SPLIT_NOCOLOR : rank.rank % 2;
    ncclComm_t child = comm;
    OK(ncclCommSplit(comm, color, -rank.rank, &child, nullptr));
    EXPECT((child == nullptr) == is_out);
    if (child != nullptr) {
      EXPECT(count_of(child) == 2);
      EXPECT(rank_in(child) == (rank.rank < 2 ? 1 : 0));  // keys turn the order round
      EXPECT(sum_of(child, static_cast<float>(rank.rank)) == (color == 0 ? 2 : 4));
    }
    EXPECT(ncclCommSplit(comm, 0, 0, nullptr, nullptr) == ncclInvalidArgument);
    EXPECT(sum_of(comm, 1) == 5);
    // Children of one parent, again and again, some shared.
    for (int round = 0; round < 5; ++round) {
      ncclComm_t again = nullptr;
      ncclConfig_t config = config_named("again");
      config.splitShare = round % 2;
      OK(ncclCommSplit(comm, rank.rank < 2 ? 0 : 1, 0, &again, &config));
      EXPECT(sum_of(again, 1) == (rank.rank < 2 ? 2 : 3));
      OK(ncclCommDestroy(again));
    }
    if (child != nullptr && !is_out) OK(ncclCommDestroy(child));
    EXPECT(sum_of(comm, 1) == 5);
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("an abort of the parent doesn't reach a split child, and the finding says so") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        const ncclComm_t parent = rank.make();
        ncclComm_t child = nullptr;
        OK(ncclCommSplit(parent, 0, rank.rank, &child, nullptr));
        if (rank.rank == 0) {
          const Hanging kernel(child);
          EXPECT(rank.says(kWaits));  // told once before the abort, once after
          // Frees memory, for which it waits until the child's kernel has ended too.
          std::thread aborting([&] { OK(ncclCommAbort(parent)); });
          EXPECT(rank.says("which doesn't reach a child"));
          EXPECT(kernel.hangs());
          ncclResult_t state = ncclInternalError;
          OK(ncclCommGetAsyncError(child, &state));
          EXPECT(state == ncclSuccess);
          OK(ncclCommAbort(child));
          kernel.ends();
          aborting.join();
        }
        rank.meet();
        if (rank.rank == 0) return;
        OK(ncclCommAbort(parent));
        OK(ncclCommAbort(child));
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
  CHECK(outcome.says("splitShare: abort this communicator too"));
}

TEST_CASE("with splitShare it does; so does shrinkShare") {
  for (const bool shrinks : {false, true}) {
    const Outcome outcome = run_ranks(
        3,
        [&](Rank& rank) {
          const ncclComm_t parent = rank.make();
          ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
          config.splitShare = config.shrinkShare = 1;
          ncclComm_t child = nullptr;
          int excluded = 2;
          if (!shrinks) {
            OK(ncclCommSplit(parent, rank.rank < 2 ? 0 : 1, 0, &child, &config));
          } else if (rank.rank < 2) {
            OK(ncclCommShrink(parent, &excluded, 1, &child, &config, NCCL_SHRINK_DEFAULT));
          }
          if (rank.rank == 0) {
            const Hanging kernel(child);
            EXPECT(rank.says(kWaits));
            EXPECT(kernel.hangs());
            OK(ncclCommAbort(parent));
            kernel.ends();
          }
          rank.meet();
          if (rank.rank != 0) OK(ncclCommAbort(parent));
          OK(ncclCommAbort(child));
        },
        kImpatient);
    INFO(outcome.all());
    CHECK(outcome.is_well());
    CHECK_FALSE(outcome.says("doesn't reach a child"));
  }
}

TEST_CASE("shrink: ranks close up, and the parent still works") {
  require_well(run_ranks(4, [](Rank& rank) {
    const ncclComm_t parent = rank.make();
    int excluded[] = {1};
    ncclComm_t child = nullptr;
    if (rank.rank == 1) {
      EXPECT(ncclCommShrink(parent, excluded, 1, &child, nullptr, NCCL_SHRINK_DEFAULT) ==
             ncclInvalidArgument);
    } else {
      OK(ncclCommShrink(parent, excluded, 1, &child, nullptr, NCCL_SHRINK_DEFAULT));
      EXPECT(count_of(child) == 3);
      EXPECT(rank_in(child) == (rank.rank == 0 ? 0 : rank.rank - 1));
      EXPECT(sum_of(child, static_cast<float>(rank.rank)) == 5);
      OK(ncclCommDestroy(child));
      EXPECT(ncclCommShrink(parent, excluded, 0, &child, nullptr, NCCL_SHRINK_DEFAULT) ==
             ncclInvalidArgument);
    }
    EXPECT(sum_of(parent, 1) == 4);
    OK(ncclCommDestroy(parent));
  }));
}

TEST_CASE("shrink with ABORT ends hanging kernels and leaves a dead rank behind") {
  const Outcome outcome = run_ranks(
      4,
      [](Rank& rank) {
        const ncclComm_t parent = rank.make();
        EXPECT(sum_of(parent, 1) == 4);
        rank.die(2);
        const Hanging kernel(parent);
        EXPECT(rank.says(kWaits));
        int excluded = 2;
        ncclComm_t child = nullptr;
        OK(ncclCommShrink(parent, &excluded, 1, &child, nullptr, NCCL_SHRINK_ABORT));
        kernel.ends();
        EXPECT(sum_of(child, static_cast<float>(rank.rank)) == 4);
        OK(ncclCommAbort(parent));
        EXPECT(sum_of(child, 1) == 3);
        OK(ncclCommDestroy(child));
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.codes == std::vector<int>{0, 0, -SIGKILL, 0});
  CHECK(outcome.says("has ended)"));
}

TEST_CASE("grow: new ranks join with the id that an old one hands out, once") {
  require_well(run_ranks(4, [](Rank& rank) {
    const ncclUniqueId id = rank.next_id();
    const bool is_new = rank.rank >= 2;
    ncclComm_t comm = nullptr, grown = nullptr;
    if (!is_new) OK(ncclCommInitRank(&comm, 2, id, rank.rank));
    if (rank.rank == 0) {
      OK(ncclCommGetUniqueId(comm, &rank.shared_id()));
      ncclUniqueId second;
      EXPECT(ncclCommGetUniqueId(comm, &second) == ncclInvalidUsage);
    }
    rank.meet();
    const bool tells = rank.rank == 0 || is_new;
    OK(ncclCommGrow(comm, 4, tells ? &rank.shared_id() : nullptr, is_new ? rank.rank : -1, &grown,
                    nullptr));
    EXPECT(count_of(grown) == 4);
    EXPECT(rank_in(grown) == rank.rank);
    EXPECT(sum_of(grown, static_cast<float>(rank.rank)) == 6);
    if (!is_new) {
      EXPECT(sum_of(comm, 1) == 2);
      EXPECT(ncclCommGrow(comm, 2, nullptr, -1, &grown, nullptr) == ncclInvalidArgument);
      OK(ncclCommDestroy(comm));
    }
    if (is_new) EXPECT(ncclCommGrow(nullptr, 5, nullptr, 4, &comm, nullptr) == ncclInvalidArgument);
    rank.meet();
  }));
}

TEST_CASE("revoke: kernels end, operations are refused, children can be made, finalize can't") {
  const Outcome outcome = run_ranks(
      3,
      [](Rank& rank) {
        const ncclComm_t comm = rank.make();
        EXPECT(sum_of(comm, 1) == 3);
        if (rank.rank == 0) {
          const Hanging kernel(comm);
          EXPECT(rank.says(kWaits));
          std::thread revoking([&] { OK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT)); });
          kernel.ends();
          revoking.join();
        } else {
          OK(ncclCommRevoke(comm, NCCL_REVOKE_DEFAULT));
        }
        EXPECT(ncclCommRevoke(comm, 1) == ncclInvalidArgument);
        EXPECT(settled(comm) == ncclSuccess);
        const Floats data(8, 1);
        const CudaStream stream;
        EXPECT(ncclAllReduce(data.data(), data.data(), 8, ncclFloat32, ncclSum, comm, stream) ==
               ncclInvalidUsage);
        EXPECT(ncclCommFinalize(comm) == ncclInvalidUsage);
        ncclComm_t child = nullptr, shrunk = nullptr;
        OK(ncclCommSplit(comm, 0, -rank.rank, &child, nullptr));
        EXPECT(sum_of(child, 1) == 3);
        int excluded = 0;
        if (rank.rank != 0) {
          OK(ncclCommShrink(comm, &excluded, 1, &shrunk, nullptr, NCCL_SHRINK_DEFAULT));
          EXPECT(sum_of(shrunk, 1) == 2);
          OK(ncclCommDestroy(shrunk));
        }
        OK(ncclCommDestroy(comm));
        EXPECT(sum_of(child, 1) == 3);
        OK(ncclCommDestroy(child));
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
}

TEST_CASE("non-blocking children") {
  require_well(run_ranks(3, [](Rank& rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm = nullptr, child = nullptr;
    EXPECT(ncclCommInitRankConfig(&comm, 3, rank.next_id(), rank.rank, &config) == ncclInProgress);
    EXPECT(settled(comm) == ncclSuccess);
    EXPECT(ncclCommSplit(comm, 0, 0, &child, nullptr) == ncclInProgress);  // inherits
    EXPECT(settled(child) == ncclSuccess);
    const Floats data(8, 1);
    const CudaStream stream;
    EXPECT(ncclAllReduce(data.data(), data.data(), 8, ncclFloat32, ncclSum, child, stream) ==
           ncclInProgress);
    EXPECT(settled(child) == ncclSuccess);
    stream.wait();
    EXPECT(all_are(data, 3));
    OK(ncclCommDestroy(child));
    OK(ncclCommDestroy(comm));
  }));
}

TEST_CASE("the parent's abort ends a split that is under way") {
  const Outcome outcome = run_ranks(
      2,
      [](Rank& rank) {
        const ncclComm_t comm = rank.make();
        if (rank.rank == 0) {
          std::thread aborting([&] {
            EXPECT(rank.says("ncclCommSplit waited"));
            OK(ncclCommAbort(comm));
          });
          ncclComm_t child = nullptr;
          EXPECT(ncclCommSplit(comm, 0, 0, &child, nullptr) != ncclSuccess);
          EXPECT(child == nullptr);
          aborting.join();
        }
        rank.meet();
        if (rank.rank == 1) OK(ncclCommAbort(comm));
      },
      kImpatient);
  INFO(outcome.all());
  CHECK(outcome.is_well());
}

}  // namespace
}  // namespace convoy::standin::nccl
