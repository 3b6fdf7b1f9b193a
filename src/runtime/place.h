#pragma once

#include <convoy/mesh/mesh.h>

namespace convoy::runtime {

// A rank's place in a mesh.
struct Place {
  Mesh mesh;
  int rank = 0;
  bool operator==(const Place&) const = default;

  // Whether what the rank there holds of the model is what a rank in `other` does; `sharded`: and
  // of the optimizer.
  bool holds_the_same(const Place& other, bool sharded) const {
    const auto is_same = [&](const char* dim) {
      return mesh.size(dim) == other.mesh.size(dim) &&
             mesh.coordinate(rank, dim) == other.mesh.coordinate(other.rank, dim);
    };
    return is_same("tp") && is_same("pp") && (!sharded || is_same("dp"));
  }
};

}  // namespace convoy::runtime
