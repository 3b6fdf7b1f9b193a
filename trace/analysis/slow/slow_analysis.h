#pragma once

#include <convoy/trace/clock_model.h>
#include <convoy/trace/diagnose.h>
#include <convoy/trace/event.h>
#include <convoy/trace/verdict.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace convoy::trace {

// Who or what makes steps slow, and what would make them faster. Looks at whole steps: durations on
// each rank's own clock, compared with those of ranks that do the same work and with the past; so a
// verdict does not depend on how well clocks agree. Pure; the same events in the same order give
// the same verdicts. Memory: some 100 bytes for each rank and step of the window, and what ranks
// have told of steps that they have not finished. Not thread-safe.
class SlowAnalysis {
 public:
  // `registry` outlives it.
  SlowAnalysis(const Registry& registry, const DiagnoserOptions& options);
  ~SlowAnalysis();

  // Forgets all that was before: another generation's ranks do other work.
  void job(const JobInfo& info);
  // `clock` says on which host a rank is, and what its times are on the root's clock.
  void batch(const Batch& batch, const ClockModel& clock);

  // What is slow as of now. A verdict keeps its onset while it gets better known: of a rank, then
  // of its host.
  std::vector<Verdict> find(int64_t now, const ClockModel& clock);
  // Best first. Empty before some steps have been seen.
  std::vector<Hint> hints() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::trace
