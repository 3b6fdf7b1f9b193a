#pragma once

#include "trace/summary/phases.h"

#include <cstdint>
#include <deque>
#include <map>
#include <vector>

// Steps of ranks, and of the job.
namespace convoy::trace {

struct RankStep {
  uint32_t step = 0;
  int64_t begin = 0;  // root's clock
  float total = 0;    // µs
  Parts parts{};
  float late = 0;  // µs that others waited for this rank alone in its collectives
};

// A rank's steps: the newest one by one, older ones ever coarser.
class RankSteps {
 public:
  void add(const RankStep& step, uint32_t window);
  const std::deque<RankStep>& window() const { return window_; }
  struct Past {
    uint32_t step = 0;  // the first of them
    float mean = 0;     // µs
  };
  // Means over `stride()` steps each, oldest first; the newest may hold fewer.
  const std::vector<Past>& past() const { return past_; }
  uint32_t stride() const { return stride_; }
  float median() const;  // of the window, µs; 0 without steps
  Parts mean_parts() const;
  float mean_late() const;

 private:
  std::deque<RankStep> window_;
  std::vector<Past> past_;
  uint32_t stride_ = 1, in_last_ = 0;
};

// One step, over all ranks that have told theirs.
struct JobStep {
  uint32_t step = 0;
  int64_t begin = 0, end = 0;  // first, last; root's clock
  uint32_t ranks = 0;
  uint32_t slowest = 0;                         // rank
  float median = 0, shortest = 0, longest = 0;  // µs
  Parts parts{};                                // µs, mean over ranks
};

class JobSteps {
 public:
  void add(uint32_t rank, const RankStep& step);
  // Oldest first. Above a limit neighbours are put together, so the distance doubles.
  std::vector<JobStep> all() const;

 private:
  struct Open {
    JobStep sum;  // parts: sums
    std::vector<float> totals;
  };
  static JobStep close(const Open& open);
  void keep(const JobStep& step);

  std::map<uint32_t, Open> open_;
  uint32_t closed_ = 0;  // the newest step that was
  std::vector<JobStep> past_;
  uint32_t stride_ = 1, skipped_ = 0;
};

}  // namespace convoy::trace
