// Fewer data-parallel replicas while machines are missing, and all of them again once there is
// room: the global batch stays, so each replica has a larger share of it meanwhile.
#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/log.h>

namespace convoy::resilience {
namespace {

// A process that was asked for has come by then, or never does.
constexpr Nanos kAskAgain = std::chrono::seconds(30);

}  // namespace

// --- fewer ---

// Who keeps its part of the model may get another replica's number, so that none is left out.
// Returns the plan's moves, with the blocks' new numbers.
std::vector<Move> Supervisor::shrink(const Plan& plan) {
  const std::map<int, int> replica_of = close_gaps(job({}).blocks, plan.dropped);
  const int replicas = static_cast<int>(replica_of.size()) / layout_.parts();
  for (auto& [id, w] : workers_) {
    if (w.rank == kNone || w.is_condemned) continue;
    // It could wait as a spare, but holds the memory of a trainer.
    if (!replica_of.contains(layout_.block_of(w.rank))) condemn(w);
  }
  const Layout next = layout_.with_replicas(replicas);
  std::vector<Move> moves = plan.moves;
  for (Move& move : moves) {
    const int rank = layout_.ranks_of(move.block).front();
    move.block = next.block_of(layout_.rank_in(next, rank, replica_of.at(move.block)));
  }
  renumber(next, replica_of);
  return moves;
}

// --- more ---

// Replicas without a place are the last ones, and come back in their order.
void Supervisor::grow(const std::vector<Move>& moves) {
  const int more = static_cast<int>(moves.size()) / layout_.parts();
  renumber(layout_.with_replicas(layout_.replicas() + more), close_gaps(job({}).blocks, {}));
}

void Supervisor::renumber(const Layout& next, const std::map<int, int>& replica_of_block) {
  std::map<uint64_t, int> ranks;
  for (const auto& [id, w] : workers_) {
    if (w.rank == kNone || w.is_condemned) continue;
    ranks[id] = layout_.rank_in(next, w.rank, replica_of_block.at(layout_.block_of(w.rank)));
  }
  layout_ = next;
  place_.assign(static_cast<size_t>(layout_.ranks()), 0);
  starting_.clear();
  for (auto& [id, w] : workers_) {
    const auto at = ranks.find(id);
    w.rank = at == ranks.end() ? kNone : at->second;
    if (w.rank != kNone) place_[static_cast<size_t>(w.rank)] = w.node;
  }
  state_.replicas = layout_.is_full() ? 0 : layout_.replicas();
}

// Processes are started first, while the others train: only when all have come does the job stop
// for a moment.
void Supervisor::look_for_growth() {
  if (!done_.empty() || incident_) return;
  if (layout_.full() != own_mesh_) return look_for_larger_mesh();
  if (layout_.is_full()) return;
  const Fault fault{.kind = FaultKind::kReturned, .step = newest_step(), .at = elapsed_s()};
  const Plan plan = decide(job({}), state_.history, fault);
  if (plan.action != Action::kGrow || !have_processes(plan.moves)) return;
  open_incident(name_of(fault.kind), {}, plan.reason);
  state_.history.push_back({fault, {}, /*is_over=*/false});
  carry_out(plan, {});
}

// Else they are asked for.
bool Supervisor::have_processes(const std::vector<Move>& moves) {
  std::map<int, int> needed;  // by node
  for (const Move& move : moves) {
    if (!move.is_warm) needed[move.node] += layout_.ranks_per_block();
  }
  for (const auto& [node, count] : needed) ask_for_spares(node, count);
  return needed.empty();
}

void Supervisor::ask_for_spares(int node, int count) {
  const TimePoint now = clock_->now();
  const auto [at, is_first] = asked_at_.try_emplace(node, now);
  if (!is_first && now - at->second < kAskAgain) return;
  at->second = now;
  CONVOY_LOG(Info) << node_name(node) << " is asked for " << count << " processes";
  for (int i = 0; i < count; ++i) {
    proto::ToNode order;
    order.mutable_spawn()->set_rank(kNone);
    send_(node, order);
  }
}

// A machine that was given up, or another one in its place. What runs there belongs to a generation
// that is over.
void Supervisor::take_back(int node, const proto::NodeHello& hello) {
  state_.lost_nodes.erase(node);
  state_.draining.erase(node);
  asked_at_.erase(node);
  for (const proto::Worker& worker : hello.workers()) state_.unwanted.insert(worker.worker());
  save();
  proto::ToNode whole;
  whole.set_whole(true);  // so that its launcher does not take what is ended for a failure
  send_(node, whole);
  for (const proto::Worker& worker : hello.workers()) kill(node, worker.worker());
  proto::NodeHello empty = hello;
  empty.clear_workers();
  empty.clear_done();
  empty.set_generation(0);
  take_in(node, empty);
  say(node_name(node) + " is there again.");
}
}  // namespace convoy::resilience
