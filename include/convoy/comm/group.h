#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace convoy::comm {

// A started collective. wait() blocks until the tensors may be used and throws c10d's error if it
// failed. An empty Pending (group of one) is complete. Keeps the tensors alive.
class Pending {
 public:
  Pending() = default;
  Pending(c10::intrusive_ptr<c10d::Work> work, std::vector<at::Tensor> tensors)
      : work_(std::move(work)), tensors_(std::move(tensors)) {}
  void wait();
  bool done() const { return !work_ || work_->isCompleted(); }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
  std::vector<at::Tensor> tensors_;
};

// One message of an exchange.
struct Message {
  bool is_send = false;
  at::Tensor tensor;  // sent, or received into
  int peer = 0;
};

// One rank's view of a group of ranks: a c10d::ProcessGroup (Convoy's, NCCL, or Gloo handed over
// from Python), or none for a group of one, where every call is a no-op or a copy. So layers read
// the same on 1 rank and on 64.
//
// A small value; copies share the ProcessGroup. Tensors are contiguous, on the group's device;
// results are bit-identical on all ranks (Convoy adds in rank order, other backends in their own).
// Blocking calls block this thread; the started ones (`start_…`) progress by themselves and must be
// waited for in some order before the group is destroyed. Not thread-safe: calls of one group must
// come in the same order on all ranks. Errors: c10::Error / c10::DistBackendError naming group and
// ranks.
class Group {
 public:
  Group() = default;
  explicit Group(c10::intrusive_ptr<c10d::ProcessGroup> process_group);

  int rank() const { return members_ ? members_->rank : 0; }
  int size() const { return members_ ? members_->size : 1; }
  bool alone() const { return size() == 1; }
  std::string name() const;
  const c10::intrusive_ptr<c10d::ProcessGroup>& process_group() const;
  // All copies of this value use another ProcessGroup from now on: so layers go on after a failure.
  // It may have fewer or more ranks; whoever depends on their number has to look again. null: the
  // group is alone now. Nothing may be under way. Not of a default-constructed value.
  void replace(c10::intrusive_ptr<c10d::ProcessGroup> process_group) const;

  // Where the group's tensors live; the current GPU of a group on GPUs. CPU for a group of one.
  at::Device device() const;

  // In place.
  void all_reduce_(const at::Tensor& tensor,
                   c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM) const;
  void broadcast_(const at::Tensor& tensor, int root) const;
  void barrier() const;

  // Concatenation along dim 0 of what the ranks give. Without `sizes` all give the same dim 0; with
  // them, rank r gives sizes[r] rows (0 is allowed).
  at::Tensor all_gather(const at::Tensor& shard, const std::vector<int64_t>& sizes = {}) const;
  // Sum over the ranks of `full`, of which this rank keeps its rows: an equal share of dim 0, or
  // sizes[rank] rows.
  at::Tensor reduce_scatter(const at::Tensor& full, const std::vector<int64_t>& sizes = {}) const;
  // Into memory that is given: for flat buffers. `full` has size() × shard rows; they may overlap
  // only exactly in place.
  void all_gather_into(const at::Tensor& full, const at::Tensor& shard) const;
  void reduce_scatter_into(const at::Tensor& shard, const at::Tensor& full) const;

  Pending start_all_reduce_(const at::Tensor& tensor,
                            c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM) const;
  Pending start_all_gather_into(const at::Tensor& full, const at::Tensor& shard) const;
  Pending start_reduce_scatter_into(const at::Tensor& shard, const at::Tensor& full) const;
  // As reduce_scatter(); *shard is the result once the pending completes.
  Pending start_reduce_scatter(const at::Tensor& full, const std::vector<int64_t>& sizes,
                               at::Tensor* shard) const;
  // Messages of one (rank, tag) arrive in order. On NCCL, which knows no tags, all messages of a
  // rank follow each other: one that waits for its peer holds up those that were started after it,
  // so ranks that both send and receive use start_exchange().
  Pending start_send(const at::Tensor& tensor, int to, int tag = 0) const;
  Pending start_recv(const at::Tensor& tensor, int from, int tag = 0) const;
  // Messages of which none waits for another one, in whatever order the peers list theirs; those to
  // or from one peer match in their order. One pending for each. (Started one by one, messages of a
  // NCCL group follow each other: two ranks that both begin with a receive would wait for ever.)
  std::vector<Pending> start_exchange(std::span<const Message> messages) const;

  // A few numbers of the host, in place; they travel on the group's device. Block until the numbers
  // are back.
  void all_reduce_numbers(std::span<double> numbers) const;
  void broadcast_numbers(std::span<int64_t> numbers, int root) const;

 private:
  Pending all_reduce_impl(const at::Tensor& tensor, c10d::ReduceOp::RedOpType op, bool async) const;
  Pending all_gather_impl(const at::Tensor& full, const at::Tensor& shard,
                          const std::vector<int64_t>& sizes, bool async) const;
  Pending reduce_scatter_impl(const at::Tensor& shard, const at::Tensor& full,
                              const std::vector<int64_t>& sizes, bool async) const;

  struct Members {
    c10::intrusive_ptr<c10d::ProcessGroup> process_group;  // null: alone, for now
    int rank = 0;
    int size = 1;
  };
  std::shared_ptr<Members> members_;  // null: alone for ever
};

}  // namespace convoy::comm
