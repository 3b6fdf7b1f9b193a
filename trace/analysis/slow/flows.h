#pragma once

#include "trace/analysis/slow/window.h"
#include <convoy/trace/event.h>

#include <cstdint>
#include <deque>
#include <limits>
#include <unordered_map>
#include <utility>
#include <vector>

// Joins the parts of an operation: how long the network takes for it once all are there.
namespace convoy::trace::slow {

// A value for each of the newest steps.
template <typename Value>
struct StepRing {
  std::vector<std::pair<uint32_t, Value>> slots;
  Value& at(uint32_t step, uint32_t window) {
    if (slots.empty()) slots.resize(window);
    auto& slot = slots[step % window];
    if (slot.first != step) slot = {step, Value{}};
    return slot.second;
  }
  const Value* find(uint32_t step) const {
    if (slots.empty()) return nullptr;
    const auto& slot = slots[step % slots.size()];
    return slot.first == step ? &slot.second : nullptr;
  }
};

// The time of one step's operations of one flow.
struct FlowStep {
  float network = 0;  // sum over operations of the shortest stay of all ranks
  float skew = 0;     // sum of the longest less the shortest
  uint16_t count = 0;
  float mean() const { return count != 0 ? network / static_cast<float>(count) : 0; }
};

// Operations that are alike: one signature of a group, or the messages of a size from one rank to
// another.
struct Flow {
  uint32_t group = 0, signature = 0;
  bool is_message = false;
  uint32_t sender = 0, receiver = 0;  // of messages
  StepRing<FlowStep> steps;
};

class Flows {
 public:
  Flows(const Registry& registry, uint32_t window) : registry_(registry), window_(window) {}

  // A rank's part in an operation that ended in `step`; `stay`: from its own arrival to its end.
  // Tells `window` who was waited for.
  void add(uint32_t rank, const Operation& operation, uint32_t step, float stay, Window& window);
  // Forgets what has been incomplete since before `step`.
  void forget(uint32_t step);
  void clear();
  const std::deque<Flow>& flows() const { return flows_; }

 private:
  struct Join {
    float shortest = std::numeric_limits<float>::max(), longest = 0, sum = 0;
    uint32_t last = 0;  // the rank with the shortest stay
    uint32_t parts = 0;
    uint32_t step = 0;
  };
  struct Line {  // joins of one group, or one pair of ranks, by sequence
    uint32_t first = 0;
    std::deque<Join> joins;
    uint32_t flow = 0;
  };

  static constexpr size_t kOpenMax = 4096;  // joins of one line that are kept
  Line& line_of(uint32_t rank, const Signature& signature);
  uint32_t flow_of(uint32_t rank, uint32_t signature);
  void complete(const Join& join, Flow& flow, uint32_t parts, Window& window);

  const Registry& registry_;
  uint32_t window_;
  std::deque<Flow> flows_;
  std::unordered_map<uint64_t, uint32_t> flow_at_;
  std::unordered_map<uint64_t, Line> lines_;
};

}  // namespace convoy::trace::slow
