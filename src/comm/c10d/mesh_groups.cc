// Which c10d group stands for which dimensions of the mesh, and on which backend.
#include <convoy/base/config.h>
#include <convoy/comm/backend.h>
#include <convoy/comm/mesh_groups.h>
#include <convoy/comm/nccl.h>

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <algorithm>
#include <utility>

namespace convoy::comm {
MeshGroups::MeshGroups(Mesh mesh, int rank, c10::intrusive_ptr<c10d::Store> store,
                       MeshGroupsOptions options)
    : mesh_(std::move(mesh)), rank_(rank), store_(std::move(store)), options_(std::move(options)) {
  TORCH_CHECK_VALUE(rank >= 0 && rank < mesh_.size(), "rank ", rank, " is not in a mesh of ",
                    mesh_.size());
}

void MeshGroups::adopt(std::span<const std::string_view> names,
                       c10::intrusive_ptr<c10d::ProcessGroup> group) {
  const std::vector<int> ranks = mesh_.group_of(rank_, names);
  const std::string name = options_.prefix + mesh_.group_name(names, rank_);
  TORCH_CHECK_VALUE(group, "no group was handed over for ", name);
  const auto size = static_cast<int>(ranks.size());
  const int place = place_in(ranks);
  TORCH_CHECK_VALUE(group->getSize() == size && group->getRank() == place,
                    "the group handed over for ", name, " has this process as rank ",
                    group->getRank(), " of ", group->getSize(), ", but in the mesh ",
                    mesh_.to_string(), " rank ", rank_, " is rank ", place, " of ", size);
  const std::lock_guard lock(mutex_);
  const auto [at, added] = groups_.emplace(set_of(names), Made{Group(std::move(group))});
  TORCH_CHECK_VALUE(added, "there is a group ", name,
                    " already: hand groups over before use, once");
  announce(names, ranks, at->second.group.process_group());
}

void MeshGroups::announce(std::span<const std::string_view> names, const std::vector<int>& ranks,
                          const c10::intrusive_ptr<c10d::ProcessGroup>& group) const {
  if (options_.on_group) options_.on_group(mesh_.group_name(names, rank_), ranks, group);
}

// Dimensions that the mesh doesn't have stand for nothing.
std::string MeshGroups::set_of(std::span<const std::string_view> names) const {
  std::string text;
  for (const MeshDim& dim : mesh_.dims()) {
    if (std::find(names.begin(), names.end(), dim.name) == names.end()) continue;
    text += (text.empty() ? "" : ",") + dim.name;
  }
  return text;
}

Group MeshGroups::group(std::span<const std::string_view> names) {
  const std::string set = set_of(names);
  if (set.empty()) return Group();
  const std::lock_guard making(making_);
  {
    const std::lock_guard lock(mutex_);
    const auto found = groups_.find(set);
    if (found != groups_.end()) return found->second.group;
  }
  const Group made = Group(formed(names));
  {
    const std::lock_guard lock(mutex_);
    groups_.emplace(set, Made{made});
  }
  if (*stops_) abort();  // it was not among those that abort() knew
  return made;
}

c10::intrusive_ptr<c10d::ProcessGroup> MeshGroups::formed(std::span<const std::string_view> names) {
  const std::vector<int> ranks = mesh_.group_of(rank_, names);
  if (ranks.size() == 1) return {};
  auto made = make(options_.prefix + mesh_.group_name(names, rank_), ranks);
  announce(names, ranks, made);
  return made;
}

Group MeshGroups::world() {
  const std::vector<std::string> names = mesh_.names();
  const std::vector<std::string_view> views(names.begin(), names.end());
  return group(views);
}

void MeshGroups::shutdown() {
  if (options_.device == c10::DeviceType::CPU) return;
  const std::lock_guard lock(mutex_);
  // In the order of their names: all ranks come to the groups of a dimension at the same time.
  for (const auto& [set, made] : groups_) {
    if (!made.group.alone()) made.group.process_group()->shutdown();
  }
  groups_.clear();
}

void MeshGroups::abort() {
  stops_->store(true);
  const std::lock_guard aborting(aborting_);  // whoever comes later waits until it is done
  std::vector<c10::intrusive_ptr<c10d::ProcessGroup>> groups;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [set, made] : groups_) {
      // A second time would be an error of NCCL's.
      if (std::exchange(made.is_aborted, true) || made.group.alone()) continue;
      groups.push_back(made.group.process_group());
    }
  }
  const auto abort_all = [&] {
    for (const auto& group : groups) group->abort();
  };
  if (options_.device == c10::DeviceType::CPU || groups.empty()) return abort_all();
  abort_together(abort_all);
  // What was cut off may still read memory that is about to be used for something else.
  const c10::impl::VirtualGuardImpl guard(options_.device);
  guard.synchronizeDevice(static_cast<c10::DeviceIndex>(options_.device_index));
}

