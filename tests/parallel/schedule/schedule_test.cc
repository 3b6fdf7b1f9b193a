// Builders and validator, exhaustively: every schedule over ranks 1..8 x micro-batches 1..16 x
// chunks 1..4 is validated, compared with the memory formulas written out here again, and mutated
// (each action dropped, doubled, or swapped with its neighbour); mutants that cannot run must be
// rejected. Mutants that are merely slower are legal, so for swaps an independent, slower oracle
// decides. Does not check speed: simulate_test.cc does.
#include <convoy/parallel/schedule/schedule.h>
#include <convoy/parallel/schedule/validate.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>
#include <set>
#include <tuple>

namespace convoy::schedule {
namespace {

constexpr int kMaxRanks = 8;
constexpr int kMaxMicrobatches = 16;
constexpr int kMaxChunks = 4;

void for_all(const std::function<void(const Schedule&)>& body) {
  for (int ranks = 1; ranks <= kMaxRanks; ++ranks) {
    for (int m = 1; m <= kMaxMicrobatches; ++m) {
      for (int chunks = 1; chunks <= kMaxChunks; ++chunks) {
        for (const char* name : {"gpipe", "1f1b", "interleaved"}) {
          if (chunks > 1 && std::string(name) != "interleaved") continue;
          CAPTURE(name, ranks, m, chunks);
          Result<Schedule> made = make_schedule(name, ranks, m, chunks);
          REQUIRE(made.ok());
          body(*made);
        }
      }
    }
  }
}

std::vector<Action> compute_of(const Schedule& schedule, int rank) {
  std::vector<Action> order;
  for (const Step& step : schedule.steps[rank]) {
    if (is_compute(step[0].kind)) order.push_back(step[0]);
  }
  return order;
}

int bound(const Schedule& s, int rank) {
  if (s.name == "gpipe") return s.microbatches;
  if (s.chunks == 1) return std::min(s.microbatches, s.ranks - rank);
  const int rounds = std::max(1, s.microbatches / s.ranks);
  const int round = (s.microbatches + rounds - 1) / rounds;
  return std::min(s.microbatches * s.chunks, 2 * (s.ranks - rank - 1) + (s.chunks - 1) * round + 1);
}

TEST_CASE("every schedule is valid and holds its memory formula") {
  int seen = 0;
  for_all([&](const Schedule& schedule) {
    const Status status = validate(schedule);
    CAPTURE(status.to_string());
    REQUIRE(status.ok());
    for (int rank = 0; rank < schedule.ranks; ++rank) {
      REQUIRE(schedule.max_activations[rank] == bound(schedule, rank));
      REQUIRE(peak_activations(schedule, rank) <= bound(schedule, rank));
    }
    // The bound is tight on rank 0: it is not merely generous.
    if (schedule.chunks == 1) REQUIRE(peak_activations(schedule, 0) == bound(schedule, 0));
    ++seen;
  });
  REQUIRE(seen == kMaxRanks * kMaxMicrobatches * (kMaxChunks + 2));
}

TEST_CASE("interleaved 1F1B is Megatron's order where micro-batches are a multiple of ranks") {
  // arXiv 2104.04473, figure 4: 4 ranks, 8 micro-batches, 2 chunks; rank 0 warms up with
  // 2 (4 - 1) + 4 = 10 forwards, then alternates.
  const Schedule schedule = *interleaved_1f1b(4, 8, 2);
  const std::vector<Action> order = compute_of(schedule, 0);
  std::string text;
  for (const Action& a : order) {
    text += a.kind == Kind::kForward ? 'F' : 'B';
    text += std::to_string(a.microbatch);
    text += a.chunk == 0 ? "a " : "b ";
  }
  REQUIRE(text ==
          "F0a F1a F2a F3a F0b F1b F2b F3b F4a F5a F6a B0b F7a B1b F4b B2b F5b B3b F6b B0a F7b B1a "
          "B2a B3a B4b B5b B6b B7b B4a B5a B6a B7a ");
}

TEST_CASE("the steady state of 1F1B exchanges both directions together") {
  const Schedule schedule = *one_f_one_b(4, 8);
  int exchanges = 0;
  for (const Step& step : schedule.steps[1]) {
    const bool sends =
        std::any_of(step.begin(), step.end(), [](auto& a) { return is_send(a.kind); });
    const bool recvs = std::any_of(step.begin(), step.end(),
                                   [](auto& a) { return !is_compute(a.kind) && !is_send(a.kind); });
    exchanges += sends && recvs;
  }
  REQUIRE(exchanges >= 8);
}

TEST_CASE("bad input says what is wrong and what to use") {
  REQUIRE(make_schedule("zb", 4, 8, 1).status().message() ==
          "there is no pipeline schedule named 'zb'; use gpipe, 1f1b or interleaved.");
  REQUIRE(make_schedule("1f1b", 4, 8, 2).status().message() ==
          "schedule 1f1b has one chunk on each rank, but 2 were asked for; use 1 chunk, or the "
          "schedule interleaved.");
  REQUIRE(make_schedule("gpipe", 0, 8, 1).status().message() ==
          "schedule gpipe was asked for with 0 ranks, 8 micro-batches, 1 chunks; each of them must "
          "be at least 1.");
  REQUIRE(make_schedule("interleaved", 1 << 20, 1 << 20, 1 << 10).status().code() ==
          Code::kInvalidArgument);
  // An order of work that waits for itself is refused, not hung on.
  const Action forward{Kind::kForward, 0, 0, -1};
  const Action backward{Kind::kBackward, 0, 0, -1};
  const auto stuck = with_communication("own", 2, 1, 1, {{backward, forward}, {forward, backward}});
  REQUIRE(stuck.status().message().find("rank 0 waits for the input of backward") !=
          std::string::npos);
}

// Calls `body` with each schedule in which one action was dropped, then doubled.
void mutate(const Schedule& schedule, const std::function<void(const Schedule&)>& body) {
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    for (size_t s = 0; s < schedule.steps[rank].size(); ++s) {
      for (size_t a = 0; a < schedule.steps[rank][s].size(); ++a) {
        Schedule dropped = schedule;
        auto& steps = dropped.steps[rank];
        steps[s].erase(steps[s].begin() + a);
        if (steps[s].empty()) steps.erase(steps.begin() + s);
        body(dropped);
        Schedule doubled = schedule;
        doubled.steps[rank].insert(doubled.steps[rank].begin() + s + 1,
                                   {schedule.steps[rank][s][a]});
        body(doubled);
      }
    }
  }
}

TEST_CASE("a dropped or doubled action is always rejected") {
  int mutants = 0;
  for (const auto& [ranks, m, chunks] :
       {std::tuple(1, 3, 2), {2, 3, 1}, {3, 4, 1}, {4, 5, 2}, {2, 5, 3}}) {
    for (const char* name : {"gpipe", "1f1b", "interleaved"}) {
      if (chunks > 1 && std::string(name) != "interleaved") continue;
      mutate(*make_schedule(name, ranks, m, chunks), [&](const Schedule& mutant) {
        REQUIRE_FALSE(validate(mutant).ok());
        ++mutants;
      });
    }
  }
  REQUIRE(mutants > 1000);
}

// The oracle for swaps: plays the schedule with rendezvous sends by brute force, one rank step at a
// time, on sets of facts ("rank 1 has the input of forward 3"); shares no code with the validator.
bool plays(const Schedule& s) {
  using Fact = std::tuple<Kind, int, int>;  // kind, stage, micro-batch
  std::set<Fact> facts;
  std::vector<size_t> at(s.ranks, 0);
  std::vector<std::vector<bool>> matched(s.ranks);
  const auto open = [&](int rank) { return at[rank] < s.steps[rank].size(); };
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < s.ranks; ++rank) {
      if (!open(rank)) continue;
      const Step& step = s.steps[rank][at[rank]];
      matched[rank].resize(step.size(), false);
      if (is_compute(step[0].kind)) {
        const int stage = s.stage_of(rank, step[0].chunk);
        const int m = step[0].microbatch;
        const bool forward = step[0].kind == Kind::kForward;
        const int from = forward ? stage - 1 : stage + 1;
        const bool edge = from < 0 || from == s.stages();
        const bool local = !edge && s.rank_of(from) == rank;
        const Fact input = local
                               ? Fact(step[0].kind, from, m)
                               : Fact(forward ? Kind::kRecvForward : Kind::kRecvBackward, stage, m);
        if (!edge && !facts.count(input)) return false;
        if (!forward && !facts.count({Kind::kForward, stage, m})) return false;
        for (int before = 0; !forward && before < m; ++before) {
          if (!facts.count({Kind::kBackward, stage, before})) return false;
        }
        facts.insert({step[0].kind, stage, m});
        matched[rank][0] = true;
      }
      for (size_t a = 0; a < step.size(); ++a) {
        if (matched[rank][a] || !is_send(step[a].kind)) continue;
        const bool forward = step[a].kind == Kind::kSendForward;
        const int stage = s.stage_of(rank, step[a].chunk);
        if (!facts.count({forward ? Kind::kForward : Kind::kBackward, stage, step[a].microbatch})) {
          return false;
        }
        const int peer = step[a].peer;
        // Only the first unmatched message of each direction may pair.
        bool first = true;
        for (size_t b = 0; b < a; ++b) {
          first = first && (matched[rank][b] || !is_send(step[b].kind) || step[b].peer != peer);
        }
        if (!first || !open(peer)) continue;
        const Step& theirs = s.steps[peer][at[peer]];
        matched[peer].resize(theirs.size(), false);
        for (size_t b = 0; b < theirs.size(); ++b) {
          if (matched[peer][b] || is_compute(theirs[b].kind) || is_send(theirs[b].kind) ||
              theirs[b].peer != rank) {
            continue;
          }
          const int to = s.stage_of(peer, theirs[b].chunk);
          const Kind wanted = forward ? Kind::kRecvForward : Kind::kRecvBackward;
          if (theirs[b].kind != wanted || to != (forward ? stage + 1 : stage - 1) ||
              theirs[b].microbatch != step[a].microbatch) {
            return false;
          }
          facts.insert({wanted, to, step[a].microbatch});
          matched[rank][a] = matched[peer][b] = true;
          moved = true;
          break;
        }
      }
      if (std::all_of(matched[rank].begin(), matched[rank].end(), [](bool b) { return b; })) {
        matched[rank].clear();
        ++at[rank];
        moved = true;
      }
    }
  }
  for (int rank = 0; rank < s.ranks; ++rank) {
    if (open(rank)) return false;
  }
  return true;
}

