#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/diagnose.h>
#include <convoy/trace/event.h>
#include <convoy/trace/summary.h>
#include <convoy/trace/verdict.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

namespace convoy::trace {

// Feeds a diagnoser what a stream holds, and looks each quarter of a second of the job's time.
class Diagnosing : public Sink {
 public:
  // `registry` outlives it. `at_end`: looks once, in finish().
  explicit Diagnosing(const Registry& registry, const DiagnoserOptions& options = {},
                      bool at_end = false)
      : at_end_(at_end), diagnoser_(registry, options) {}
  void job(const JobInfo& job) override { diagnoser_.job(job); }
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override { diagnoser_.clock(sample); }
  // `end`: of the job, if batches don't say when they came.
  void finish(int64_t end = 0) { diagnoser_.diagnose(now_ = std::max(now_, end)); }

  int64_t now() const { return now_; }  // root's clock: the newest batch's arrival
  const Diagnoser& diagnoser() const { return diagnoser_; }

 private:
  const bool at_end_;
  Diagnoser diagnoser_;
  int64_t now_ = 0, looked_ = 0;
};

struct ReplayOptions {
  // Looks once, when all has been read, instead of each quarter of a second of the job's time. The
  // first is quicker; the second finds what a running job would have been told, and when.
  bool at_end = false;
  bool summary = true;  // else only the verdicts
  DiagnoserOptions diagnoser = {};
};

// A stored stream, analysed again.
struct Replay {
  Registry registry;
  std::unique_ptr<Summary> summary;  // holds the verdicts and hints, too; null if not wanted
  std::vector<Verdict> verdicts;     // by onset
  std::vector<Hint> hints;           // best first
  int64_t end = 0;                   // root's clock: of the newest event
  uint64_t batches = 0;
  bool truncated = false;  // the file ends in the middle of a frame
};

// Reads either form of stream file. A damaged one: kDataLoss; one that is not there: kNotFound.
Result<std::unique_ptr<Replay>> replay_stream(const std::filesystem::path& path,
                                              const ReplayOptions& options = {});

}  // namespace convoy::trace
