#pragma once

#include <convoy/base/clock.h>
#include <convoy/trace/event.h>
#include <convoy/trace/verdict.h>

#include <memory>
#include <vector>

namespace convoy::trace {

struct DiagnoserOptions {
  // An operation is overdue after max(hang_floor, hang_factor × p99 of its like).
  Nanos hang_floor = std::chrono::seconds(1);
  double hang_factor = 5;
  // A rank whose heartbeats stop for so long is silent.
  Nanos silent_after = std::chrono::seconds(3);
  // Slower than its peers by less is nobody's fault.
  double slow_share = 0.05;
  // Steps that are looked at together.
  uint32_t window_steps = 24;
};

// Says who or what is to blame, from a job's events alone: no clock, no I/O, and the same events
// give the same verdicts. Memory is bounded by ranks, groups and the window. Not thread-safe.
class Diagnoser : public Sink {
 public:
  explicit Diagnoser(const Registry& registry, const DiagnoserOptions& options = {});
  ~Diagnoser() override;
  void job(const JobInfo& job) override;
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override;

  // Looks at all that has come until `now` (root's clock). Call it some times a second, or once at
  // the end of a file. Returns what is new or has changed since the last call (a verdict that is
  // over is told once more with `cleared`, one that was something else with `withdrawn`).
  std::vector<Verdict> diagnose(int64_t now);
  // All verdicts so far but withdrawn ones, in the order of their onset, each as it stands now.
  const std::vector<Verdict>& verdicts() const;
  // What would make the steps of the window faster, best first.
  std::vector<Hint> hints() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::trace