TEST_CASE("swapped steps are judged as an independent oracle judges them") {
  int rejected = 0;
  int accepted = 0;
  for (const auto& [ranks, m, chunks] :
       {std::tuple(2, 3, 1), {3, 4, 1}, {4, 6, 1}, {3, 5, 2}, {2, 4, 3}}) {
    for (const char* name : {"gpipe", "1f1b", "interleaved"}) {
      if (chunks > 1 && std::string(name) != "interleaved") continue;
      const Schedule schedule = *make_schedule(name, ranks, m, chunks);
      REQUIRE(plays(schedule));
      for (int rank = 0; rank < ranks; ++rank) {
        for (size_t i = 0; i < schedule.steps[rank].size(); ++i) {
          for (size_t j = i + 1; j < std::min(i + 4, schedule.steps[rank].size()); ++j) {
            Schedule mutant = schedule;
            std::swap(mutant.steps[rank][i], mutant.steps[rank][j]);
            mutant.max_activations.assign(ranks, m * chunks);
            const Status status = validate(mutant);
            CAPTURE(name, ranks, m, chunks, rank, i, j, status.to_string());
            REQUIRE(status.ok() == plays(mutant));
            (status.ok() ? accepted : rejected)++;
          }
        }
      }
    }
  }
  REQUIRE(rejected > 100);
  REQUIRE(accepted > 0);
}

