#pragma once

#include "trace/analysis/describe.h"

#include <optional>
#include <vector>

namespace convoy::trace {

// What has stopped, and why: the causes of the wait-for graph, deaths, and streams that end.
// Whoever only waits for another is never blamed.
class Stuck {
 public:
  Stuck(const Ledger& ledger, const ClockModel& clocks) : ledger_(ledger), clocks_(clocks) {}
  // `mismatched`: verdicts that stand already; what comes of them is not told again.
  std::vector<Verdict> find(const std::vector<Cause>& causes,
                            const std::vector<Verdict>& mismatched) const;

 private:
  std::optional<Verdict> verdict_of(const Cause& cause) const;
  std::optional<Verdict> undated(const Cause& cause) const;
  std::optional<Verdict> of_host(const Cause& cause) const;
  std::optional<Verdict> of_gpu(const Cause& cause) const;
  std::optional<Verdict> of_network(const Cause& cause) const;
  std::optional<Verdict> of_cycle(const Cause& cause) const;
  std::optional<Verdict> unmatched(const Cause& cause, const Place& message) const;
  Verdict missing(const Cause& cause, uint32_t rank, const Place& place) const;
  void add_victim(Verdict& verdict, const Cause& cause) const;
  bool ended_by(const std::vector<Verdict>& mismatched, const Verdict& death) const;
  bool has_called(uint32_t rank, const Place& place) const;
  // Whether `rank`, which has not called `place`, has called what comes after it.
  bool has_gone_past(uint32_t rank, const Place& place) const;

  const Ledger& ledger_;
  const ClockModel& clocks_;
};

// Ranks that died, or whose hosts did; the first of them, as far as it can be told.
std::vector<Verdict> find_deaths(const Ledger& ledger, const ClockModel& clocks,
                                 const std::vector<Cause>& causes);
// Ranks that are not heard of while what they take part in goes on.
std::vector<Verdict> find_losses(const Ledger& ledger, const ClockModel& clocks);
// Where a rank is silent, whether its peers' collectives have gone on without a gap.
bool goes_on_unheard(const Ledger& ledger, const ClockModel& clocks, uint32_t rank);

// The directed link of a group on which nothing goes on, from its ranks' counters.
struct DeadLink {
  uint32_t sender = 0, receiver = 0;
  double confidence = 0;
  std::string text;
};
std::optional<DeadLink> find_dead_link(const Ledger& ledger, const std::vector<uint32_t>& ranks);

}  // namespace convoy::trace
