// The job's nodes: who has come, who is gone, and what that means for their ranks. Home's launcher
// is the supervisor's parent, so it is there as long as anyone is.
#include "src/resilience/protocol/protocol.h"
#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/log.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

namespace convoy::resilience {
namespace {

// For nodes that another supervisor has known to come to this one.
constexpr Nanos kComesBack = std::chrono::seconds(6);
// One that led before has been silent for a whole lease already. Until it is lost it only has to
// have found out who leads now, on a machine that may be as busy as this one is.
constexpr Nanos kLeaderComesBack = std::chrono::milliseconds(500);
constexpr int kTicksLate = 10;
// A job that begins is told who it waits for. Its ranks have a deadline of their own.
constexpr Nanos kToldAfter = std::chrono::seconds(15);
// Who was halted himself for so long has not listened.
constexpr Nanos kHalted = std::chrono::seconds(1);
constexpr int kExitLost = 69;     // as a rank's that can't reach the others
constexpr int kPlacesMax = 1000;  // of one message

}  // namespace

// --- who is there ---

void Supervisor::node_said(int node, const proto::NodeHello& hello) {
  if (hello.version() != kProtocolVersion) {
    CONVOY_LOG(Error) << "node " << hello.name() << " speaks version " << hello.version();
    return;
  }
  const bool is_anew = is_another_launcher(node, hello);
  is_anew || is_lost(node) ? take_back(node, hello) : take_in(node, hello);
  look_at_all(node, is_anew ? node_name(node) + " has begun anew" : "");
}

void Supervisor::take_in(int node, const proto::NodeHello& hello) {
  state_.launchers[node] = hello.launcher();
  nodes_[node] = hello;
  for (const auto& [other, known] : nodes_) {
    if (other != node && known.name() == hello.name()) {
      nodes_[node].set_name(hello.name() + "/" + std::to_string(node));
    }
  }
  const TimePoint now = clock_->now();
  if (node != options_.home)
    presence_.try_emplace(node, Presence{Heartbeats(now)}).first->second.beats.opened(now);
  state_.generation = std::max(state_.generation, hello.generation());
  for (const int rank : hello.done()) {
    if (rank >= 0 && rank < layout_.ranks()) done_.insert(rank);
  }
  reconcile(node, hello);
}

// A machine that was started again before it was missed, perhaps while no supervisor was there. Its
// ranks are gone, and those that its launcher has begun know nothing of the job.
bool Supervisor::is_another_launcher(int node, const proto::NodeHello& hello) const {
  const auto known = state_.launchers.find(node);
  return state_.had_all_nodes && !is_lost(node) && node != options_.home &&
         known != state_.launchers.end() && known->second != hello.launcher();
}

// What was said while its line was away is in its hello; what it was told then it may not know.
void Supervisor::reconcile(int node, const proto::NodeHello& hello) {
  std::erase_if(starting_, [&](const auto& entry) { return entry.second == node; });
  std::set<uint64_t> there;
  for (const proto::Worker& told : hello.workers()) {
    if (state_.unwanted.contains(told.worker())) {
      kill(node, told.worker());
      continue;
    }
    there.insert(told.worker());
    Worker* known = find(told.worker());
    if (known == nullptr) {
      started(node, told);
      if (Worker* fresh = find(told.worker()); fresh != nullptr) {
        fresh->is_new =
            state_.is_recovering && fresh->rank != kNone && !state_.veterans.contains(fresh->id);
      }
      continue;
    }
    known->has_joined = told.has_joined();
    if (known->is_condemned) condemn(*known);
  }
  std::erase_if(workers_, [&](const auto& entry) {
    return entry.second.node == node && !there.contains(entry.first);
  });
}

// Of two processes with one rank: a supervisor has died between its orders to two machines. One
// that has trained has the state.
void Supervisor::drop_doubles() {
  std::map<int, Worker*> of;
  const auto is_better = [&](const Worker& a, const Worker& b) {
    const bool a_trained = state_.veterans.contains(a.id),
               b_trained = state_.veterans.contains(b.id);
    return a_trained != b_trained ? a_trained : a.has_joined && !b.has_joined;
  };
  for (auto& [id, w] : workers_) {
    if (w.rank == kNone || w.is_condemned) continue;
    Worker*& kept = of[w.rank];
    Worker* const other = kept;
    if (kept == nullptr || is_better(w, *kept)) kept = &w;
    if (other != nullptr) condemn(kept == &w ? *other : w);
    place_[static_cast<size_t>(kept->rank)] = kept->node;
  }
}

// Once all nodes are there: whoever is missing has died. A machine that has come in the middle of a
// recovery has missed what the others were told, if it has a part in it.
void Supervisor::look_at_all(int come, const std::string& why) {
  if (!is_complete()) return;
  drop_doubles();
  if (options_.nodes > 1) {
    if (!state_.had_all_nodes) {
      state_.had_all_nodes = true;
      save();
    }
    proto::ToNode order;
    order.set_whole(true);
    broadcast(order);
  }
  std::vector<int> lost;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    if (of_rank(rank) == nullptr && !starting_.contains(rank) && !done_.contains(rank)) {
      lost.push_back(rank);
    }
  }
  if (!lost.empty()) {
    fault(FaultKind::kKilled, lost,
          why.empty() ? names("rank", lost) + " ended while no supervisor was there"
                      : why + ", so " + names("rank", lost) + " ended there");
  } else if (!held_.empty()) {
    fault(FaultKind::kNetwork, {}, std::string(held_));
  } else if (state_.is_recovering && phase_ == Phase::kSteady) {
    fault(FaultKind::kNetwork, {}, "a supervisor died in the middle of a recovery");
  } else if (state_.is_recovering && come != kNone && !ranks_on(come).empty()) {
    fault(FaultKind::kNetwork, {}, "a machine was away in the middle of a recovery");
  }
  finish();
}

