// Another mesh where not one whole replica has a place any more, and a larger one as soon as there
// is room. No rank's part of the model stays what it was: all take theirs from what was saved,
// which any mesh can read.
#include "src/resilience/supervisor/supervisor.h"

#include <algorithm>

namespace convoy::resilience {

// Ranks, by node.
std::vector<int> Supervisor::room() const {
  std::vector<int> room(static_cast<size_t>(options_.nodes));
  for (int node = 0; node < options_.nodes; ++node) {
    const bool is_usable = is_there(node) && !is_lost(node) && !is_draining(node) &&
                           !state_.quarantined.contains(node);
    if (is_usable) room[static_cast<size_t>(node)] = ranks_per_node() + options_.spares;
  }
  return room;
}

std::optional<Mesh> Supervisor::other_mesh() const {
  return mesh_for(own_mesh_, room(), ranks_per_node(), std::max(1, options_.min_dp));
}

// A program that lays out its model by itself need not be able to do it again.
bool Supervisor::can_reshape() const {
  if (!done_.empty() || newest_step() == 0) return false;
  bool has_any = false;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    const Worker* w = of_rank(rank);
    if (w == nullptr) continue;
    if (!w->is_new && !w->vitals.takes_any_mesh) return false;
    has_any = true;
  }
  return has_any;
}

// Where the policy would wait for machines.
void Supervisor::rather_reshape(Plan& plan, const char* why) const {
  if (plan.action != Action::kWait || !can_reshape() || !other_mesh()) return;
  plan.action = Action::kReshape;
  plan.reason = why;
}

// Who has a rank gets one on its own node, as long as there are any.
void Supervisor::reshape(const Mesh& mesh) {
  const std::vector<Worker*> all = members();
  layout_ = layout_of(mesh, options_.nodes, ranks_per_node());
  place_ = places_in(layout_, room());
  std::map<int, std::vector<int>> free;  // ranks, by node, the first one last
  for (int rank = layout_.ranks() - 1; rank >= 0; --rank) {
    free[place_[static_cast<size_t>(rank)]].push_back(rank);
  }
  for (Worker* w : all) {
    std::vector<int>& here = free[w->node];
    if (here.empty()) {
      condemn(*w);
    } else {
      w->rank = here.back();
      here.pop_back();
    }
  }
  starting_.clear();
  for (Incident& i : state_.history) i.fault.blocks.clear();  // which had other numbers
  state_.mesh = has_own_mesh() ? "" : mesh.to_string();
  state_.mesh_ranks = has_own_mesh() ? 0 : mesh.size();
  state_.replicas = 0;
}

// As with more replicas, processes are started first.
void Supervisor::look_for_larger_mesh() {
  const std::optional<Mesh> mesh = other_mesh();
  if (!mesh || mesh->size() <= layout_.ranks() || !can_reshape()) return;
  const std::vector<int> places =
      places_in(layout_of(*mesh, options_.nodes, ranks_per_node()), room());
  const std::vector<int> spares = spares_by_node();
  bool is_ready = true;
  for (int node = 0; node < options_.nodes; ++node) {
    const auto ranks = static_cast<int>(std::count(places.begin(), places.end(), node));
    const int there = static_cast<int>(ranks_on(node).size()) + spares[static_cast<size_t>(node)];
    if (ranks <= there) continue;
    ask_for_spares(node, ranks - there);
    is_ready = false;
  }
  if (!is_ready || !holds(/*durably=*/false)) return;
  const Fault fault{.kind = FaultKind::kReturned, .step = newest_step(), .at = elapsed_s()};
  open_incident(name_of(fault.kind), {}, "there is room for mesh " + mesh->to_string());
  state_.history.push_back({fault, {}, /*is_over=*/false});
  carry_out({.action = Action::kReshape, .resume = fault.step, .reason = "machines have come back"},
            {});
}

}  // namespace convoy::resilience
