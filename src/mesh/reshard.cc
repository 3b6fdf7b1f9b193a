// Who sends which part of a tensor to whom. Equal boxes of different sources are replicas of one
// SourceBox; a destination first takes what it holds itself, then covers the rest box by box,
// always removing what it has from what it still wants, so that no byte can come twice. The choice
// among replicas is a function of the box and of all destinations, never of the order of calls.
#include "src/mesh/box.h"
#include <convoy/mesh/reshard.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <unordered_map>

namespace convoy {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 60;

// A box and the sources that hold all of it.
struct SourceBox {
  Box box;
  struct Replica {
    size_t source;  // index in the problem's sources
    Piece piece;
  };
  std::vector<Replica> replicas;  // by the order of sources
};

// The replica that serves each destination which wants something of one box.
using Choice = std::unordered_map<size_t, size_t>;  // destination index → replica index

Box box_of(const Piece& piece) {
  return {piece.begin, piece.extent};
}

// A part of a destination's piece that has not been covered yet.
struct Wanted {
  Box box;
  const Piece* piece;
};

Status check_piece(const Piece& piece, const std::vector<int64_t>& shape) {
  bool fits = piece.begin.size() == shape.size() && piece.extent.size() == shape.size() &&
              piece.strides.size() == shape.size();
  for (size_t d = 0; fits && d < shape.size(); ++d) {
    fits = piece.begin[d] >= 0 && piece.extent[d] >= 1 && piece.extent[d] <= shape[d] &&
           piece.begin[d] <= shape[d] - piece.extent[d];
  }
  if (fits) return ok_status();
  return {Code::kInvalidArgument, "piece " + box_of(piece).to_string() +
                                      " is empty or outside of the tensor's shape. Give non-empty "
                                      "boxes with one entry per dimension."};
}

Status check_holders(const std::vector<Holder>& holders, const std::vector<int64_t>& shape,
                     const std::string& side) {
  std::unordered_map<int, size_t> seen;
  for (size_t i = 0; i < holders.size(); ++i) {
    const std::string who = side + " " + std::to_string(holders[i].id);
    if (!seen.emplace(holders[i].id, i).second) {
      return {Code::kInvalidArgument, who + " is given twice. Put its pieces into one holder."};
    }
    for (const Piece& piece : holders[i].pieces) {
      CONVOY_RETURN_IF_ERROR(check_piece(piece, shape).with_context(who));
    }
  }
  return ok_status();
}

Status check_layout(const Layout& layout, const std::string& side) {
  CONVOY_RETURN_IF_ERROR(layout.spec.check(layout.mesh).with_context(side));
  if (layout.spec.is_partial(layout.mesh)) {
    return {Code::kFailedPrecondition,
            side + ": layout " + layout.spec.to_string() +
                " is partial: its ranks hold addends and not values. Reduce it (all-reduce or "
                "reduce-scatter over that dimension) before resharding."};
  }
  if (layout.ranks.empty()) return ok_status();
  std::vector<int> sorted = layout.ranks;
  std::sort(sorted.begin(), sorted.end());
  if (static_cast<int>(sorted.size()) == layout.mesh.size() && sorted.front() >= 0 &&
      std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end()) {
    return ok_status();
  }
  return {Code::kInvalidArgument,
          side + ": its rank map has to give a distinct global rank for " + "each of the " +
              std::to_string(layout.mesh.size()) + " ranks of mesh \"" + layout.mesh.to_string() +
              "\", but has " + std::to_string(sorted.size()) + " entries or repeats one."};
}

}  // namespace

struct ReshardPlanner::State {
  ReshardProblem problem;
  std::vector<SourceBox> boxes;
  std::unordered_map<int, size_t> destination_index;  // by id
  std::unordered_map<int, size_t> source_index;       // by id

  // The source that is the same process as destination `d`, or nullptr.
  const Holder* self(size_t d) const;
  bool holds(size_t d, const SourceBox& box) const;
  Choice choose(size_t box) const;
  Result<DestinationPlan> plan(size_t d, std::vector<std::optional<Choice>>* memo) const;

 private:
  int64_t demand(size_t d, const Box& box) const;
  std::vector<size_t> nearest(size_t d, const SourceBox& box) const;
  void take(std::vector<Wanted>& wanted, size_t d, const Holder& source, const Box& box,
            const Piece& piece, std::vector<Transfer>& out) const;
};

const Holder* ReshardPlanner::State::self(size_t d) const {
  if (!problem.sources_are_ranks) return nullptr;
  const auto found = source_index.find(problem.destinations[d].id);
  return found == source_index.end() ? nullptr : &problem.sources[found->second];
}

bool ReshardPlanner::State::holds(size_t d, const SourceBox& box) const {
  const Holder* own = self(d);
  return own != nullptr &&
         std::any_of(box.replicas.begin(), box.replicas.end(),
                     [&](const auto& r) { return &problem.sources[r.source] == own; });
}

