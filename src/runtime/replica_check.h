#pragma once

#include <convoy/comm/group.h>
#include <convoy/mesh/mesh.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace convoy::runtime {

// Finds out whether data-parallel replicas still hold the same bits: parameters and moments. In
// each step one of `pieces` of them is hashed, and what tells whether all hashes are equal travels
// with the sum of the gradient norm: no collective more. So what differs is found within `pieces`
// steps, and before the step that finds it has changed anything.
//
// Per set of replicas the sums of h and of h² over its n ranks: n·Σh² = (Σh)² only where all are
// equal (Cauchy and Schwarz), exact in doubles for hashes of 18 bits on up to 65,536 replicas.
class ReplicaCheck {
 public:
  // What a set of replicas has found when it compared whole hashes.
  struct Finding {
    int64_t step = 0;        // that were done
    std::vector<int> ranks;  // the replicas
    std::vector<int> wrong;  // those that a majority contradicts; empty: nobody can tell
    bool is_wrong = false;   // this rank, or nobody can tell
    std::string text;
  };

  // `pieces` 0: nothing is checked.
  ReplicaCheck(const Mesh& mesh, int rank, int64_t pieces);

  bool is_on() const { return pieces_ > 0; }
  int64_t pieces() const { return pieces_; }
  // This rank's summands after `step` steps; `state`: the same on all replicas, any device. `all`:
  // of all pieces at once, for when there is reason to look. None if it is off.
  std::vector<double> numbers(int64_t step, const std::vector<at::Tensor>& state, bool all = false);
  // Of the sums over the world, so all ranks answer alike.
  bool differs(const std::vector<double>& sums) const;
  // Whether this rank's own set does.
  bool own_differs(const std::vector<double>& sums) const;
  // Collective over the replicas `dp` of a set that differs.
  Finding compare(const comm::Group& dp);
  // Once training has come again to a step where nobody could tell: what that says of this rank.
  std::optional<std::string> answer();

 private:
  bool differs(const std::vector<double>& sums, size_t set) const;

  int rank_;
  std::vector<int> replicas_;  // ranks
  size_t sets_ = 0, set_ = 0;
  int64_t pieces_ = 0;
  int64_t step_ = 0;  // of hash_
  uint64_t hash_ = 0;
  std::optional<Finding> open_;  // nobody could tell
  uint64_t open_hash_ = 0;       // this rank's then
};

}  // namespace convoy::runtime
