// The coordinator's decisions alone, with time in the test's hands: single situations, and random
// reports of several nodes (late, doubled, out of order, from nodes that go and come back), under
// which all that nodes rely on must hold: a slot is granted only when no node needs it any more, a
// step ends once, is written one at a time, and is committed only if every node has written it.
#include "ckpt/cluster/step_board.h"

#include <catch2/catch.hpp>

#include <random>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;
using Kind = StepEvent::Kind;

struct Fixture {
  explicit Fixture(const StepBoard::Options& options) : board(options) {}
  std::vector<StepEvent> events() {
    for (int i = 0; i < 3; ++i) {
      if (board.take_claim()) board.claimed(CoordinatorDisk::Claimed{7, "node 0"}, now);
    }
    return board.take_events();
  }
  // "granted 1, …"
  std::string text() {
    std::string all;
    for (const StepEvent& e : events()) {
      const char* const names[] = {"",          "granted", "skipped",    "whole",         "write",
                                   "committed", "failed",  "replicated", "not replicated"};
      all += (all.empty() ? "" : ", ") + std::string(names[static_cast<int>(e.kind)]) + " " +
             std::to_string(e.step);
      last = e.status;
    }
    return all;
  }
  void stage(uint64_t step, uint32_t nodes) {
    for (uint32_t n = 0; n < nodes; ++n) board.staged(n, step, now);
  }
  void write(uint64_t step, uint32_t nodes) {
    for (uint32_t n = 0; n < nodes; ++n) board.wrote(n, step, {}, now);
  }
  StepBoard board;
  TimePoint now{};
  Status last;
};

TEST_CASE("a step's way, and the next one's behind it") {
  Fixture f({.nodes = 2});
  f.board.want(1, Overtake::kWait, f.now);
  f.board.want(1, Overtake::kSkip, f.now);
  CHECK(f.text() == "granted 1");
  f.stage(1, 2);
  CHECK(f.text() == "whole 1, write 1");
  f.board.want(2, Overtake::kWait, f.now);
  f.board.want(3, Overtake::kWait, f.now);
  CHECK(f.text() == "granted 2");
  f.stage(2, 2);
  CHECK(f.text() == "whole 2");
  f.write(1, 1);
  CHECK(!f.board.take_commit());
  f.write(1, 2);
  CHECK(f.board.take_commit() == 1);
  CHECK(f.text() == "");
  f.board.committed(1, {}, f.now);
  CHECK(f.text() == "committed 1, write 2, granted 3");
}

TEST_CASE("every other save goes to the disk, and one that is to go everywhere") {
  Fixture f({.nodes = 2, .disk_every = 2});
  const auto save = [&](uint64_t step, bool everywhere) {
    f.board.want(step, Overtake::kWait, f.now, everywhere);
    f.stage(step, 2);
    const std::string text = f.text();
    f.write(step, 2);
    if (f.board.take_commit()) f.board.committed(step, {}, f.now);
    (void)f.text();
    return text;
  };
  CHECK(save(1, false) == "granted 1, whole 1, write 1");
  CHECK(save(2, false) == "granted 2, whole 2");
  CHECK(save(3, false) == "granted 3, whole 3, write 3");
  CHECK(save(4, true) == "granted 4, whole 4, write 4");
  // One that found no room at first.
  Fixture full({.nodes = 1, .disk_every = 3});
  for (const uint64_t step : {1, 2}) {
    full.board.want(step, Overtake::kWait, full.now);
    full.stage(step, 1);
  }
  full.board.want(3, Overtake::kWait, full.now, true);
  CHECK(full.text() == "granted 1, whole 1, granted 2, whole 2, write 1");
  full.write(1, 1);
  CHECK(full.board.take_commit() == 1);
  full.board.committed(1, {}, full.now);
  full.stage(3, 1);
  CHECK(full.text() == "committed 1, granted 3, whole 3, write 3");
}

