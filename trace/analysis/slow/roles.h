#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <string>
#include <vector>

// Who may be compared with whom: ranks whose work is the same by the job's mesh.
namespace convoy::trace::slow {

class Roles {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit Roles(const JobInfo& job);

  uint32_t ranks() const { return static_cast<uint32_t>(cohort_.size()); }
  uint32_t stages() const { return stages_; }
  uint32_t stage(uint32_t rank) const { return stages_ == 1 ? 0 : coordinate(rank, stage_at_); }
  // The replica of the model that a rank is part of: all of its mesh but tp, cp and pp.
  uint32_t replica(uint32_t rank) const { return replica_[rank]; }
  uint32_t replicas() const { return replicas_; }
  // The rank's peers, by number; kNone: it has fewer than two.
  uint32_t cohort(uint32_t rank) const { return cohort_[rank]; }
  const std::vector<std::vector<uint32_t>>& cohorts() const { return cohorts_; }
  // The dimensions in which two ranks differ, as bits; without a mesh 1.
  uint32_t difference(uint32_t a, uint32_t b) const;
  // "rank 5 (pp 1, tp 1)"
  std::string describe(uint32_t rank) const;

 private:
  uint32_t coordinate(uint32_t rank, size_t dimension) const {
    return rank / stride_[dimension] % mesh_[dimension].size;
  }
  // Ranks that agree in all dimensions but those named.
  std::vector<std::vector<uint32_t>> classes(const std::vector<std::string>& but, bool invert,
                                             std::vector<uint32_t>& of) const;

  std::vector<Dimension> mesh_;
  std::vector<uint32_t> stride_;
  size_t stage_at_ = 0;
  uint32_t stages_ = 1, replicas_ = 1;
  std::vector<uint32_t> cohort_, replica_;
  std::vector<std::vector<uint32_t>> cohorts_;
};

}  // namespace convoy::trace::slow
