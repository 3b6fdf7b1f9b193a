#pragma once

#include <convoy/sim/cluster.h>

#include <cstdint>
#include <string>

// Runs to score a diagnosis on: drawn from a seed, so that a number names one.
namespace convoy::sim {

// Runs that are as they should be: a diagnosis must find nothing in them.
enum class Control : uint8_t {
  kHealthy,
  kJitter,  // 15 % of it
  kLargerBatch,
  kResize,
  kEvaluation,
  kEventLoss,  // 1 %
};
inline constexpr int kControls = 6;
const char* name_of(Control control);

struct Scenario {
  Cluster cluster;
  std::string layout;   // which of the layouts, for tables: "tp×pp×dp"
  bool second = false;  // there is a second fault
};

struct ScenarioLimits {
  int ranks_min = 64, ranks_max = 10240;
  double second_share = 0.3;  // of runs that have another fault, in another place
};

// A fault of `cls`, near what can be told from jitter, in a cluster of a random layout and size
// that can have it.
Scenario random_scenario(uint64_t seed, trace::Class cls, const ScenarioLimits& limits = {});
Scenario random_control(uint64_t seed, Control control, const ScenarioLimits& limits = {});

}  // namespace convoy::sim
