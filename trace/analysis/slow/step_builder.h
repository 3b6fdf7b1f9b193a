#pragma once

#include "trace/analysis/slow/flows.h"
#include "trace/analysis/slow/links.h"
#include "trace/analysis/slow/name_kinds.h"
#include "trace/analysis/slow/window.h"
#include <convoy/trace/event.h>

#include <cstdint>
#include <utility>
#include <vector>

// Cuts each rank's events into steps and works out where its own time went.
namespace convoy::trace::slow {

struct Interval {
  int64_t begin = 0, end = 0;
};

class StepBuilder {
 public:
  StepBuilder(const Registry& registry, Window& window, Flows& flows, Links& links)
      : registry_(registry), names_(registry), window_(window), flows_(flows), links_(links) {}

  void resize(uint32_t ranks);
  void batch(const Batch& batch);
  // Closes steps of the rank up to `limit`, and appends their numbers to `finished`.
  void close_steps(uint32_t rank, uint32_t limit, std::vector<uint32_t>& finished);
  // The rank's next step that has ended and is not closed; 0: none.
  uint32_t next_of(uint32_t rank) const { return ranks_[rank].next; }

 private:
  struct Span {
    SpanKind kind = SpanKind::kOther;
    Interval at;
    uint64_t value = 0;
  };
  struct Counter {
    CounterKind kind = CounterKind::kOther;
    int32_t peer = -1;
    int64_t time = 0;
    uint64_t value = 0;
  };
  struct Channel {  // a group, or one direction to a peer in it
    uint64_t key = 0;
    uint32_t sequence = 0;
    int64_t completed = 0;
  };
  struct Rank {
    std::vector<Operation> operations;
    std::vector<Span> spans;
    std::vector<Counter> counters;
    std::vector<Channel> channels;
    int64_t end = 0;  // of its last step
    uint32_t step = 0, next = 0;
    uint64_t tokens = 0, run_queue = 0;  // sums at that time
    // What its steps usually have, and how sure that is: fewer, and records were lost.
    std::pair<uint32_t, uint32_t> forwards, backwards, operations_usual, others;
  };
  struct Vote {  // of a signature's operations: while how many its rank did something else
    uint32_t all = 0, busy = 0;
  };
  struct Waits {
    std::vector<Interval> waits;          // disjoint, in order
    std::vector<Interval> holes;          // in which operations were lost
    std::vector<int64_t> arrivals, ends;  // of operations
  };

  static constexpr size_t kPendingMax = 1 << 16;  // events of one kind that wait for their step

  void take(const Batch& batch, Rank& rank);
  static void find_next(Rank& rank);
  void close(uint32_t number, Rank& rank, const Span& step);
  void close_operations(uint32_t number, Rank& rank, RankStep& cell, Waits& waits);
  void close_counters(uint32_t number, Rank& rank, RankStep& cell);
  void close_spans(Rank& rank, RankStep& cell, Waits& waits);
  Channel& channel(Rank& rank, const Signature& signature);
  bool is_waited_for(const Operation& operation, const std::vector<int64_t>& activity);

  const Registry& registry_;
  NameKinds names_;
  Window& window_;
  Flows& flows_;
  Links& links_;
  std::vector<Rank> ranks_;
  std::vector<Vote> votes_;  // of Registry::signatures
};

}  // namespace convoy::trace::slow
