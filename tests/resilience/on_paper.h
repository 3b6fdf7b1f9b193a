#pragma once

#include <convoy/resilience/policy.h>

// Jobs without processes: made up, and changed as a plan says.
namespace convoy::resilience {

// `replicas` of `parts` blocks, `slots` of them on a node; `spares` more nodes, warm.
inline Job job_of(int replicas, int parts, int spares, int slots = 1) {
  Job job;
  job.parts = parts;
  job.step = 100;
  const int blocks = replicas * parts;
  for (int n = 0; n * slots < blocks; ++n) {
    job.nodes.push_back({"node" + std::to_string(n), slots, 0, NodeState::kHealthy});
  }
  for (int s = 0; s < spares; ++s) {
    job.nodes.push_back({"spare" + std::to_string(s), slots, slots, NodeState::kHealthy});
  }
  for (int b = 0; b < blocks; ++b) job.blocks.push_back({b / parts, b % parts, b / slots, true});
  return job;
}

inline Node& node_of(Job& job, int node) {
  return job.nodes[static_cast<size_t>(node)];
}

inline Block& block_of(Job& job, int block) {
  return job.blocks[static_cast<size_t>(block)];
}

// What has happened, and what the plan made of it.
inline void apply(Job& job, const Plan& plan, const Fault& fault) {
  for (const int n : fault.nodes) {
    if (fault.kind == FaultKind::kReturned) node_of(job, n).state = NodeState::kHealthy;
    if (fault.kind != FaultKind::kNodeLost) continue;
    node_of(job, n).state = NodeState::kLost;
    node_of(job, n).warm = 0;
  }
  for (const int n : plan.quarantined) {
    node_of(job, n).state = NodeState::kQuarantined;
    node_of(job, n).warm = 0;
  }
  for (const Move& m : plan.moves) {
    block_of(job, m.block).node = m.node;
    block_of(job, m.block).is_alive = true;
    if (m.is_warm) --node_of(job, m.node).warm;
  }
  for (const int b : plan.dropped) block_of(job, b).node = kNone;
}

}  // namespace convoy::resilience