void Supervisor::node_gone(int node, const std::string& why) {
  const auto at = presence_.find(node);
  if (at == presence_.end()) return;
  CONVOY_LOG(Warn) << "the line to " << node_name(node) << " has ended: " << why;
  at->second.beats.ended();
  at->second.why = why;
}

bool Supervisor::is_lost(int node) const {
  return state_.lost_nodes.contains(node);
}

bool Supervisor::is_there(int node) const {
  if (node == options_.home) return nodes_.contains(node);
  const auto at = presence_.find(node);
  return at != presence_.end() && at->second.beats.is_open();
}

bool Supervisor::is_complete() const {
  for (int node = 0; node < options_.nodes; ++node) {
    if (!is_lost(node) && !is_there(node)) return false;
  }
  return true;
}

bool Supervisor::is_any_silent() const {
  const TimePoint now = clock_->now();
  return std::any_of(presence_.begin(), presence_.end(),
                     [&](const auto& p) { return p.second.beats.is_unusual(now); });
}

// Those too that are still to come.
std::vector<int> Supervisor::ranks_on(int node) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    if (place_[static_cast<size_t>(rank)] == node) ranks.push_back(rank);
  }
  return ranks;
}

std::string Supervisor::node_name(int node) const {
  const auto at = nodes_.find(node);
  return at == nodes_.end() ? "node " + std::to_string(node) : at->second.name();
}

std::string Supervisor::place_of(int node) const {
  return options_.nodes == 1 ? "" : " on " + node_name(node);
}

// --- who is lost ---

void Supervisor::look_for_lost_nodes() {
  const TimePoint now = clock_->now();
  if (ticked_at_ != TimePoint{} && now - ticked_at_ > kHalted) {
    for (auto& [node, presence] : presence_) presence.beats.forgive(now);
  }
  if (ticked_at_ != TimePoint{}) latest_tick_ = std::max(latest_tick_, now - ticked_at_);
  ticked_at_ = now;
  if (!state_.had_all_nodes) return say_who_is_missing();
  std::vector<int> lost;
  std::string what;
  char text[160];
  for (int node = 0; node < options_.nodes; ++node) {
    if (is_lost(node) || node == options_.home) continue;
    const auto at = presence_.find(node);
    if (at == presence_.end()) {
      const Nanos limit = comes_back(node);
      if (now - created_at_ < limit) continue;
      std::snprintf(text, sizeof text, "it did not come to the new supervisor within %.1f s",
                    to_seconds(limit));
    } else {
      const Heartbeats& beats = at->second.beats;
      if (!beats.is_lost(now)) continue;
      std::snprintf(text, sizeof text,
                    beats.is_open() ? "it says nothing for %.1f s (limit %.1f s)"
                                    : "its line ended, and nothing came for %.1f s (limit %.1f s)",
                    to_seconds(beats.silence(now)), to_seconds(beats.limit()));
    }
    lost.push_back(node);
    what += (what.empty() ? "" : "; ") + node_name(node) + " is gone: " + text;
  }
  if (!lost.empty()) lose(lost, what);
}

Nanos Supervisor::comes_back(int node) const {
  if (node != led_before_) return kComesBack;
  return std::min(kComesBack, kLeaderComesBack + kTicksLate * latest_tick_);
}

void Supervisor::lose(const std::vector<int>& nodes, const std::string& what) {
  std::vector<int> ranks;
  for (const int node : nodes) {
    state_.lost_nodes.insert(node);
    std::erase_if(state_.unwanted,
                  [&](uint64_t worker) { return static_cast<int>(worker >> 32U) == node; });
    presence_.erase(node);
    for (const int rank : ranks_on(node)) {
      if (done_.contains(rank)) continue;
      ranks.push_back(rank);
    }
    std::erase_if(starting_, [&](const auto& entry) { return entry.second == node; });
    std::erase_if(workers_, [&](const auto& entry) { return entry.second.node == node; });
  }
  save();
  if (ranks.empty()) {
    say(what + "; it had no ranks");
    return look_at_all();
  }
  std::sort(ranks.begin(), ranks.end());
  code_ = kExitLost;
  fault(FaultKind::kNodeLost, ranks, what + ", with " + names("rank", ranks), nodes.front());
}