std::vector<std::string> MeshGroups::sets() const {
  std::vector<std::string> sets;
  const std::lock_guard lock(mutex_);
  for (const auto& [set, made] : groups_) sets.push_back(set);
  return sets;
}

void MeshGroups::move_to(Mesh mesh, int rank) {
  TORCH_CHECK_VALUE(mesh.names() == mesh_.names(), "groups along the dimensions of ",
                    mesh_.to_string(), " can't become groups of ", mesh.to_string());
  const std::lock_guard making(making_);
  mesh_ = std::move(mesh);
  rank_ = rank;
}

void MeshGroups::reform(c10::intrusive_ptr<c10d::Store> store, const std::string& prefix,
                        const std::vector<std::string>& sets,
                        const std::function<bool()>& called_off) {
  const std::lock_guard making(making_);
  stops_->store(false);
  if (called_off()) stops_->store(true);
  store_ = std::move(store);
  options_.prefix = prefix;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(groups_, [&](const auto& made) {
      return std::find(sets.begin(), sets.end(), made.first) == sets.end();
    });
  }
  // In one order on all ranks, so that none waits for one that waits for it elsewhere.
  for (const std::string& set : sets) {
    const std::vector<std::string> names = split(set, ',');
    const std::vector<std::string_view> views(names.begin(), names.end());
    auto fresh = formed(views);
    const std::lock_guard lock(mutex_);
    Made& made = groups_.try_emplace(set, Made{Group(nullptr)}).first->second;
    made.group.replace(std::move(fresh));
    made.is_aborted = false;
  }
}

int MeshGroups::place_in(const std::vector<int>& ranks) const {
  return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
}

c10::intrusive_ptr<c10d::ProcessGroup> MeshGroups::make(const std::string& name,
                                                        const std::vector<int>& ranks) {
  TORCH_CHECK_VALUE(store_, "group ", name, " was not handed over, and the ranks of a mesh need a ",
                    "store to meet in and make it");
  const auto store = c10::make_intrusive<c10d::PrefixStore>("mesh/" + name, store_);
  const int size = static_cast<int>(ranks.size());
  const int rank = place_in(ranks);
  const std::vector<uint64_t> global_ranks(ranks.begin(), ranks.end());
  auto type = c10d::ProcessGroup::BackendType::CUSTOM;
  c10::intrusive_ptr<c10d::Backend> backend;
  if (options_.device == c10::DeviceType::CPU) {
    auto options = c10::make_intrusive<Backend::Options>();
    options->group_name = name;
    options->global_ranks_in_group = global_ranks;
    options->timeout = options_.timeout;
    options->stops = stops_;
    backend = c10::make_intrusive<Backend>(store, rank, size, std::move(options));
  } else {
    NcclOptions options;
    options.device = options_.device_index;
    options.name = name;
    options.global_ranks = global_ranks;
    options.timeout = options_.timeout;
    type = c10d::ProcessGroup::BackendType::NCCL;
    backend = make_nccl_group(store, rank, size, options);
  }
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
  if (options_.device != c10::DeviceType::CPU) {
    // Before setBackend(), which hands it on.
    group->setBoundDeviceId(
        at::Device(options_.device, static_cast<c10::DeviceIndex>(options_.device_index)));
  }
  group->setDefaultBackend(type);
  group->setBackend(options_.device, type, backend);
  group->setGroupName(name);
  return group;
}

}  // namespace convoy::comm
