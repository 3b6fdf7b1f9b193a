#pragma once

#include <convoy/comm/group.h>
#include <convoy/mesh/mesh.h>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <atomic>
#include <chrono>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace convoy::comm {

struct MeshGroupsOptions {
  c10::DeviceType device = c10::DeviceType::CPU;  // CPU: the backend `convoy`; CUDA: NCCL
  int device_index = 0;                           // CUDA: this rank's GPU
  std::chrono::milliseconds timeout = std::chrono::minutes(10);  // of joining and of each operation
  std::string prefix;  // of names and keys: what differs between generations of a job
  // Called with each group before its first use: its name without the prefix, and its ranks of the
  // mesh in the group's order.
  std::function<void(const std::string& name, const std::vector<int>& ranks,
                     const c10::intrusive_ptr<c10d::ProcessGroup>& group)>
      on_group = {};
};

// One rank's groups along the dimensions of a mesh, handed over or made on first use, and then
// kept.
//
// Ownership: owns the groups; copies of a comm::Group share them and may outlive it. Threads:
// group() may be called from any thread. Blocks: the first group() for a set of dimensions is
// collective over that group: all its ranks must ask, and all ranks must ask for new sets in the
// same order. Ends: shutdown() with the others; the destructor only lets go of the groups, which on
// NCCL aborts what peers are still doing.
class MeshGroups {
 public:
  // `store`: where the ranks meet to make groups; null if all that are used are handed over.
  MeshGroups(Mesh mesh, int rank, c10::intrusive_ptr<c10d::Store> store,
             MeshGroupsOptions options = {});

  // Hands over the group along `names`, made elsewhere (by torch.distributed in Python, on Gloo,
  // say), so that none is made here. Its ranks must be the mesh's, in the mesh's order. Not
  // collective. Throws c10::ValueError if its size or this rank's place in it are not the mesh's,
  // or if there is a group along `names` already.
  void adopt(std::initializer_list<std::string_view> names,
             c10::intrusive_ptr<c10d::ProcessGroup> group) {
    adopt(std::span(names.begin(), names.size()), std::move(group));
  }
  void adopt(std::span<const std::string_view> names, c10::intrusive_ptr<c10d::ProcessGroup> group);

  // The group of the ranks that differ from this one only along `names`, its ranks in the mesh's
  // order: rank within the group is the coordinate (for several names, the innermost changes
  // fastest). Alone when there is only this rank. Named "tp[0]". Throws c10::Error when the group
  // can't be made.
  Group group(std::initializer_list<std::string_view> names) {
    return group(std::span(names.begin(), names.size()));
  }
  Group group(std::span<const std::string_view> names);
  // All ranks of the mesh.
  Group world();

  // When all ranks have done their work: ends the groups on GPUs, so that nobody goes before his
  // peers are through. Collective over each group. Groups on the CPU need none.
  void shutdown();

  // Fails what runs in any group, on all its ranks, and what is being made: when a rank has gone,
  // so that nobody waits for it. Any thread. Nothing works until reform().
  void abort();
  // After abort() and before reform(): another mesh of the same dimensions, and this rank's place
  // in it. Groups may become larger, smaller or alone.
  void move_to(Mesh mesh, int rank);
  // Forms all groups anew, among processes of which some may have taken the place of others,
  // through a store that knows nothing of the old ones. Copies of a comm::Group that were handed
  // out go on with the new one. `sets`: as sets() of one of the ranks, the same on all; groups
  // along other dimensions are forgotten. Collective over the mesh. `prefix` as in the options.
  // `called_off`: whether an abort() that was meant for it may have come before.
  void reform(
      c10::intrusive_ptr<c10d::Store> store, const std::string& prefix,
      const std::vector<std::string>& sets,
      const std::function<bool()>& called_off = [] { return false; });
  // The dimensions of each group that was asked for, such as "dp" and "tp,dp".
  std::vector<std::string> sets() const;

  const Mesh& mesh() const { return mesh_; }
  int rank() const { return rank_; }

 private:
  int place_in(const std::vector<int>& ranks) const;
  std::string set_of(std::span<const std::string_view> names) const;
  c10::intrusive_ptr<c10d::ProcessGroup> make(const std::string& name,
                                              const std::vector<int>& ranks);
  // Null: this rank is alone in it.
  c10::intrusive_ptr<c10d::ProcessGroup> formed(std::span<const std::string_view> names);
  void announce(std::span<const std::string_view> names, const std::vector<int>& ranks,
                const c10::intrusive_ptr<c10d::ProcessGroup>& group) const;

  Mesh mesh_;
  int rank_;
  c10::intrusive_ptr<c10d::Store> store_;
  MeshGroupsOptions options_;
  std::mutex making_;         // while a group is made, which blocks
  std::mutex aborting_;       // while groups are aborted, which blocks on GPUs
  mutable std::mutex mutex_;  // of groups_
  struct Made {
    Group group;
    bool is_aborted = false;
  };
  std::map<std::string, Made> groups_;  // by their dimensions, innermost first: "tp,dp"
  std::shared_ptr<std::atomic<bool>> stops_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace convoy::comm