void Supervisor::say_who_is_missing() {
  if (missing_is_told_ || clock_->now() - created_at_ < kToldAfter) return;
  missing_is_told_ = true;
  std::vector<int> missing;
  for (int node = 0; node < options_.nodes; ++node) {
    if (!is_there(node)) missing.push_back(node);
  }
  if (missing.empty()) return;
  say(names("machine", missing) + " of " + std::to_string(options_.nodes) +
      " (--node-rank) did not connect to the supervisor yet; until then a death ends the job.");
}

// --- what the policy and the nodes are told ---

// That wait, by node.
std::vector<int> Supervisor::spares_by_node() const {
  std::vector<int> spares(static_cast<size_t>(options_.nodes));
  for (const auto& [id, w] : workers_) {
    if (w.rank == kNone && w.has_joined && !w.is_condemned) ++spares[static_cast<size_t>(w.node)];
  }
  return spares;
}

int Supervisor::spares() const {
  const std::vector<int> by_node = spares_by_node();
  return std::accumulate(by_node.begin(), by_node.end(), 0);
}

// Ranks of one block have to share the node, so a whole one needs room for all of them. Where it
// has lost only some, each spare counts.
Node Supervisor::node_for_policy(int node, bool is_home, int spares) const {
  const int per_block = layout_.ranks_per_block();
  Node told{.name = node_name(node)};
  const bool each_counts = is_home || options_.nodes == 1;
  told.slots = each_counts ? ranks_per_node() / per_block + options_.spares
                           : (ranks_per_node() + options_.spares) / per_block;
  told.warm = each_counts ? spares : spares / per_block;
  if (state_.quarantined.contains(node)) told.state = NodeState::kQuarantined;
  if (is_draining(node)) told.state = NodeState::kDraining;
  if (is_lost(node)) told.state = NodeState::kLost;
  return told;
}

void Supervisor::take_places(const std::vector<Move>& moves) {
  for (const Move& move : moves) {
    for (const int rank : layout_.ranks_of(move.block)) {
      place_[static_cast<size_t>(rank)] = move.node;
    }
  }
}

// So that each launcher knows which ranks are not its own any more.
void Supervisor::tell_places(bool is_resized) {
  if (options_.nodes == 1 && !is_resized) return;
  const std::vector<Worker*> all = members();
  for (size_t begin = 0; begin < all.size(); begin += kPlacesMax) {
    proto::ToNode order;
    order.mutable_places()->set_generation(state_.generation);
    order.mutable_places()->set_is_resized(is_resized && begin == 0);
    for (size_t i = begin; i < std::min(all.size(), begin + kPlacesMax); ++i) {
      proto::Worker& place = *order.mutable_places()->add_workers();
      place.set_worker(all[i]->id);
      place.set_rank(all[i]->rank);
    }
    broadcast(order);
  }
}

// Those that were used are replaced where there is room for them still.
void Supervisor::refill_spares() {
  for (const auto& [node, used] : spares_used_) {
    if (is_lost(node)) continue;
    int there = 0;
    for (const auto& [id, w] : workers_) there += w.node == node && !w.is_condemned ? 1 : 0;
    const int room = ranks_per_node() + options_.spares - there;
    for (int i = 0; i < std::min(used, room); ++i) {
      proto::ToNode order;
      order.mutable_spawn()->set_rank(kNone);
      send_(node, order);
    }
  }
  spares_used_.clear();
}

void Supervisor::broadcast(const proto::ToNode& order) {
  for (const auto& [node, known] : nodes_) {
    if (!is_lost(node) && node != options_.home) send_(node, order);
  }
  send_(options_.home, order);  // last: with its launcher this process ends
}

// --- the end ---

// On several machines no launcher knows by itself when all ranks have ended.
void Supervisor::finish() {
  if (static_cast<int>(done_.size()) < layout_.ranks()) return;
  notify_end(0, "all ranks have ended");
  if (options_.nodes == 1 || phase_ == Phase::kOver) return;
  phase_ = Phase::kOver;
  end_.emplace().set_cause(kNone);
  proto::ToNode order;
  *order.mutable_end() = *end_;
  broadcast(order);
}

void Supervisor::leaving(int node, const proto::Leaving& leaving) {
  phase_ = Phase::kOver;
  end_.emplace().set_code(leaving.code());
  end_->set_cause(kNone);
  end_->set_text(node_name(node) + " has ended it: " + leaving.text());
  notify_end(leaving.code(), end_->text());
  proto::ToNode order;
  *order.mutable_end() = *end_;
  broadcast(order);
}

}  // namespace convoy::resilience
