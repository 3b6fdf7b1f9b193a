// Two network namespaces joined by a veth pair, two ranks in each: links over something that can be
// cut. All collectives and messages are exercised through it; then the link is set down in the
// middle, and the ranks of each side must name ranks of the other. Needs root (or CAP_NET_ADMIN):
// exits with 77 (skipped) where namespaces can't be made. What the collectives compute is checked
// in link_collectives_test.cc; here only that all of it arrives.
#include "tests/comm/link_processes.h"
#include "tests/comm/link_veth.h"

#include <catch2/catch.hpp>

using namespace convoy;
using namespace convoy::host;

namespace {

constexpr int kSkip = 77;

std::string run_all(Group& group, size_t count) {
  const int rank = group.rank(), size = group.size();
  std::vector<float> a(count * static_cast<size_t>(size), static_cast<float>(rank + 1));
  std::vector<float> b(a.size());
  const auto part = [&](std::vector<float>& v, int r) {
    return Span{v.data() + static_cast<size_t>(r) * count, count};
  };
  const float sum = static_cast<float>(size * (size + 1)) / 2;
  for (const OpKind kind : {OpKind::kBarrier, OpKind::kAllReduce, OpKind::kReduce,
                            OpKind::kBroadcast, OpKind::kAllGather, OpKind::kReduceScatter,
                            OpKind::kAllToAll, OpKind::kGather, OpKind::kScatter}) {
    Collective op;
    op.kind = kind;
    op.dtype = DType::kF32;
    for (int r = 0; r < size; ++r) {
      op.in.push_back(part(a, r));
      op.out.push_back(part(b, r));
    }
    if (const Status status = group.run({&op, 1}, Deadline::after(std::chrono::seconds(60)));
        !status.ok()) {
      return status.to_string();
    }
    const bool reduced = kind == OpKind::kAllReduce || kind == OpKind::kReduceScatter ||
                         (kind == OpKind::kReduce && rank == 0);
    if (reduced && (b[0] != sum || b[count - 1] != sum)) return "wrong sum";
    if (kind != OpKind::kAllGather && kind != OpKind::kAllToAll) continue;
    for (int r = 0; r < size; ++r) {
      if (*static_cast<float*>(part(b, r).data) != static_cast<float>(r + 1)) return "wrong part";
    }
  }
  return "";
}

}  // namespace

TEST_CASE("all operations between namespaces, then the link is cut") {
  VethPair net;
  if (!net.ok()) {
    std::puts("skipped: network namespaces can't be made here (needs root and iproute2)");
    std::fflush(stdout);
    std::_Exit(kSkip);
  }
  LinkProcesses ranks(4);
  ranks.address = "";  // found from the interface
  ranks.before = [&](int rank) { net.enter(rank / 2); };
  ranks.start([&](int rank, Group& group) -> std::string {
    for (const size_t count : {1, 1000, 300'000}) {
      if (std::string wrong = run_all(group, count); !wrong.empty()) return wrong;
    }
    std::vector<char> message(1 << 20, static_cast<char>(rank));
    std::vector<char> got(message.size());
    const int partner = (rank + 2) % 4;
    auto send = *group.post_send(message.data(), message.size(), partner, 1);
    auto recv = *group.post_recv(got.data(), got.size(), partner, 1);
    const Deadline deadline = Deadline::after(std::chrono::seconds(60));
    if (const Status status = recv->wait(deadline); !status.ok()) return status.to_string();
    if (const Status status = send->wait(deadline); !status.ok()) return status.to_string();
    if (got[0] != partner) return "wrong message";
    if (rank == 0) ranks.mark("working");
    // Until the cut; the deadline is shorter than the time in which TCP finds out by itself.
    Status status;
    std::vector<float> values(1 << 20, 1);
    Collective op;
    op.kind = OpKind::kAllReduce;
    op.dtype = DType::kF32;
    op.in = op.out = {{values.data(), values.size()}};
    while (status.ok()) status = group.run({&op, 1}, Deadline::after(std::chrono::seconds(6)));
    return status.to_string();
  });
  REQUIRE(ranks.wait_for("working"));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  REQUIRE(net.cut());
  for (int r = 0; r < 4; ++r) {
    const std::string text = ranks.result(r);
    INFO("rank " << r << ": " << text);
    CHECK((text.rfind("deadline exceeded", 0) == 0 || text.rfind("aborted", 0) == 0));
    // One side says it of the other; a rank that hears it from its neighbour names the same.
    const char* others[2] = {r < 2 ? "2" : "0", r < 2 ? "3" : "1"};
    CHECK((text.find(others[0]) != std::string::npos || text.find(others[1]) != std::string::npos));
  }
}
