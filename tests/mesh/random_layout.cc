// Generators and the index-by-index truth. Shares no code with src/mesh but Mesh itself.
#include "tests/mesh/random_layout.h"

#include <algorithm>

namespace convoy::mesh_test {
namespace {

// The part of 0 … size-1 that shard `index` of `parts` holds when items are dealt one by one: item
// k goes to the first shard that is below its quota.
std::vector<int64_t> deal(int64_t size, int parts, int index) {
  std::vector<int64_t> quota(static_cast<size_t>(parts), 0);
  for (int64_t k = 0; k < size; ++k) ++quota[static_cast<size_t>(k % parts)];
  std::vector<int64_t> mine;
  int64_t item = 0;
  for (int part = 0; part < parts; ++part) {
    for (int64_t k = 0; k < quota[static_cast<size_t>(part)]; ++k, ++item) {
      if (part == index) mine.push_back(item);
    }
  }
  return mine;
}

std::vector<int64_t> deal_sizes(const std::vector<int64_t>& sizes, int index) {
  std::vector<int64_t> mine;
  int64_t item = 0;
  for (size_t part = 0; part < sizes.size(); ++part) {
    for (int64_t k = 0; k < sizes[part]; ++k, ++item) {
      if (static_cast<int>(part) == index) mine.push_back(item);
    }
  }
  return mine;
}

std::vector<int64_t> units(const std::vector<Segment>& segments, const Segment& segment, int parts,
                           int index) {
  if (!segment.counts.empty()) return deal_sizes(segment.counts, index);
  if (!segment.follows.empty()) {
    for (const Segment& leader : segments) {
      if (leader.name != segment.follows) continue;
      const std::vector<int64_t> led = units(segments, leader, parts, index);
      std::vector<int64_t> mine;
      for (int64_t unit = 0; unit < segment.units; ++unit) {  // those that a led unit overlaps
        const bool needed = std::any_of(led.begin(), led.end(), [&](int64_t q) {
          return q * segment.units < (unit + 1) * leader.units &&
                 unit * leader.units < (q + 1) * segment.units;
        });
        if (needed) mine.push_back(unit);
      }
      return mine;
    }
  }
  if (segment.repeat && segment.units > 0 && parts > segment.units) {
    return {static_cast<int64_t>(index) * segment.units / parts};
  }
  return deal(segment.units, parts, index);
}

template <class T>
std::vector<T> select(const std::vector<T>& from, const std::vector<int64_t>& positions) {
  std::vector<T> result;
  for (const int64_t position : positions) result.push_back(from[static_cast<size_t>(position)]);
  return result;
}

std::vector<int64_t> random_sizes(Random& random, int64_t total, int parts) {
  std::vector<int64_t> sizes(static_cast<size_t>(parts), 0);
  for (int64_t k = 0; k < total; ++k) ++sizes[static_cast<size_t>(pick(random, 0, parts - 1))];
  return sizes;
}

// Segments that make up a dimension of `size`.
std::vector<Segment> random_segments(Random& random, int64_t size, int parts) {
  std::vector<Segment> segments;
  for (int64_t left = size; left > 0;) {
    Segment segment{.name = "s" + std::to_string(segments.size())};
    const int64_t length = pick(random, 1, left);
    segment.unit_size = length % 2 == 0 ? pick(random, 1, 2) : 1;
    segment.units = length / segment.unit_size;
    const int64_t kind = pick(random, 0, 3);
    if (kind == 1) segment.repeat = true;
    if (kind == 2) segment.counts = random_sizes(random, segment.units, parts);
    if (kind == 3 && !segments.empty() && segments[0].follows.empty()) segment.follows = "s0";
    segments.push_back(std::move(segment));
    left -= length;
  }
  if (segments.empty()) segments.push_back({.name = "empty"});
  return segments;
}

}  // namespace

Mesh random_mesh(Random& random, int max_ranks) {
  std::vector<std::string> names = {"tp", "dp", "pp", "cp"};
  std::shuffle(names.begin(), names.end(), random);
  names.resize(static_cast<size_t>(pick(random, 0, 4)));
  std::vector<MeshDim> dims;
  int total = 1;
  for (const std::string& name : names) {
    const int size = static_cast<int>(pick(random, 1, std::max(1, std::min(5, max_ranks / total))));
    dims.push_back({name, size});
    total *= size;
  }
  return Mesh::create(dims, total, names).value();
}

std::vector<int64_t> random_shape(Random& random) {
  std::vector<int64_t> shape(static_cast<size_t>(pick(random, 0, 4)));
  for (int64_t& size : shape) size = pick(random, pick(random, 0, 9) == 0 ? 0 : 1, 12);
  return shape;
}

ShardSpec random_spec(Random& random, const Mesh& mesh, const std::vector<int64_t>& shape,
                      int64_t dtype_bytes) {
  ShardSpec spec{.shape = shape, .dtype_bytes = dtype_bytes};
  std::vector<std::string> names = mesh.names();
  std::shuffle(names.begin(), names.end(), random);
  std::vector<bool> cut(shape.size(), false);
  bool flat = false;
  for (const std::string& name : names) {
    const int64_t kind = pick(random, 0, 9);
    if (kind == 0) {
      flat = true;
      spec.placements.emplace_back(name, Placement::shard_flat());
    } else if (kind <= 7 && !flat && !shape.empty()) {
      const size_t dim =
          static_cast<size_t>(pick(random, 0, static_cast<int64_t>(shape.size()) - 1));
      Placement placement = Placement::shard(static_cast<int>(dim));
      if (!cut[dim] && kind <= 4) {
        placement.segments = random_segments(random, shape[dim], mesh.size(name));
      } else if (!cut[dim] && kind == 5) {
        placement = Placement::shard(static_cast<int>(dim),
                                     random_sizes(random, shape[dim], mesh.size(name)));
      }
      cut[dim] = true;
      spec.placements.emplace_back(name, std::move(placement));
    } else if (kind == 8) {
      spec.placements.emplace_back(name, Placement::replicate());
    }
  }
  return spec;
}

std::vector<int64_t> slow_local_elements(const ShardSpec& spec, const Mesh& mesh, int rank) {
  std::vector<std::vector<int64_t>> held;  // per dimension, global indices in local order
  for (const int64_t size : spec.shape) held.push_back(deal(size, 1, 0));
  for (const auto& [name, placement] : spec.placements) {
    if (placement.kind != Placement::Kind::kShard) continue;
    std::vector<int64_t>& indices = held[static_cast<size_t>(placement.dim)];
    const int parts = mesh.size(name);
    const int index = mesh.coordinate(rank, name);
    if (placement.segments.empty()) {
      indices = select(indices, deal(static_cast<int64_t>(indices.size()), parts, index));
      continue;
    }
    indices.clear();
    int64_t base = 0;
    for (const Segment& segment : placement.segments) {
      for (const int64_t unit : units(placement.segments, segment, parts, index)) {
        for (int64_t i = 0; i < segment.unit_size; ++i) {
          indices.push_back(base + unit * segment.unit_size + i);
        }
      }
      base += segment.units * segment.unit_size;
    }
  }
  std::vector<int64_t> elements = {0};
  for (size_t d = 0; d < spec.shape.size(); ++d) {
    std::vector<int64_t> next;
    for (const int64_t outer : elements) {
      for (const int64_t index : held[d]) next.push_back(outer * spec.shape[d] + index);
    }
    elements = std::move(next);
  }
  for (const auto& [name, placement] : spec.placements) {
    if (placement.kind != Placement::Kind::kShardFlat) continue;
    const int index = mesh.coordinate(rank, name);
    elements =
        select(elements, placement.sizes.empty()
                             ? deal(static_cast<int64_t>(elements.size()), mesh.size(name), index)
                             : deal_sizes(placement.sizes, index));
  }
  return elements;
}

}  // namespace convoy::mesh_test
