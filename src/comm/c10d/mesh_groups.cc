// Which c10d group stands for which dimensions of the mesh, and on which backend.
#include <convoy/comm/backend.h>
#include <convoy/comm/mesh_groups.h>
#include <convoy/comm/nccl.h>

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
  const auto [at, added] = groups_.emplace(name, Group(std::move(group)));
  TORCH_CHECK_VALUE(added, "there is a group ", name,
                    " already: hand groups over before use, once");
  announce(names, ranks, at->second);
}

void MeshGroups::announce(std::span<const std::string_view> names, const std::vector<int>& ranks,
                          const Group& group) const {
  if (options_.on_group) {
    options_.on_group(mesh_.group_name(names, rank_), ranks, group.process_group());
  }
}

Group MeshGroups::group(std::span<const std::string_view> names) {
  const std::vector<int> ranks = mesh_.group_of(rank_, names);
  if (ranks.size() == 1) return Group();
  const std::string name = options_.prefix + mesh_.group_name(names, rank_);
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(name);
  if (found != groups_.end()) return found->second;
  const Group& made = groups_.emplace(name, make(name, ranks)).first->second;
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
  for (const auto& [name, group] : groups_) group.process_group()->shutdown();
  groups_.clear();
}

int MeshGroups::place_in(const std::vector<int>& ranks) const {
  return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
}

Group MeshGroups::make(const std::string& name, const std::vector<int>& ranks) {
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
  return Group(std::move(group));
}

}  // namespace convoy::comm