TEST_CASE("a deadlock only with unbuffered sends is found and names who waits") {
  // Both ranks send first and receive then, as separate steps: fine with buffers only.
  Schedule schedule = *one_f_one_b(2, 3);
  for (auto& steps : schedule.steps) {
    std::vector<Step> split;
    for (const Step& step : steps) {
      Step sorted = step;
      std::stable_sort(sorted.begin(), sorted.end(), [](const Action& a, const Action& b) {
        return is_send(a.kind) > is_send(b.kind);
      });
      for (const Action& action : sorted) split.push_back({action});
    }
    steps = split;
  }
  const Status status = validate(schedule);
  REQUIRE_FALSE(status.ok());
  REQUIRE(status.message().find("deadlock with sends that wait for their receiver: rank 0 waits") !=
          std::string::npos);
}

TEST_CASE("a broken promise about memory or gradient order is rejected") {
  Schedule schedule = *gpipe(2, 4);
  schedule.max_activations = {2, 4};
  REQUIRE(
      validate(schedule).message() ==
      "schedule gpipe, rank 0: forward of micro-batch 2, chunk 0 makes 3 activations, more than "
      "the 2 that are promised.");
  std::vector<Action> order;
  for (int m = 0; m < 2; ++m) order.push_back({Kind::kForward, m, 0, -1});
  for (int m = 1; m >= 0; --m) order.push_back({Kind::kBackward, m, 0, -1});
  const Schedule reversed = *with_communication("own", 1, 2, 1, {order});
  REQUIRE(validate(reversed).message().find("gradients must accumulate in micro-batch order") !=
          std::string::npos);
}

}  // namespace
}  // namespace convoy::schedule
