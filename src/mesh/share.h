#pragma once

#include <convoy/mesh/shard_spec.h>

#include <optional>
#include <vector>

namespace convoy {

// What a rank holds before it is turned into boxes.
struct Share {
  // Per tensor dimension: global index ranges, in local order.
  std::vector<std::vector<Range>> dims;
  // After a flat cut: the positions kept of the row-major tensor that `dims` describes.
  std::optional<Range> flat;

  std::vector<int64_t> local_shape() const;  // of `dims`
};

// Demands a spec that passes the checks on what its placements contain (see check_spec.cc).
Share share_of(const ShardSpec& spec, const Mesh& mesh, int rank);

}  // namespace convoy
