// What goes wrong in a link group, caused on purpose and seen to be reported on every rank: an
// absent rank, requests that differ, abort() in the middle, a rank that leaves, a rank that is
// killed while bytes move. Ranks are threads, those that are killed processes. Time limits are
// generous (a loaded machine); that an error comes at all instead of the 60 s deadline is the test.
#include "tests/comm/link_processes.h"
#include "tests/comm/link_ranks.h"

#include <atomic>
#include <mutex>

using namespace convoy;
using namespace convoy::host;

namespace {

bool has(const Status& status, const std::string& part) {
  return status.message().find(part) != std::string::npos;
}

Collective all_reduce(std::vector<float>& values) {
  Collective op;
  op.kind = OpKind::kAllReduce;
  op.dtype = DType::kF32;
  op.in = {{values.data(), values.size()}};
  op.out = op.in;
  return op;
}

Status run(Group& group, const Collective& op, Deadline deadline = soon()) {
  return group.run({&op, 1}, deadline);
}

}  // namespace

TEST_CASE("an absent rank is named, on all that wait") {
  LinkRanks ranks;
  ranks.size = 3;
  ranks.name = "tp[0]";
  std::atomic<int> done{0};
  CHECK(ranks.run([&](int rank, Group& group) -> std::string {
    std::vector<float> values(1000, 1);
    if (const Status first = run(group, all_reduce(values)); !first.ok()) {
      return first.to_string();
    }
    if (rank == 1) {
      while (done < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return "";
    }
    const Status status =
        run(group, all_reduce(values), Deadline::after(std::chrono::milliseconds(300)));
    ++done;
    if (status.code() != Code::kDeadlineExceeded) return status.to_string();
    // Ranks 0 and 2 see each other unless one gave up before the other had joined.
    if (!has(status, "rank 1 has not joined all_reduce #2 of group tp[0]") &&
        !has(status, "have not joined all_reduce #2 of group tp[0]")) {
      return status.message();
    }
    // Every later call fails with the same cause.
    return group.error().message() == run(group, all_reduce(values)).message() ? ""
                                                                               : "another cause";
  }) == "");
}

TEST_CASE("different requests are found on every rank, named with what each asked for") {
  LinkRanks ranks;
  ranks.size = 3;
  const std::string what = GENERATE("kind", "dtype", "root", "count", "reduction", "uneven count");
  INFO(what);
  CHECK(ranks.run([&](int rank, Group& group) -> std::string {
    const bool odd = rank == 2;
    std::vector<float> values(odd && what == "count" ? 70'000 : 50'000, 1), out(200'000);
    Collective op = all_reduce(values);
    if (odd && what == "reduction") op.reduce = ReduceOp::kMax;
    if (odd && what == "dtype") op.dtype = DType::kI32;
    if (odd && what == "kind") op.kind = OpKind::kBroadcast;
    if (what == "root") {
      op.kind = OpKind::kBroadcast;
      op.root = odd ? 1 : 0;
    }
    if (what == "uneven count") {
      // Only ranks 0 and 2 see it: rank 0 expects 9 elements of rank 2, which sends 8.
      op.kind = OpKind::kAllGather;
      op.in = {{values.data(), 8}};
      op.out.clear();
      for (int r = 0; r < 3; ++r) op.out.push_back({out.data() + r * 10, 8});
      if (rank == 0) op.out[2].count = 9;
    }
    const Status status = run(group, op);
    if (status.code() != Code::kMismatch) return status.to_string();
    if (!has(status, "asked for")) return status.message();
    const std::string lone = what == "uneven count" ? "rank 0" : "rank 2";
    return has(status, lone + " asked for") ? "" : status.message();
  }) == "");
}

TEST_CASE("abort ends what runs on all ranks, with its reason") {
  LinkRanks ranks;
  ranks.size = 3;
  std::atomic<bool> waiting{false};
  CHECK(ranks.run([&](int rank, Group& group) -> std::string {
    std::vector<float> values(100, 1);
    if (rank == 0) {
      while (!waiting) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      group.abort("the learning rate is NaN");
    } else if (rank == 1) {
      char byte = 0;
      auto transfer = *group.post_recv(&byte, 1, 0, 0);
      waiting = true;
      const Status status = transfer->wait(soon());
      if (!has(status, "the learning rate is NaN")) return status.to_string();
    }
    const Status status = run(group, all_reduce(values));
    if (status.code() != Code::kAborted || !has(status, "rank 0 aborted group links") ||
        !has(status, "the learning rate is NaN")) {
      return status.to_string();
    }
    return group.error().code() == Code::kAborted ? "" : "no error";
  }) == "");
}

TEST_CASE("a rank that leaves is named by those that still need it") {
  LinkRanks ranks;
  ranks.size = 3;
  CHECK(ranks.run([&](int rank, Group& group) -> std::string {
    std::vector<float> values(100'000, 1);
    Status status = run(group, all_reduce(values));
    if (rank == 1) return status.ok() ? "" : status.to_string();
    // A survivor that is ahead may end the first operation of the other: a failure is the
    // whole group's.
    if (status.ok()) status = run(group, all_reduce(values));
    if (status.code() != Code::kAborted) return status.to_string();
    return has(status, "rank 1 has left") ? "" : status.message();
  }) == "");
}

TEST_CASE("groups come and go, nobody is hurt by an early leaver") {
  for (int i = 0; i < 10; ++i) {
    LinkRanks ranks;
    ranks.size = 3;
    CHECK(ranks.run([&](int rank, Group& group) -> std::string {
      std::vector<float> values(static_cast<size_t>(1000 * (i + 1)), 1);
      const Status status = run(group, all_reduce(values));
      return status.ok() ? "" : status.to_string();
    }) == "");
  }
}

TEST_CASE("a rank that never comes is named when the group forms") {
  LocalStore store;
  LinkRanks ranks;
  ranks.size = 3;
  ranks.join_timeout = std::chrono::milliseconds(200);
  std::string texts[2];
  std::vector<std::thread> threads;
  for (const int r : {0, 1}) {
    threads.emplace_back(
        [&, r] { texts[r] = ranks.run_one(r, store, [](int, Group&) { return "joined"; }); });
  }
  for (auto& thread : threads) thread.join();
  CHECK_THAT(texts[0], Catch::Contains("2 have not connected to rank 0"));
  CHECK_THAT(texts[1], Catch::Contains("2 have not connected to rank 1"));
}

TEST_CASE("a killed process ends the operation on all survivors, named") {
  const std::string where = GENERATE("in a collective", "between collectives", "in a message");
  const int ranks_per_host = GENERATE(1, 2);
  INFO(where << ", ranks on a host: " << ranks_per_host);
  LinkProcesses ranks(3);
  ranks.ranks_per_host = ranks_per_host;
  ranks.start([&](int rank, Group& group) -> std::string {
    std::vector<float> values(4 << 20, 1);
    if (rank == 1) ranks.mark("ready");
    Status status;
    if (where == "in a collective") {
      while (status.ok()) status = run(group, all_reduce(values));
    } else if (where == "between collectives") {
      // Rank 1 is idle when it dies.
      if (rank == 1) ::pause();
      while (status.ok()) {
        status = group.error();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    } else {
      if (rank == 1) ::pause();
      auto transfer = group.post_recv(values.data(), values.size(), 1, 0);
      status = transfer.ok() ? (*transfer)->wait(soon()) : transfer.status();
    }
    const Status later = run(group, all_reduce(values));
    if (later.message() != group.error().message()) return "another cause: " + later.message();
    return status.to_string();
  });
  REQUIRE(ranks.wait_for("ready"));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  ranks.kill(1);
  const auto killed = std::chrono::steady_clock::now();
  for (const int r : {0, 2}) {
    const std::string text = ranks.result(r);
    CHECK_THAT(text, Catch::Contains("aborted"));
    CHECK_THAT(text, Catch::Contains("rank 1"));
  }
  const auto took = std::chrono::steady_clock::now() - killed;
  WARN(where << ": survivors ended after "
             << std::chrono::duration_cast<std::chrono::milliseconds>(took).count() << " ms");
}
