// A machine is to be freed: its ranks go elsewhere first, or their replicas go on without them.
#include "src/resilience/supervisor/supervisor.h"

namespace convoy::resilience {

// By its name or number.
int Supervisor::node_named(const std::string& name) const {
  for (int node = 0; node < options_.nodes; ++node) {
    if (name == std::to_string(node) || (nodes_.contains(node) && name == node_name(node))) {
      return node;
    }
  }
  return kNone;
}

Status Supervisor::may_drain(int node, const std::string& name) const {
  if (node == kNone || !is_there(node)) {
    return {Code::kNotFound, "this job has no machine '" + name + "' now; see `convoy status`"};
  }
  if (options_.nodes == 1) {
    return {Code::kFailedPrecondition, "the job has no other machine to go on with"};
  }
  if (node == options_.home && !options_.is_contested) {
    return {Code::kFailedPrecondition,
            node_name(node) + " leads the job, which needs --etcd to go on without it"};
  }
  if (phase_ != Phase::kSteady || !is_complete()) {
    return {Code::kUnavailable, "the job is recovering just now; ask again in a moment"};
  }
  if (has_only_copies(node) && !can_reshape()) {
    return {Code::kFailedPrecondition,
            node_name(node) +
                " has the only copies of a part of the model, and the program can't save them and "
                "go on from there: lay whole replicas on each machine (--mesh …,order=tp-pp-dp)"};
  }
  return ok_status();
}

// Of parts of the model; an optimizer that is sharded over replicas is not looked at: its workers
// go back to what was saved.
bool Supervisor::has_only_copies(int node) const {
  std::set<int> parts;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    if (place_[static_cast<size_t>(rank)] == node) continue;
    parts.insert(layout_.blocks()[static_cast<size_t>(layout_.block_of(rank))].part);
  }
  return static_cast<int>(parts.size()) < layout_.parts();
}

Status Supervisor::drain(const std::string& name) {
  const int node = node_named(name);
  CONVOY_RETURN_IF_ERROR(may_drain(node, name));
  state_.draining.insert(node);
  save();
  return ok_status();
}

bool Supervisor::is_draining(int node) const {
  return state_.draining.contains(node);
}

void Supervisor::look_for_drains() {
  for (const int node : std::set<int>(state_.draining)) {
    if (phase_ != Phase::kSteady || incident_ || !is_there(node)) continue;
    const std::vector<int> ranks = ranks_on(node);
    if (ranks.empty()) {
      release(node);
    } else {
      move_away(node, ranks);
    }
  }
}

// As with growth: whoever is to come starts while the others train.
void Supervisor::move_away(int node, const std::vector<int>& ranks) {
  Fault fault{.kind = FaultKind::kDrain, .step = newest_step(), .at = elapsed_s()};
  fault.nodes.push_back(node);
  Plan plan = decide(job({}), state_.history, fault);
  rather_reshape(plan, "no whole replica has room on the other machines");
  if (plan.action == Action::kWait || plan.action == Action::kStop) {
    state_.draining.erase(node);
    save();
    return say(node_name(node) + " can't be freed: no other machine has room for its ranks.");
  }
  if (!have_processes(plan.moves)) return;
  const bool keeps_state = plan.action != Action::kReshape && !has_only_copies(node);
  if (!keeps_state && !holds(/*durably=*/true)) return;
  open_incident(name_of(fault.kind), ranks, "an operator wants " + node_name(node) + " free");
  incident_->nodes.push_back(node_name(node));
  state_.history.push_back({fault, {node}, /*is_over=*/false});
  carry_out(plan, ranks);
}

// Its launcher ends, and is not missed.
void Supervisor::release(int node) {
  const std::string name = node_name(node);
  state_.draining.erase(node);
  state_.lost_nodes.insert(node);
  save();
  say(name + " is free.");
  presence_.erase(node);
  std::erase_if(workers_, [&](const auto& entry) { return entry.second.node == node; });
  proto::ToNode order;
  order.mutable_end()->set_cause(kNone);
  send_(node, order);
}

}  // namespace convoy::resilience
