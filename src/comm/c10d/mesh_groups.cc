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
  TORCH_CHECK_VALUE(store_ || mesh_.size() == 1, "the ranks of a mesh need a store to meet in");
}

Group MeshGroups::group(std::span<const std::string_view> names) {
  const std::vector<int> ranks = mesh_.group_of(rank_, names);
  if (ranks.size() == 1) return Group();
  const std::string name = options_.prefix + mesh_.group_name(names, rank_);
  const std::lock_guard lock(mutex_);
  const auto found = groups_.find(name);
  if (found != groups_.end()) return found->second;
  return groups_.emplace(name, make(name, ranks)).first->second;
}

Group MeshGroups::world() {
  const std::vector<std::string> names = mesh_.names();
  const std::vector<std::string_view> views(names.begin(), names.end());
  return group(views);
}

Group MeshGroups::make(const std::string& name, const std::vector<int>& ranks) {
  const auto store = c10::make_intrusive<c10d::PrefixStore>("mesh/" + name, store_);
  const int size = static_cast<int>(ranks.size());
  const int rank = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
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
  group->setDefaultBackend(type);
  group->setBackend(options_.device, type, backend);
  group->setGroupName(name);
  return Group(std::move(group));
}

}  // namespace convoy::comm
