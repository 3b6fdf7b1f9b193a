// Which ShardSpecs are legal on a mesh, and the words for those that aren't. After check() the rest
// of the module treats faults as broken invariants.
#include "src/mesh/share.h"
#include <convoy/mesh/shard_spec.h>

#include <algorithm>
#include <numeric>

namespace convoy {
namespace {

constexpr int64_t kMaxTensorBytes = int64_t{1} << 60;

std::string op_name(PartialOp op) {
  switch (op) {
    case PartialOp::kSum:
      return "sum";
    case PartialOp::kAverage:
      return "average";
    case PartialOp::kMin:
      return "min";
    case PartialOp::kMax:
      return "max";
    case PartialOp::kProduct:
      return "product";
  }
  return "unknown";
}

std::string describe(const Placement& placement) {
  switch (placement.kind) {
    case Placement::Kind::kReplicate:
      return "replicate";
    case Placement::Kind::kPartial:
      return "partial(" + op_name(placement.op) + ")";
    case Placement::Kind::kShardFlat:
      return placement.sizes.empty() ? "shard_flat" : "shard_flat(given sizes)";
    case Placement::Kind::kShard:
      break;
  }
  std::string text = "shard(" + std::to_string(placement.dim);
  for (const Segment& segment : placement.segments) {
    text += ", " + segment.name + (segment.name.empty() ? "" : " ") +
            std::to_string(segment.units) + "·" + std::to_string(segment.unit_size);
  }
  return text + ")";
}

// Whether the sizes, one for each of `parts`, are non-negative and add up to `total`.
Status check_sizes(const std::vector<int64_t>& sizes, int parts, int64_t total,
                   const std::string& what) {
  if (sizes.size() != static_cast<size_t>(parts)) {
    return {Code::kInvalidArgument, what + " gives " + std::to_string(sizes.size()) +
                                        " sizes for " + std::to_string(parts) +
                                        " coordinates. Give one for each."};
  }
  if (std::any_of(sizes.begin(), sizes.end(), [](int64_t size) { return size < 0; })) {
    return {Code::kInvalidArgument, what + " has a negative size. Use 0 for an empty shard."};
  }
  const int64_t sum = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  if (sum != total) {
    return {Code::kInvalidArgument, what + " has sizes that add up to " + std::to_string(sum) +
                                        " instead of " + std::to_string(total) + "."};
  }
  return ok_status();
}

Status check_segment(const std::vector<Segment>& segments, const Segment& segment, int parts) {
  const std::string what =
      segment.name.empty() ? std::string("the dimension") : "segment " + segment.name;
  if (segment.units < 0 || segment.unit_size < 1) {
    return {Code::kInvalidArgument, what + " has " + std::to_string(segment.units) + " units of " +
                                        std::to_string(segment.unit_size) +
                                        " indices. Use at least 0 units of at least 1."};
  }
  if (!segment.counts.empty()) return check_sizes(segment.counts, parts, segment.units, what);
  if (segment.follows.empty()) return ok_status();
  const auto leader = std::find_if(segments.begin(), segments.end(),
                                   [&](const Segment& s) { return s.name == segment.follows; });
  if (leader == segments.end() || !leader->follows.empty() || leader->units < 1) {
    return {Code::kInvalidArgument,
            what + " follows \"" + segment.follows +
                "\", which is not a segment of this dimension with units of its own. Name one that "
                "is not empty and follows none."};
  }
  return ok_status();
}

Status check_segments(const std::vector<Segment>& segments, int parts, int64_t size) {
  int64_t total = 0;
  for (const Segment& segment : segments) {
    CONVOY_RETURN_IF_ERROR(check_segment(segments, segment, parts));
    if (segment.units > kMaxTensorBytes / segment.unit_size) total = kMaxTensorBytes;
    total = std::min(kMaxTensorBytes, total + segment.units * segment.unit_size);
  }
  if (total == size) return ok_status();
  return {Code::kInvalidArgument, "its segments add up to " + std::to_string(total) +
                                      " indices, but the dimension has " + std::to_string(size) +
                                      ". Describe the whole dimension."};
}

Status check_shape(const ShardSpec& spec) {
  if (spec.dtype_bytes < 1) {
    return {Code::kInvalidArgument,
            "elements of " + std::to_string(spec.dtype_bytes) + " bytes. Use at least 1."};
  }
  int64_t bytes = spec.dtype_bytes;
  for (const int64_t size : spec.shape) {
    if (size < 0) return {Code::kInvalidArgument, "a dimension is negative. Use 0 or more."};
    if (size > 0 && bytes > kMaxTensorBytes / size) {
      return {Code::kInvalidArgument, "more than 2^60 bytes. Check the shape."};
    }
    if (size > 0) bytes *= size;
  }
  return ok_status();
}

// The cuts seen so far, in the order of placements.
struct Seen {
  std::vector<std::string> names;
  std::vector<bool> dims;
  bool flat = false;
};

Status check_shard(const ShardSpec& spec, const Placement& placement, int parts, Seen& seen) {
  const int64_t rank = static_cast<int64_t>(spec.shape.size());
  if (placement.dim < 0 || placement.dim >= rank) {
    return {Code::kInvalidArgument, "tensor dimension " + std::to_string(placement.dim) +
                                        " doesn't exist; there are " + std::to_string(rank) +
                                        ". Count from 0."};
  }
  if (seen.flat) {
    return {Code::kInvalidArgument, "it comes after a flat cut. Put flat cuts last."};
  }
  const size_t dim = static_cast<size_t>(placement.dim);
  const bool first = !seen.dims[dim];
  seen.dims[dim] = true;
  if (placement.segments.empty()) return ok_status();
  if (!first) {
    return {Code::kInvalidArgument,
            "segments and sizes describe a whole dimension, but dimension " + std::to_string(dim) +
                " was already cut. Put this placement first."};
  }
  return check_segments(placement.segments, parts, spec.shape[dim]);
}

// Explicit flat sizes must add up on every rank, since earlier cuts decide what is left there.
Status check_flat(const ShardSpec& spec, const Mesh& mesh, size_t entry, Seen& seen) {
  const auto& [name, placement] = spec.placements[entry];
  const bool first = !seen.flat;
  seen.flat = true;
  if (placement.sizes.empty()) return ok_status();
  if (!first) {
    return {Code::kInvalidArgument, "only the first flat cut may give sizes."};
  }
  ShardSpec before = spec;
  before.placements.resize(entry);
  for (int rank = 0; rank < mesh.size(); ++rank) {
    CONVOY_RETURN_IF_ERROR(check_sizes(placement.sizes, mesh.size(name),
                                       before.local_elements(mesh, rank),
                                       "the local tensor of rank " + std::to_string(rank)));
  }
  return ok_status();
}

Status check_placement(const ShardSpec& spec, const Mesh& mesh, size_t entry, Seen& seen) {
  const auto& [name, placement] = spec.placements[entry];
  if (std::find(seen.names.begin(), seen.names.end(), name) != seen.names.end()) {
    return {Code::kInvalidArgument, "it is given twice. Give each mesh dimension one placement."};
  }
  seen.names.push_back(name);
  if (placement.kind == Placement::Kind::kShard) {
    return check_shard(spec, placement, mesh.size(name), seen);
  }
  if (placement.kind == Placement::Kind::kShardFlat) return check_flat(spec, mesh, entry, seen);
  return ok_status();
}

}  // namespace

Status ShardSpec::check(const Mesh& mesh) const {
  const std::string context = "layout " + to_string() + " on mesh \"" + mesh.to_string() + "\"";
  CONVOY_RETURN_IF_ERROR(check_shape(*this).with_context(context));
  Seen seen;
  seen.dims.resize(shape.size());
  for (size_t entry = 0; entry < placements.size(); ++entry) {
    CONVOY_RETURN_IF_ERROR(check_placement(*this, mesh, entry, seen)
                               .with_context(context + ": " + placements[entry].first));
  }
  return ok_status();
}

std::string ShardSpec::to_string() const {
  std::string text = "[";
  for (const int64_t size : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  }
  text += "] × " + std::to_string(dtype_bytes) + " B";
  for (const auto& [name, placement] : placements) text += ", " + name + ": " + describe(placement);
  return text;
}

}  // namespace convoy
