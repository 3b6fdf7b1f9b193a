#pragma once

#include <convoy/mesh/mesh.h>
#include <convoy/mesh/shard_spec.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

// Random meshes and layouts, and the slow truth about a layout, for the tests of this folder.
namespace convoy::mesh_test {

using Random = std::mt19937_64;

inline int64_t pick(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// 1 to `max_ranks` ranks, up to four dimensions, any rank order.
Mesh random_mesh(Random& random, int max_ranks);
// 0 to 4 dimensions of 0 to 12.
std::vector<int64_t> random_shape(Random& random);
// A spec that check() accepts: every kind of cut, nested, uneven, empty, fused, repeated.
ShardSpec random_spec(Random& random, const Mesh& mesh, const std::vector<int64_t>& shape,
                      int64_t dtype_bytes);

// The global element number of each local element in local order, worked out index by index from
// the rules in shard_spec.h, without ranges, boxes or strides.
std::vector<int64_t> slow_local_elements(const ShardSpec& spec, const Mesh& mesh, int rank);

}  // namespace convoy::mesh_test