TEST_CASE("skip and replace are decided once for all") {
  Fixture f({.nodes = 2});
  for (const uint64_t step : {1, 2}) {
    f.board.want(step, Overtake::kWait, f.now);
    f.stage(step, 2);
  }
  CHECK(f.text() == "granted 1, whole 1, granted 2, whole 2, write 1");
  f.board.want(3, Overtake::kSkip, f.now);
  CHECK(f.text() == "skipped 3");
  f.board.want(3, Overtake::kWait, f.now);
  CHECK(f.text() == "");
  f.board.want(4, Overtake::kReplace, f.now);
  CHECK(f.text() == "failed 2, granted 4");
  f.board.staged(1, 2, f.now);  // late
  f.board.wrote(1, 2, {}, f.now);
  CHECK(f.text() == "");
}

TEST_CASE("deadlines name nodes and ranks; a slot stays taken until the slow node lets go") {
  Fixture f({.nodes = 3, .timeout = 10s});
  for (uint32_t rank = 0; rank < 12; ++rank) f.board.has_rank(rank / 4, rank);
  f.board.want(1, Overtake::kWait, f.now);
  f.board.staged(0, 1, f.now);
  f.now += 11s;
  f.board.tick(f.now);
  CHECK(f.text() == "granted 1, failed 1");
  CHECK(f.last.message() ==
        "step 1 was not saved within 10 s: node 1 (ranks 4–7), node 2 (ranks 8–11)");
  for (const uint64_t step : {2, 3}) {
    f.board.want(step, Overtake::kWait, f.now);
    f.stage(step, 3);
  }
  CHECK(f.text() == "granted 2, whole 2, granted 3, whole 3, write 2");
  f.write(2, 2);
  f.now += 11s;
  f.board.tick(f.now);
  CHECK(f.text() == "failed 2, write 3");
  CHECK(f.last.ok());
  f.board.want(4, Overtake::kSkip, f.now);
  CHECK(f.text() == "skipped 4");  // node 2 may still read step 2's slot
  f.board.wrote(2, 2, {}, f.now);
  f.board.want(5, Overtake::kSkip, f.now);
  CHECK(f.text() == "granted 5");
}

TEST_CASE("a node that goes fails what needs it, and nothing is begun without it") {
  Fixture f({.nodes = 2});
  f.board.has_rank(1, 8);
  f.board.want(1, Overtake::kWait, f.now);
  f.stage(1, 2);
  f.board.want(2, Overtake::kWait, f.now);
  CHECK(f.text() == "granted 1, whole 1, granted 2, write 1");
  f.board.wrote(1, 1, {}, f.now);
  f.board.gone(1, "it was unplugged");
  CHECK(f.text() == "failed 2");
  CHECK(f.last.message() == "node 1 (rank 8) has gone: it was unplugged");
  f.board.wrote(0, 1, {}, f.now);
  CHECK(f.board.take_commit() == 1);  // its part was written before
  f.board.committed(1, {}, f.now);
  f.board.want(3, Overtake::kWait, f.now);
  CHECK(f.text() == "committed 1, failed 3");
  f.board.joined(1);
  f.board.want(4, Overtake::kWait, f.now);
  CHECK(f.text() == "granted 4");
}

TEST_CASE("a folder that can't be claimed fails the step; the next one asks again") {
  Fixture f({.nodes = 1});
  f.board.want(1, Overtake::kWait, f.now);
  f.stage(1, 1);
  REQUIRE(f.board.take_claim());
  f.board.claimed(Status(Code::kFailedPrecondition, "another job's"), f.now);
  CHECK(f.text() == "granted 1, whole 1, failed 1");
  f.board.want(2, Overtake::kWait, f.now);
  f.stage(2, 1);
  CHECK(f.text() == "granted 2, whole 2, write 2");
}

