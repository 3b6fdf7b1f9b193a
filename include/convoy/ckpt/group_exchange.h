#pragma once

#include <convoy/ckpt/load_together.h>
#include <convoy/comm/group.h>

#include <utility>

namespace convoy::ckpt {

// An Exchange over a group of ranks, on the CPU or on GPUs (bytes travel on the group's device).
// Collective; blocks with the group's deadline; its failure comes back as Status. Used by one
// thread, and by nobody else while a load goes on.
class GroupExchange final : public Exchange {
 public:
  explicit GroupExchange(comm::Group group) : group_(std::move(group)) {}
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  Result<std::vector<Bytes>> all_gather(Bytes mine) override;
  Result<std::vector<Bytes>> all_to_all(std::vector<Bytes> to) override;

 private:
  // What each rank gives to each rank, in bytes: [from][to].
  std::vector<int64_t> gather_sizes(const std::vector<Bytes>& to) const;
  const comm::Group group_;
};

}  // namespace convoy::ckpt
