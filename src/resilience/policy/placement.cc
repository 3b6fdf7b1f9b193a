#include "src/resilience/policy/placement.h"

#include <algorithm>
#include <map>
#include <set>

namespace convoy::resilience {
namespace {

const Node* node_of(const Job& job, int node) {
  return node == kNone ? nullptr : &job.nodes[static_cast<size_t>(node)];
}

bool lives(const Job& job, const std::set<int>& gone, size_t block) {
  const Block& b = job.blocks[block];
  return b.node != kNone && b.is_alive && !gone.contains(static_cast<int>(block));
}

struct Room {
  int free = 0, warm = 0;
};

// Of each node that is fit, beside the blocks that stay there.
std::vector<Room> rooms(const Job& job, const std::set<int>& lost) {
  std::vector<Room> all;
  for (const Node& n : job.nodes) {
    all.push_back(is_fit(n) ? Room{n.slots, n.warm} : Room{});
  }
  for (size_t b = 0; b < job.blocks.size(); ++b) {
    if (!lives(job, lost, b)) continue;
    --all[static_cast<size_t>(job.blocks[b].node)].free;
  }
  for (Room& r : all) r.free = std::max(r.free, 0), r.warm = std::min(r.warm, r.free);
  return all;
}

}  // namespace

bool is_fit(const Node& node) {
  return node.state == NodeState::kHealthy;
}

int placed(const Job& job) {
  return static_cast<int>(std::count_if(job.blocks.begin(), job.blocks.end(),
                                        [](const Block& b) { return b.node != kNone; }));
}

std::optional<std::vector<Move>> place(const Job& job, const std::vector<int>& lost,
                                       const std::vector<double>& risk) {
  std::vector<Room> room = rooms(job, {lost.begin(), lost.end()});
  std::vector<Move> moves;
  for (const int b : lost) {
    const int home = job.blocks[static_cast<size_t>(b)].node;
    std::optional<Move> best;
    Seconds least = 0;
    for (size_t n = 0; n < room.size(); ++n) {
      if (room[n].free == 0) continue;
      const bool is_warm = room[n].warm > 0;
      const Seconds start = is_warm ? job.costs.promote : job.costs.respawn;
      // Whoever fails again has to be started again; away from home others lose their near peers.
      const Seconds cost = start * (1 + risk[n]) + (static_cast<int>(n) == home ? 0 : 1e-3);
      if (!best || cost < least) best = Move{b, static_cast<int>(n), is_warm}, least = cost;
    }
    if (!best) return std::nullopt;
    Room& taken = room[static_cast<size_t>(best->node)];
    --taken.free;
    if (best->is_warm) --taken.warm;
    moves.push_back(*best);
  }
  return moves;
}

std::optional<std::vector<int>> shrink(const Job& job, const std::vector<int>& lost) {
  const std::set<int> gone(lost.begin(), lost.end());
  std::vector<std::vector<int>> living(static_cast<size_t>(job.parts));
  std::map<int, int> of_replica;  // that live
  for (size_t b = 0; b < job.blocks.size(); ++b) {
    if (!lives(job, gone, b)) continue;
    living[static_cast<size_t>(job.blocks[b].part)].push_back(static_cast<int>(b));
    ++of_replica[job.blocks[b].replica];
  }
  size_t replicas = SIZE_MAX;
  for (const auto& part : living) replicas = std::min(replicas, part.size());
  if (replicas == 0 || replicas == SIZE_MAX) return std::nullopt;
  std::vector<int> dropped = lost;
  for (auto& part : living) {
    // Of replicas that are whole none is taken apart before those that are not.
    std::stable_sort(part.begin(), part.end(), [&](int a, int b) {
      return of_replica[job.blocks[static_cast<size_t>(a)].replica] >
             of_replica[job.blocks[static_cast<size_t>(b)].replica];
    });
    dropped.insert(dropped.end(), part.begin() + static_cast<ptrdiff_t>(replicas), part.end());
  }
  std::sort(dropped.begin(), dropped.end());
  return dropped;
}

Resume resume_without(const Job& job, const std::vector<int>& lost) {
  if (lost.empty()) return {job.step, 0};
  const std::set<int> gone(lost.begin(), lost.end());
  if (job.is_replicated) {
    std::set<int> parts;
    for (size_t b = 0; b < job.blocks.size(); ++b) {
      if (lives(job, gone, b)) parts.insert(job.blocks[b].part);
    }
    if (parts.size() == static_cast<size_t>(job.parts)) return {job.step, job.costs.replica_load};
  }
  // All go back to one step, of which each block (or, replicated, each part) has a copy.
  std::map<Step, std::map<int, Seconds>> whole;  // by step: what there is, and its shortest load
  for (const Copy& c : job.copies) {
    const Node* node = node_of(job, c.node);
    if (node != nullptr && node->state == NodeState::kLost) continue;
    const int what = job.is_replicated ? job.blocks[static_cast<size_t>(c.block)].part : c.block;
    auto& there = whole[c.step];
    const auto [at, is_new] = there.emplace(what, c.load);
    if (!is_new) at->second = std::min(at->second, c.load);
  }
  size_t needed = static_cast<size_t>(job.parts);
  if (!job.is_replicated) needed = static_cast<size_t>(placed(job));
  for (auto at = whole.rbegin(); at != whole.rend(); ++at) {
    if (at->second.size() < needed) continue;
    Seconds load = 0;
    for (const auto& [what, time] : at->second) load = std::max(load, time);
    return {at->first, load};
  }
  return {0, 0};
}

}  // namespace convoy::resilience
