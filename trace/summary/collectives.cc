#include "trace/summary/collectives.h"

#include "trace/summary/phases.h"

#include <algorithm>
#include <bit>

namespace convoy::trace {
namespace {

constexpr uint32_t kInstancesMax = 256;  // of a group
constexpr uint32_t kInstancesMin = 4;
constexpr size_t kFiguresMax = 1024;
constexpr size_t kOperationsMax = 64;

// "tp[3]" → "tp"
std::string stem(const std::string& name) {
  const size_t end = name.find_first_of("[0123456789 ");
  return end == 0 || name.empty() ? "group" : name.substr(0, end);
}

}  // namespace

Timing timing_of(const Instance& instance) {
  Timing t;
  for (uint32_t i = 0; i < instance.members.size(); ++i) {
    const Member& m = instance.members[i];
    if (m.issued == 0) continue;
    const int64_t arrival = m.arrival();
    if (t.first_issue == 0 || m.issued < t.first_issue) t.first_issue = m.issued;
    if (t.first_arrival == 0 || arrival < t.first_arrival) t.first_arrival = arrival;
    if (arrival > t.last_arrival) {
      t.second_arrival = t.last_arrival;
      t.last_arrival = arrival;
      t.last_member = i;
    } else {
      t.second_arrival = std::max(t.second_arrival, arrival);
    }
    t.end = std::max(t.end, m.completed);
  }
  if (t.second_arrival == 0) t.second_arrival = t.last_arrival;
  return t;
}

int64_t Group::index_of(uint32_t rank) const {
  if (arithmetic) {
    const uint32_t begin = info.ranks.front();
    const uint32_t step = info.ranks.size() > 1 ? info.ranks[1] - begin : 1;
    if (rank < begin || (rank - begin) % step != 0) return -1;
    const uint32_t index = (rank - begin) / step;
    return index < info.ranks.size() ? int64_t{index} : -1;
  }
  const auto at = std::ranges::lower_bound(order, rank, {}, &std::pair<uint32_t, uint32_t>::first);
  return at != order.end() && at->first == rank ? int64_t{at->second} : -1;
}

void Collectives::job(const JobInfo& job) {
  job_ = job;
  groups_.clear();
  kinds_.clear();
  figures_.clear();
  members_ = 0;
}

uint8_t Collectives::kind_of(const GroupInfo& info) {
  std::string name;
  if (info.ranks.size() == job_.world_size && job_.world_size > 1) {
    name = "world";
  } else if (!job_.mesh.empty() && info.ranks.size() > 1) {
    uint64_t inner = 1;
    for (const Dimension& d : job_.mesh) {
      const uint32_t size = std::max(1U, d.size);
      const auto at = [&](uint32_t rank) { return rank / inner % size; };
      const uint64_t first = at(info.ranks.front());
      if (std::ranges::any_of(info.ranks, [&](uint32_t r) { return at(r) != first; })) {
        name += (name.empty() ? "" : "+") + d.name;
      }
      inner *= size;
    }
  }
  if (name.empty()) name = stem(info.name);
  const auto known = std::ranges::find(kinds_, name);
  if (known != kinds_.end()) return static_cast<uint8_t>(known - kinds_.begin());
  if (kinds_.size() + 1 == kKinds) kinds_.emplace_back("other groups");
  if (kinds_.size() < kKinds) kinds_.push_back(name);
  return static_cast<uint8_t>(kinds_.size() - 1);
}

uint32_t Collectives::instances_of(const Group& group) const {
  // Each rank is in about four groups, or as many as the mesh has dimensions and combinations.
  const uint64_t each = members_max_ / (std::max<uint64_t>(1, job_.world_size) * 8);
  const auto wanted =
      static_cast<uint32_t>(std::clamp<uint64_t>(each, kInstancesMin, kInstancesMax));
  const uint64_t room = (members_max_ - members_) / std::max<size_t>(1, group.info.ranks.size());
  return room < kInstancesMin ? 0 : std::min<uint32_t>(wanted, static_cast<uint32_t>(room));
}

Group* Collectives::group(uint32_t id, const GroupInfo& info) {
  if (id >= groups_max_) return nullptr;
  if (id >= groups_.size()) groups_.resize(id + 1);
  Group& g = groups_[id];
  if (!g.info.name.empty() && g.info.ranks.size() == info.ranks.size()) return &g;
  g.info = info;
  g.kind = kind_of(info);
  const std::vector<uint32_t>& ranks = g.info.ranks;
  g.arithmetic = !ranks.empty();
  for (size_t i = 1; i < ranks.size(); ++i) {
    const bool up = ranks[i] > ranks[i - 1];
    g.arithmetic = g.arithmetic && up && ranks[i] - ranks[i - 1] == ranks[1] - ranks[0];
  }
  if (!g.arithmetic) {
    g.order.clear();
    for (uint32_t i = 0; i < ranks.size(); ++i) g.order.emplace_back(ranks[i], i);
    std::ranges::sort(g.order);
  }
  g.ring.clear();
  g.ring.resize(instances_of(g));
  members_ += g.ring.size() * ranks.size();
  return &g;
}

const Group* Collectives::find(uint32_t id) const {
  return id < groups_.size() && !groups_[id].info.name.empty() ? &groups_[id] : nullptr;
}

const Instance* Collectives::add(Group& group, uint32_t rank, const Operation& operation) {
  const int64_t index = group.index_of(rank);
  if (index < 0 || operation.sequence == 0) return nullptr;
  group.latest = std::max(group.latest, operation.sequence);
  if (group.ring.empty()) return nullptr;
  Instance& instance = group.ring[operation.sequence % group.ring.size()];
  if (instance.sequence > operation.sequence) return nullptr;  // too old to be kept
  if (instance.sequence != operation.sequence) {
    instance.sequence = operation.sequence;
    instance.signature = operation.signature;
    instance.issued = instance.completed = 0;
    instance.members.assign(group.info.ranks.size(), Member());
  }
  Member& m = instance.members[static_cast<size_t>(index)];
  if (m.completed != 0) return nullptr;  // is told once
  if (m.issued == 0) ++instance.issued;
  m = {operation.issued, operation.started, operation.completed, operation.signature};
  if (m.completed == 0 || ++instance.completed < instance.members.size()) return nullptr;
  const Timing timing = timing_of(instance);
  ++group.completed;
  group.skew_ns += static_cast<double>(timing.skew());
  group.transfer_ns += static_cast<double>(timing.transfer());
  group.last_end = std::max(group.last_end, timing.end);
  return &instance;
}

OperationFigures& Collectives::figures(uint8_t kind, const Signature& signature) {
  static const std::string others = "others";
  const auto known = operations_.try_emplace(signature.operation, 0);
  const bool counted = operations_.size() <= kOperationsMax;
  if (!counted && known.second) operations_.erase(known.first);
  const auto size =
      static_cast<uint8_t>(signature.bytes <= 1 ? 0 : std::bit_width(signature.bytes - 1));
  const Key key(kind, counted || !known.second ? signature.operation : others, size);
  if (figures_.size() >= kFiguresMax && !figures_.contains(key)) {
    return figures_[Key(kind, others, 0)];
  }
  return figures_[key];
}

}  // namespace convoy::trace
