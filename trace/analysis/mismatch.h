#pragma once

#include "trace/analysis/describe.h"

#include <map>
#include <optional>
#include <tuple>
#include <vector>

namespace convoy::trace {

// Ranks that call a collective, or both ends of a message, differently: who is the odd one out, and
// whether it is another order, a call left out, or one argument. Also where nothing hangs.
class Mismatches {
 public:
  Mismatches(const Ledger& ledger, const ClockModel& clocks, Join& join);
  // `stuck`: places where the wait-for graph has found ranks at odds.
  std::vector<Verdict> find(const std::vector<Cause>& stuck);
  void clear() { known_.clear(); }

 private:
  struct Known {
    Place place;
    std::vector<Join::Dissent> told;
    int64_t found = 0;  // root's clock
    bool is_stuck = false;
    std::optional<Verdict> verdict;
    bool is_final = false;
  };
  using Key = std::tuple<uint32_t, int32_t, int32_t>;
  struct Told {
    uint32_t kind = 0;
    int64_t issued = 0, completed = 0;  // root's clock; 0: not yet
  };
  using Calls = std::map<uint32_t, Told>;  // by sequence

  void note(const Place& place, bool is_stuck, const Join::Dissent* dissent);
  // A backend that compares calls itself ends all ranks at once: what they died in.
  void note_last_calls();
  std::vector<uint32_t> members(const Place& place) const;
  Signature like(const Place& place, uint32_t rank) const;
  Calls calls(const Place& place, uint32_t rank) const;
  // The ranks that are wrong; empty: can't be told.
  std::vector<uint32_t> odd_ones(const Place& place, bool& is_sure) const;
  std::optional<uint32_t> expected(const Place& place, const Calls& calls) const;
  void judge(Known& known) const;
  Class class_of(const Place& place, const Calls& odd, const Calls& rest, double& confidence,
                 Class& runner_up) const;
  // When the odd call came: when the one after `place` was due, or when `place` was.
  enum class Came : uint8_t { kNext, kBefore, kUnclear, kElsewhere /* no call that follows */ };
  Came came_next(const Place& place, const Calls& odd, const Calls& rest) const;
  int64_t scatter(const Place& place, uint32_t kind, const Calls& odd, const Calls& rest) const;
  Class differing(const Signature& odd, const Signature& rest) const;
  const Signature* signature_of_kind(uint32_t kind) const;

  const Ledger& ledger_;
  const ClockModel& clocks_;
  Join& join_;
  std::map<Key, Known> known_;
};

}  // namespace convoy::trace
