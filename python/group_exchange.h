#pragma once

#include <convoy/ckpt/load_together.h>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <vector>

namespace convoy::python {

// Collectives over byte vectors on a process group of torch.distributed, on whatever device it
// works. Deadline and the naming of absent ranks are the group's. Must be called without the
// interpreter lock.
class GroupExchange final : public ckpt::Exchange {
 public:
  explicit GroupExchange(c10::intrusive_ptr<c10d::ProcessGroup> group);
  int rank() const override { return group_->getRank(); }
  int size() const override { return group_->getSize(); }
  Result<std::vector<Bytes>> all_gather(Bytes mine) override;
  Result<std::vector<Bytes>> all_to_all(std::vector<Bytes> to) override;

 private:
  at::Tensor exchange(const at::Tensor& to, std::vector<int64_t> to_sizes,
                      std::vector<int64_t> from_sizes);
  at::Tensor gather(const at::Tensor& mine);

  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  at::Device device_;
};

}  // namespace convoy::python
