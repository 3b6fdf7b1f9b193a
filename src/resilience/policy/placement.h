#pragma once

#include <convoy/resilience/policy.h>

#include <optional>
#include <vector>

// Where blocks can go, and what each way costs.
namespace convoy::resilience {

// May run blocks now.
bool is_fit(const Node& node);

// Blocks that have a place.
int placed(const Job& job);

// Places for `lost` blocks, the cheapest first: warm spares, their own nodes, any other. Empty:
// there are not enough. `risk`: of each node.
std::optional<std::vector<Move>> place(const Job& job, const std::vector<int>& lost,
                                       const std::vector<double>& risk);

// Which blocks to give up so that the rest are whole replicas, without a new process. Living blocks
// of one part stand in for each other. Empty: not one whole replica would be left.
std::optional<std::vector<int>> shrink(const Job& job, const std::vector<int>& lost);

// The step behind which the training can go on, with these blocks' memory gone, and how long
// loading takes. Step 0: nothing is left, from the beginning.
struct Resume {
  Step step = 0;
  Seconds load = 0;
};
Resume resume_without(const Job& job, const std::vector<int>& lost);

}  // namespace convoy::resilience
