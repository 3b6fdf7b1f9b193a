#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/event.h>
#include <convoy/trace/verdict.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace convoy::trace {

struct SummaryOptions {
  uint32_t window_steps = 32;  // of each rank that are kept one by one, at most 256
  // Collectives whose members are kept for drilling down: together so many (32 bytes each), the
  // newest of each group.
  uint64_t members_max = 4'000'000;
  uint32_t ranks_max = 1 << 17;   // higher ones are ignored
  uint32_t groups_max = 1 << 16;  // later ones have no timeline
  uint64_t links_max = 1 << 20;
};

// What the views of a job show, kept up to date while its events come: steps and where their time
// goes, groups, collectives, links, liveness, verdicts. Memory is bounded by ranks, groups and the
// options: some 200 MB at 10,000 ranks. Times are on the root's clock as far as clock samples
// allow.
//
// Not thread-safe. Only batch(), job(), clock(), set_verdicts() and set_hints() look into the
// registry; what gives texts does not, so these may be called from another thread that holds the
// same lock. The texts are JSON, described in docs/trace_page.md; times in them are in
// microseconds.
class Summary : public Sink {
 public:
  explicit Summary(const Registry& registry, const SummaryOptions& options = {});
  ~Summary() override;
  void job(const JobInfo& job) override;
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override;
  // All of them, as they stand now.
  void set_verdicts(const std::vector<Verdict>& verdicts);
  void set_hints(const std::vector<Hint>& hints);
  // No more events come: counts what was kept back for stragglers.
  void finish();

  // The newest moment that was heard of, root's clock, ns; 0: none yet.
  int64_t now() const;

  std::string overview() const;  // the job, its steps, verdicts and hints
  std::string ranks() const;     // a column for each figure
  Result<std::string> rank(uint32_t rank) const;
  std::string groups() const;  // the `kGroupsShown` with most waiting, and figures by kind and size
  Result<std::string> group(uint32_t group) const;  // its newest collectives
  Result<std::string> instance(uint32_t group, uint32_t sequence) const;
  std::string links() const;    // by rank, or by host where there are many ranks
  std::string metrics() const;  // Prometheus' text format

  // What a report that can't hold all should: culprits and evidence first, then the slowest, then
  // some of each role.
  std::vector<uint32_t> notable_ranks(size_t count) const;
  std::vector<uint32_t> notable_groups(size_t count) const;
  // (group, sequence)
  std::vector<std::pair<uint32_t, uint32_t>> notable_instances(size_t count) const;

  static constexpr size_t kGroupsShown = 400;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::trace