TEST_CASE("the newest replicated step keeps its slot until there is a newer one") {
  Fixture f({.nodes = 2, .disk = false, .replicate = true});
  f.board.want(1, Overtake::kWait, f.now);
  f.stage(1, 2);
  f.board.replicated(0, 1, {});
  f.board.replicated(1, 1, {});
  CHECK(f.text() == "granted 1, whole 1, replicated 1");
  f.board.want(2, Overtake::kWait, f.now);
  f.stage(2, 2);
  CHECK(f.text() == "granted 2, whole 2");
  f.board.want(3, Overtake::kWait, f.now);
  CHECK(f.text() == "");
  f.board.replicated(0, 2, {});
  f.board.replicated(1, 2, Status(Code::kUnavailable, "node 0 does not answer"));
  f.board.tick(f.now);
  CHECK(f.text() == "not replicated 2, granted 3");
}

// A node as AgentJob is: which step each of its slots is needed by.
struct Model {
  std::map<uint64_t, int> needs;     // step → slot
  std::set<uint64_t> wrote, staged;  // reports to come, or sent
};

TEST_CASE("whatever nodes do in whatever order, no slot is given twice and no step ends twice") {
  int committed = 0, failed = 0;
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const uint32_t nodes = 1 + random() % 4;
    StepBoard board({.nodes = nodes, .disk_every = 1 + random() % 2, .timeout = 20s});
    std::vector<Model> models(nodes);
    std::map<uint64_t, std::set<uint32_t>> written;
    std::set<uint64_t> over;
    std::optional<uint64_t> writing;
    TimePoint now{};
    uint64_t newest = 0;
    for (int round = 0; round < 400; ++round) {
      now += std::chrono::milliseconds(random() % 2000);
      const uint32_t node = random() % nodes;
      Model& model = models[node];
      switch (random() % 8) {
        case 0:
          board.want(++newest, static_cast<Overtake>(random() % 3), now);
          break;
        case 1:
        case 2:
          for (const auto& [step, slot] : model.needs) {
            if (random() % 2 == 0) board.staged(node, step, now);
          }
          break;
        case 3:
        case 4: {
          const std::set<uint64_t> begun = model.wrote;
          for (const uint64_t step : begun) {
            const bool good = random() % 8 != 0;
            if (good) written[step].insert(node);
            board.wrote(node, step, good ? Status() : Status(Code::kDataLoss, "disk"), now);
            model.wrote.erase(step);
            if (over.contains(step)) model.needs.erase(step);
          }
          break;
        }
        case 5:
          board.tick(now);
          break;
        case 6:
          if (random() % 10 == 0) {
            board.gone(node, "test");
            model = {};
            board.joined(node);
          }
          break;
        default:
          if (const auto step = board.take_commit()) {
            REQUIRE(written[*step].size() == nodes);
            board.committed(*step, random() % 8 == 0 ? Status(Code::kInternal, "x") : Status(),
                            now);
          }
      }
      if (board.take_claim()) board.claimed(CoordinatorDisk::Claimed{1, "w"}, now);
      for (const StepEvent& event : board.take_events()) {
        CAPTURE(static_cast<int>(event.kind), event.step);
        for (Model& m : models) {
          if (event.kind == Kind::kGranted) {
            for (const auto& [step, slot] : m.needs) REQUIRE(slot != event.slot);
            m.needs[event.step] = event.slot;
          } else if (event.kind == Kind::kWrite && m.needs.contains(event.step)) {
            m.wrote.insert(event.step);
          } else if (event.kind == Kind::kFailed || event.kind == Kind::kCommitted) {
            if (!m.wrote.contains(event.step)) m.needs.erase(event.step);
          } else if (event.kind == Kind::kWhole && !event.to_disk) {
            m.needs.erase(event.step);
          }
        }
        if (event.kind == Kind::kWrite) {
          REQUIRE(!writing);
          writing = event.step;
        }
        if (event.kind == Kind::kFailed || event.kind == Kind::kCommitted) {
          REQUIRE(over.insert(event.step).second);
          if (writing == event.step) writing.reset();
          (event.kind == Kind::kFailed ? failed : committed) += 1;
        }
      }
    }
  }
  CHECK(committed > 300);
  CHECK(failed > 300);
}

}  // namespace
}  // namespace convoy::ckpt
