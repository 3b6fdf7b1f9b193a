#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <random>
#include <vector>

namespace convoy::trace {

// Batches of some ranks, with all that a stream can carry: times in whole units of a stream.
class RandomBatches {
 public:
  RandomBatches(Registry& registry, uint64_t seed) : registry_(registry), random_(seed) {
    for (uint32_t g = 0; g < 3; ++g) {
      groups_.push_back(
          registry_.group({"group " + std::to_string(g), {g, g + 2, g + 4, g + 6, 1, 0}}));
    }
    for (const char* name : {"step", "forward", "link sent bytes", "a name"}) {
      names_.push_back(registry_.name(name));
    }
  }

  Batch next(uint32_t rank) {
    Batch batch;
    batch.rank = rank;
    batch.generation = 3;
    batch.number = ++numbers_.at(rank);
    if (batch.number == 1 || below(10) == 0) {
      batch.host = "node" + std::to_string(rank / 2);
      batch.pid = static_cast<int32_t>(below(100000)) + 1;
    }
    if (below(2) == 0) batch.received = time(below(1000000));
    const bool started = below(2) == 0;
    const int64_t begin = now_ += 1 + below(1000);
    for (uint64_t i = below(50); i > 0; --i) {
      now_ += below(20000);
      Operation o{signature(), next_sequence(), time(now_), 0, 0};
      if (started && below(3) > 0) o.started = o.issued + time(below(100));
      if (below(5) > 0) o.completed = std::max(o.issued, o.started) + time(below(5000));
      batch.operations.push_back(o);
    }
    for (uint64_t i = below(20); i > 0; --i) batch.spans.push_back(span(begin, below(8) > 0));
    for (uint64_t i = below(20); i > 0; --i) {
      batch.counters.push_back({pick(names_), static_cast<int32_t>(below(9)) - 1,
                                time(begin + below(100)), random_() >> below(60)});
    }
    if (below(2) == 0) batch.state = state(begin);
    return batch;
  }

 private:
  static int64_t time(int64_t units) { return units * 100; }
  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  template <class T>
  T pick(const std::vector<T>& list) {
    return list[random_() % list.size()];
  }
  uint32_t next_sequence() {
    if (below(10) == 0) sequence_ = static_cast<uint32_t>(random_());
    return ++sequence_;
  }

  uint32_t signature() {
    Signature s;
    s.group = pick(groups_);
    if (below(3) == 0) {
      s.operation = below(2) == 0 ? "send" : "recv";
      s.peer = static_cast<int32_t>(below(8));
    } else {
      s.operation = below(2) == 0 ? "all_reduce" : "all_to_all";
      s.reduction = below(2) == 0 ? "sum" : "";
      s.root = static_cast<int32_t>(below(3)) - 1;
      s.uneven = below(2) == 0;
    }
    s.dtype = below(2) == 0 ? "float32" : "";
    s.bytes = uint64_t{1} << below(40);
    return registry_.signature(s);
  }

  SpanEvent span(int64_t begin, bool has_ended) {
    SpanEvent s{pick(names_), static_cast<uint32_t>(below(3)), time(begin + below(1000)), 0,
                static_cast<uint64_t>(below(100))};
    if (has_ended) s.end = s.begin + time(below(100000));
    return s;
  }

  RankState state(int64_t begin) {
    RankState state;
    state.time = time(begin + 500);
    state.life = static_cast<Life>(below(6));
    state.exit_code = static_cast<int32_t>(below(300)) - 100;
    state.lost = random_() >> below(64);
    state.shed = static_cast<uint64_t>(below(10));
    for (const uint32_t g : groups_) {
      const auto issued = static_cast<uint32_t>(below(1000));
      state.progress.push_back({g, issued, issued / 2, issued / 3});
    }
    for (uint64_t i = below(5); i > 0; --i) {
      state.pending.push_back({signature(), next_sequence(), time(begin - below(1000)), 0, 0});
    }
    for (uint64_t i = below(5); i > 0; --i) state.open.push_back(span(begin, false));
    return state;
  }

  Registry& registry_;
  std::mt19937_64 random_;
  std::vector<uint32_t> groups_, names_;
  std::vector<uint64_t> numbers_ = std::vector<uint64_t>(64);
  int64_t now_ = 1000000;
  uint32_t sequence_ = 0;
};

}  // namespace convoy::trace