// Elements of `box` that destination `d` is to hold.
int64_t ReshardPlanner::State::demand(size_t d, const Box& box) const {
  int64_t elements = 0;
  for (const Piece& piece : problem.destinations[d].pieces) {
    elements += overlap(box, piece);
  }
  return elements;
}

// Replicas of `box` on the node of destination `d`; all of them if there is none.
std::vector<size_t> ReshardPlanner::State::nearest(size_t d, const SourceBox& box) const {
  const int node = problem.destinations[d].node;
  std::vector<size_t> near;
  for (size_t r = 0; r < box.replicas.size(); ++r) {
    if (node >= 0 && problem.sources[box.replicas[r].source].node == node) near.push_back(r);
  }
  if (near.empty()) {
    near.resize(box.replicas.size());
    std::iota(near.begin(), near.end(), size_t{0});
  }
  return near;
}

Choice ReshardPlanner::State::choose(size_t index) const {
  const SourceBox& box = boxes[index];
  const size_t n = box.replicas.size();
  std::vector<int64_t> load(n, 0);
  Choice choice;
  for (size_t d = 0; d < problem.destinations.size(); ++d) {
    const int64_t elements = demand(d, box.box);
    if (elements == 0 || holds(d, box)) continue;
    const std::vector<size_t> candidates = nearest(d, box);
    const size_t best =
        *std::min_element(candidates.begin(), candidates.end(), [&](size_t a, size_t b) {
          return std::pair(load[a], (a + n - index % n) % n) <
                 std::pair(load[b], (b + n - index % n) % n);
        });
    load[best] += elements;
    choice[d] = best;
  }
  return choice;
}

// Moves what `wanted` has in common with `box` from `source`, and leaves the rest wanted.
void ReshardPlanner::State::take(std::vector<Wanted>& wanted, size_t d, const Holder& source,
                                 const Box& box, const Piece& piece,
                                 std::vector<Transfer>& out) const {
  const Transfer like{.src_rank = source.id, .dst_rank = problem.destinations[d].id};
  std::vector<Wanted> rest;
  std::vector<Box> parts;
  for (Wanted& part : wanted) {
    const std::optional<Box> common = intersect(part.box, box);
    if (!common.has_value()) {
      rest.push_back(std::move(part));
      continue;
    }
    emit_transfers(*common, piece, *part.piece, problem.dtype_bytes, like, out);
    parts.clear();
    subtract(part.box, *common, parts);
    for (Box& left : parts) rest.push_back({std::move(left), part.piece});
  }
  wanted = std::move(rest);
}

Result<DestinationPlan> ReshardPlanner::State::plan(
    size_t d, std::vector<std::optional<Choice>>* memo) const {
  const Holder& destination = problem.destinations[d];
  DestinationPlan plan;
  std::vector<Wanted> wanted;
  for (const Piece& piece : destination.pieces) wanted.push_back({box_of(piece), &piece});

  if (const Holder* own = self(d); own != nullptr) {
    for (const Piece& piece : own->pieces) {
      take(wanted, d, *own, box_of(piece), piece, plan.local_copies);
    }
  }
  // Boxes can overlap without being equal; then the part that is on this node should come from
  // here.
  std::vector<std::pair<size_t, const SourceBox::Replica*>> near;
  std::vector<std::pair<size_t, const SourceBox::Replica*>> far;
  for (size_t b = 0; b < boxes.size(); ++b) {
    const SourceBox& box = boxes[b];
    if (demand(d, box.box) == 0 || holds(d, box)) continue;
    size_t replica = 0;
    if (box.replicas.size() > 1 && memo == nullptr) {
      replica = choose(b).at(d);
    } else if (box.replicas.size() > 1) {
      if (!(*memo)[b].has_value()) (*memo)[b] = choose(b);
      replica = (*memo)[b]->at(d);
    }
    const Holder& source = problem.sources[box.replicas[replica].source];
    const bool is_near = destination.node >= 0 && source.node == destination.node;
    (is_near ? near : far).emplace_back(b, &box.replicas[replica]);
  }
  near.insert(near.end(), far.begin(), far.end());
  for (const auto& [b, replica] : near) {
    if (wanted.empty()) break;
    take(wanted, d, problem.sources[replica->source], boxes[b].box, replica->piece, plan.receives);
  }
  if (!wanted.empty()) {
    return Status(Code::kNotFound, "no source holds elements " + wanted.front().box.to_string() +
                                       ", which rank " + std::to_string(destination.id) +
                                       " is to get. Give all shards of the tensor as sources.");
  }
  merge(plan.local_copies);
  merge(plan.receives);
  return plan;
}

