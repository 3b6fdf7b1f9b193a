#pragma once

#include "trace/analysis/ledger.h"

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace convoy::trace {

// A collective, or a message.
struct Place {
  uint32_t group = 0;
  int32_t sender = -1, receiver = -1;  // -1: a collective
  uint32_t sequence = 0;
  bool operator==(const Place&) const = default;
  bool is_message() const { return sender >= 0; }
};

// Where `operation` of `rank` happens.
Place place_of(const Registry& registry, uint32_t rank, const Operation& operation);

// What all waiting comes down to.
struct Cause {
  enum Kind : uint8_t {
    kUnsure,    // it may go on, or too little is known
    kHost,      // `rank` has not called `places`, and waits for nobody
    kGpu,       // `rank` has called `place`, it does not start, and nothing is before it
    kNetwork,   // `place` runs on all its ranks, and does not end
    kMismatch,  // ranks don't agree on what `place` is
    kCycle,     // `cycle`: each waits in its place for the next
  };
  Kind kind = kUnsure;
  uint32_t rank = 0;
  Place place;
  std::vector<Place> places;  // kHost: the first few that it has not called
  std::vector<std::pair<uint32_t, Place>> cycle;
  uint32_t waiting = 0;  // ranks that wait for it, at last
  uint32_t victim = 0;   // the first of them to wait, since
  int64_t since = 0;     // root's clock
  int64_t until = 0;     // then it became overdue
  Place victim_place;
};

// Who waits for whom, among ranks and what they take part in: ranks whose operations are overdue,
// what these wait for, and so on. Built anew each time; reads the ledger only.
class WaitGraph {
 public:
  WaitGraph(const Ledger& ledger, const ClockModel& clocks, const Join& join);
  // The causes of all that is overdue. Empty: nothing is.
  std::vector<Cause> causes();

 private:
  struct Edge {
    uint32_t to = 0;
    bool is_soft = false;  // the rank may well go on while it waits
  };
  struct Node {
    bool is_rank = false;
    uint32_t rank = 0;
    Place place;
    std::vector<Edge> edges;
    int32_t cause = -1;    // it is one itself
    int32_t reaches = -1;  // the cause that it waits for
  };

  Place place_of(uint32_t rank, const Operation& o) const;
  bool is_overdue(const RankTrack& rank, const Operation& o) const;
  uint32_t rank_node(uint32_t rank, size_t position);
  uint32_t place_node(const Place& place);
  void expand_rank(uint32_t node, size_t position);
  void expand_place(uint32_t node);
  bool agree(const Place& place, const std::vector<uint32_t>& members) const;
  int32_t add_cause(Cause::Kind kind, uint32_t rank, const Place& place);
  // Lets all nodes that lead to a cause know it.
  void spread();
  // Of those that lead to none: a rank that waits for nothing it must wait for; or a circle.
  bool break_soft();
  std::vector<bool> in_circles() const;
  bool break_cycle();
  void count();

  const Ledger& ledger_;
  const ClockModel& clocks_;
  const Join& join_;
  std::vector<Node> nodes_;
  std::unordered_map<uint64_t, uint32_t> rank_nodes_;
  std::unordered_map<uint64_t, std::vector<uint32_t>> place_nodes_;
  std::vector<uint32_t> open_;                                // not expanded yet
  std::unordered_map<uint32_t, size_t> position_;             // of open rank nodes
  std::vector<std::pair<uint32_t, const Operation*>> roots_;  // node; what is overdue there
  std::vector<Cause> causes_;
};

}  // namespace convoy::trace
