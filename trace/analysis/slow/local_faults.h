#pragma once

#include "trace/analysis/slow/findings.h"

#include <deque>
#include <map>
#include <utility>
#include <vector>

// Faults that a rank's own time shows: computation, data, checkpoints, pauses, launches. Whoever
// only waits for others is no part of it.
namespace convoy::trace::slow {

class LocalFaults {
 public:
  void clear();
  // To be called once for each new step.
  std::vector<Finding> find(const View& view);
  // What saves in `step` took, for later findings. Also of steps that are not judged otherwise,
  // such as those with an evaluation.
  void note_checkpoints(const View& view, uint32_t step);

 private:
  struct Event {  // a rank's part took long in one step
    uint32_t step = 0, rank = 0;
    float cost = 0;  // of the step time
    bool garbage = false;
  };
  struct Memory {  // of a rank that has been slow
    uint32_t last_raised = 0;
    std::vector<std::pair<uint32_t, float>> excess;
  };
  using Bases = std::vector<Base>;

  void learn(const View& view);
  // Excess over peers (over the own past, where there are none) as a share of the step time.
  Table excess(const View& view, std::initializer_list<Part> parts, const Bases& bases,
               bool by_history) const;
  std::vector<Finding> slow_ranks(const View& view);
  void slow_hosts(const View& view, const Table& by_peers, const Table& by_history,
                  std::vector<Finding>& found, std::vector<bool>& told) const;
  void remember(const View& view, const Table& excess, const std::vector<Change>& changes);
  // Comes and goes: fills in class and period.
  bool is_periodic(const View& view, uint32_t rank, Finding& finding) const;
  // In the steps from `begin` to before `end`.
  bool explained_by_load(const View& view, uint32_t rank, size_t begin, size_t end,
                         float level) const;
  std::vector<Finding> launches(const View& view);
  std::vector<Finding> data(const View& view);
  std::vector<Finding> checkpoints(const View& view) const;
  std::vector<Finding> pauses(const View& view);

  Bases compute_, data_;
  std::map<uint32_t, Memory> memory_;
  std::vector<bool> launch_bound_, slow_;
  std::deque<Event> data_events_, checkpoint_events_, pauses_;
  std::deque<std::pair<uint32_t, float>> storage_events_;  // step, cost
  std::deque<std::pair<uint32_t, float>> checkpoints_of_all_;
};

}  // namespace convoy::trace::slow