Result<std::vector<Holder>> holders_of(const Layout& layout, int ranks_per_node) {
  CONVOY_RETURN_IF_ERROR(check_layout(layout, "a layout"));
  std::vector<Holder> holders;
  for (int rank = 0; rank < layout.mesh.size(); ++rank) {
    const int id = layout.ranks.empty() ? rank : layout.ranks[static_cast<size_t>(rank)];
    const int node = ranks_per_node > 0 ? id / ranks_per_node : 0;
    holders.push_back({id, node, layout.spec.pieces(layout.mesh, rank)});
  }
  return holders;
}

Result<ReshardPlanner> ReshardPlanner::create(const Layout& from, const Layout& to,
                                              int ranks_per_node) {
  CONVOY_RETURN_IF_ERROR(check_layout(from, "the source"));
  CONVOY_RETURN_IF_ERROR(check_layout(to, "the destination"));
  if (from.spec.shape != to.spec.shape || from.spec.dtype_bytes != to.spec.dtype_bytes) {
    return Status(Code::kInvalidArgument,
                  "the source, " + from.spec.to_string() + ", and the destination, " +
                      to.spec.to_string() +
                      ", are not the same tensor. Shapes and element sizes have to be equal; "
                      "convert the dtype before or after.");
  }
  ReshardProblem problem{.shape = from.spec.shape,
                         .dtype_bytes = from.spec.dtype_bytes,
                         .sources = holders_of(from, ranks_per_node).value(),
                         .destinations = holders_of(to, ranks_per_node).value()};
  return create(std::move(problem));
}

Result<ReshardPlanner> ReshardPlanner::create(ReshardProblem problem) {
  int64_t elements = 1;
  for (const int64_t size : problem.shape) {
    if (size < 0 || (size > 0 && elements > kMaxElements / size)) {
      return Status(Code::kInvalidArgument,
                    "a dimension is negative or the tensor has more than "
                    "2^60 elements. Check the shape.");
    }
    if (size > 0) elements *= size;
  }
  if (problem.dtype_bytes < 1 || problem.dtype_bytes > kMaxElements / elements) {
    return Status(Code::kInvalidArgument, "elements of " + std::to_string(problem.dtype_bytes) +
                                              " bytes make a tensor of none or too many bytes.");
  }
  CONVOY_RETURN_IF_ERROR(check_holders(problem.sources, problem.shape, "source"));
  CONVOY_RETURN_IF_ERROR(check_holders(problem.destinations, problem.shape, "destination"));
  auto state = std::make_shared<State>();
  state->problem = std::move(problem);
  std::map<Box, size_t> index;
  for (size_t s = 0; s < state->problem.sources.size(); ++s) {
    const Holder& source = state->problem.sources[s];
    state->source_index[source.id] = s;
    for (const Piece& piece : source.pieces) {
      const auto [at, added] = index.emplace(box_of(piece), state->boxes.size());
      if (added) state->boxes.push_back({at->first, {}});
      state->boxes[at->second].replicas.push_back({s, piece});
    }
  }
  for (size_t d = 0; d < state->problem.destinations.size(); ++d) {
    state->destination_index[state->problem.destinations[d].id] = d;
  }
  return ReshardPlanner(std::move(state));
}

Result<DestinationPlan> ReshardPlanner::plan_for_destination(int rank) const {
  const auto found = state_->destination_index.find(rank);
  if (found == state_->destination_index.end()) return DestinationPlan{};
  return state_->plan(found->second, nullptr);
}

Result<std::vector<Transfer>> ReshardPlanner::plan_for_source(int rank) const {
  std::vector<std::optional<Choice>> memo(state_->boxes.size());
  std::vector<Transfer> sends;
  for (size_t d = 0; d < state_->problem.destinations.size(); ++d) {
    CONVOY_ASSIGN_OR_RETURN(const DestinationPlan plan, state_->plan(d, &memo));
    std::copy_if(plan.receives.begin(), plan.receives.end(), std::back_inserter(sends),
                 [&](const Transfer& transfer) { return transfer.src_rank == rank; });
  }
  std::stable_sort(sends.begin(), sends.end(),
                   [](const Transfer& a, const Transfer& b) { return a.dst_rank < b.dst_rank; });
  return sends;
}

Result<ReshardPlan> ReshardPlanner::plan() const {
  std::vector<std::optional<Choice>> memo(state_->boxes.size());
  ReshardPlan whole;
  for (size_t d = 0; d < state_->problem.destinations.size(); ++d) {
    CONVOY_ASSIGN_OR_RETURN(const DestinationPlan plan, state_->plan(d, &memo));
    whole.sends.insert(whole.sends.end(), plan.receives.begin(), plan.receives.end());
    whole.local_copies.insert(whole.local_copies.end(), plan.local_copies.begin(),
                              plan.local_copies.end());
  }
  return whole;
}

}  // namespace convoy
