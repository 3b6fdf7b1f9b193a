// Which part of a tensor each rank holds. A rank's share is, per tensor dimension, a list of index
// ranges in local order (cut by the placements in their order), and, after flat cuts, a range of
// the row-major local tensor. Both become boxes, whose number doesn't grow with the shape. Decides
// the geometry only: who sends what to whom is reshard.cc; which specs are legal is check_spec.cc.
#include "src/mesh/share.h"
#include <convoy/mesh/shard_spec.h>

#include <algorithm>
#include <numeric>

namespace convoy {
namespace {

int64_t product(const std::vector<int64_t>& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

std::vector<int64_t> row_major_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * shape[d];
  return strides;
}

int64_t total_length(const std::vector<Range>& ranges) {
  return std::accumulate(ranges.begin(), ranges.end(), int64_t{0},
                         [](int64_t sum, const Range& range) { return sum + range.length; });
}

// The chunk `index` of parts with the given sizes.
Range explicit_chunk(const std::vector<int64_t>& sizes, int index) {
  const auto at = sizes.begin() + index;
  return {std::accumulate(sizes.begin(), at, int64_t{0}), *at};
}

// Units of `segment` that shard `index` of `parts` holds; the four rules of Segment.
Range units_of(const std::vector<Segment>& segments, const Segment& segment, int parts, int index) {
  if (!segment.counts.empty()) return explicit_chunk(segment.counts, index);
  if (!segment.follows.empty()) {
    const auto leader = std::find_if(segments.begin(), segments.end(),
                                     [&](const Segment& s) { return s.name == segment.follows; });
    const Range led = units_of(segments, *leader, parts, index);
    if (led.length == 0) return {};
    const int64_t begin = led.begin * segment.units / leader->units;
    const int64_t end = (led.end() * segment.units + leader->units - 1) / leader->units;
    return {begin, end - begin};
  }
  if (segment.repeat && parts > segment.units && segment.units > 0) {
    return {index * segment.units / parts, 1};
  }
  return even_chunk(segment.units, parts, index);
}

std::vector<Range> cut_segments(const std::vector<Segment>& segments, int parts, int index) {
  std::vector<Range> ranges;
  int64_t base = 0;
  for (const Segment& segment : segments) {
    const Range units = units_of(segments, segment, parts, index);
    if (units.length > 0 && segment.unit_size > 0) {
      ranges.push_back({base + units.begin * segment.unit_size, units.length * segment.unit_size});
    }
    base += segment.units * segment.unit_size;
  }
  return ranges;
}

// The part of `ranges` at the local positions `cut`.
std::vector<Range> cut_positions(const std::vector<Range>& ranges, Range cut) {
  std::vector<Range> result;
  int64_t position = 0;
  for (const Range& range : ranges) {
    const int64_t begin = std::max(cut.begin, position);
    const int64_t end = std::min(cut.end(), position + range.length);
    if (begin < end) result.push_back({range.begin + begin - position, end - begin});
    position += range.length;
  }
  return result;
}

// A box in local indices.
struct LocalBox {
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;
};

// Appends boxes that make up positions [lo, hi) of the row-major block of dimensions d… below the
// fixed outer indices in `box`: at most a head, a body and a tail per dimension.
void flat_boxes(const std::vector<int64_t>& shape, size_t d, int64_t lo, int64_t hi, LocalBox& box,
                std::vector<LocalBox>& out) {
  if (lo >= hi) return;
  if (d == shape.size()) {
    out.push_back(box);
    return;
  }
  int64_t inner = 1;
  for (size_t i = d + 1; i < shape.size(); ++i) inner *= shape[i];
  const auto rows = [&](int64_t first, int64_t count, int64_t from, int64_t to) {
    box.begin[d] = first;
    box.extent[d] = count;
    flat_boxes(shape, d + 1, from, to, box, out);
  };
  const int64_t first = lo / inner;
  const int64_t last = (hi - 1) / inner;
  if (first == last) return rows(first, 1, lo - first * inner, hi - first * inner);
  const int64_t body = (lo + inner - 1) / inner;
  const int64_t tail = hi / inner;
  if (first < body) rows(first, 1, lo - first * inner, inner);
  if (body < tail) rows(body, tail - body, 0, inner);
  if (tail * inner < hi) rows(tail, 1, 0, hi - tail * inner);
}

// Appends the part of `whole` (the piece at local box `at`) that lies in `box`, with offsets
// shifted so that flat position `origin` is the rank's element 0.
void clip(const Piece& whole, const LocalBox& at, const LocalBox& box, int64_t origin,
          std::vector<Piece>& out) {
  Piece piece = whole;
  piece.offset -= origin;
  for (size_t d = 0; d < whole.begin.size(); ++d) {
    const int64_t begin = std::max(at.begin[d], box.begin[d]);
    const int64_t end = std::min(at.begin[d] + at.extent[d], box.begin[d] + box.extent[d]);
    if (begin >= end) return;
    piece.begin[d] += begin - at.begin[d];
    piece.extent[d] = end - begin;
    piece.offset += (begin - at.begin[d]) * piece.strides[d];
  }
  out.push_back(std::move(piece));
}

// Advances `index` through the counts like an odometer, the last entry fastest; false at the end.
bool next_index(std::vector<size_t>& index, const std::vector<size_t>& counts) {
  for (size_t d = index.size(); d-- > 0;) {
    if (++index[d] < counts[d]) return true;
    index[d] = 0;
  }
  return false;
}

}  // namespace

Range even_chunk(int64_t size, int parts, int index) {
  CONVOY_CHECK(size >= 0 && parts > 0 && index >= 0 && index < parts,
               "chunk " + std::to_string(index) + " of " + std::to_string(parts));
  const int64_t base = size / parts;
  const int64_t longer = size % parts;
  return {index * base + std::min<int64_t>(index, longer), base + (index < longer ? 1 : 0)};
}

Share share_of(const ShardSpec& spec, const Mesh& mesh, int rank) {
  Share share;
  for (const int64_t size : spec.shape) {
    share.dims.push_back(size > 0 ? std::vector<Range>{{0, size}} : std::vector<Range>{});
  }
  for (const auto& [name, placement] : spec.placements) {
    const int parts = mesh.size(name);
    const int index = mesh.coordinate(rank, name);
    if (placement.kind == Placement::Kind::kShard) {
      std::vector<Range>& ranges = share.dims[static_cast<size_t>(placement.dim)];
      ranges = placement.segments.empty()
                   ? cut_positions(ranges, even_chunk(total_length(ranges), parts, index))
                   : cut_segments(placement.segments, parts, index);
    } else if (placement.kind == Placement::Kind::kShardFlat) {
      if (!share.flat.has_value()) share.flat = Range{0, product(share.local_shape())};
      const Range cut = placement.sizes.empty() ? even_chunk(share.flat->length, parts, index)
                                                : explicit_chunk(placement.sizes, index);
      share.flat = Range{share.flat->begin + cut.begin, cut.length};
    }
  }
  return share;
}

std::vector<int64_t> Share::local_shape() const {
  std::vector<int64_t> shape;
  for (const std::vector<Range>& ranges : dims) shape.push_back(total_length(ranges));
  return shape;
}

Placement Placement::shard(int dim, std::vector<int64_t> sizes) {
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  return shard(dim, std::vector<Segment>{{.units = total, .counts = std::move(sizes)}});
}

Placement Placement::shard(int dim, std::vector<Segment> segments) {
  Placement placement = shard(dim);
  placement.segments = std::move(segments);
  return placement;
}

Placement Placement::shard_flat(std::vector<int64_t> sizes) {
  Placement placement;
  placement.kind = Kind::kShardFlat;
  placement.sizes = std::move(sizes);
  return placement;
}

int64_t ShardSpec::elements() const {
  return product(shape);
}

bool ShardSpec::is_partial(const Mesh& mesh) const {
  return std::any_of(placements.begin(), placements.end(), [&](const auto& entry) {
    return entry.second.kind == Placement::Kind::kPartial && mesh.size(entry.first) > 1;
  });
}

std::vector<int64_t> ShardSpec::local_shape(const Mesh& mesh, int rank) const {
  const Share share = share_of(*this, mesh, rank);
  if (share.flat.has_value()) return {share.flat->length};
  return share.local_shape();
}

int64_t ShardSpec::local_elements(const Mesh& mesh, int rank) const {
  return product(local_shape(mesh, rank));
}

std::vector<Piece> ShardSpec::pieces(const Mesh& mesh, int rank) const {
  const Share share = share_of(*this, mesh, rank);
  const std::vector<int64_t> local = share.local_shape();
  if (product(local) == 0) return {};
  const Range flat = share.flat.value_or(Range{0, product(local)});
  LocalBox scratch{std::vector<int64_t>(local.size()), std::vector<int64_t>(local.size())};
  std::vector<LocalBox> boxes;
  flat_boxes(local, 0, flat.begin, flat.end(), scratch, boxes);

  std::vector<Piece> pieces;
  std::vector<size_t> counts;
  for (const std::vector<Range>& ranges : share.dims) counts.push_back(ranges.size());
  std::vector<size_t> index(local.size(), 0);
  do {  // every combination of one range per dimension is a box
    Piece piece{{}, {}, 0, row_major_strides(local)};
    LocalBox at;
    for (size_t d = 0; d < local.size(); ++d) {
      const Range& range = share.dims[d][index[d]];
      int64_t position = 0;
      for (size_t i = 0; i < index[d]; ++i) position += share.dims[d][i].length;
      piece.begin.push_back(range.begin);
      piece.extent.push_back(range.length);
      piece.offset += position * piece.strides[d];
      at.begin.push_back(position);
      at.extent.push_back(range.length);
    }
    for (const LocalBox& box : boxes) clip(piece, at, box, flat.begin, pieces);
  } while (next_index(index, counts));
  return pieces;
}

std::vector<Interval> ShardSpec::local_intervals(const Mesh& mesh, int rank) const {
  const std::vector<int64_t> global = row_major_strides(shape);
  std::vector<Interval> intervals;
  for (const Piece& piece : pieces(mesh, rank)) {
    // Inner dimensions that are dense in both the global and the local tensor make up one run.
    size_t outer = piece.begin.size();
    int64_t run = 1;
    while (outer > 0 && (piece.extent[outer - 1] == 1 ||
                         (global[outer - 1] == run && piece.strides[outer - 1] == run))) {
      run *= piece.extent[--outer];
    }
    std::vector<size_t> counts(piece.extent.begin(),
                               piece.extent.begin() + static_cast<std::ptrdiff_t>(outer));
    std::vector<size_t> index(outer, 0);
    do {
      Interval interval{0, piece.offset, run};
      for (size_t d = 0; d < piece.begin.size(); ++d) {
        const int64_t i = d < outer ? static_cast<int64_t>(index[d]) : 0;
        interval.global_begin += (piece.begin[d] + i) * global[d];
        interval.local_begin += i * piece.strides[d];
      }
      intervals.push_back(interval);
    } while (next_index(index, counts));
  }
  std::sort(intervals.begin(), intervals.end(),
            [](const Interval& a, const Interval& b) { return a.local_begin < b.local_begin; });
  std::vector<Interval> merged;
  for (const Interval& next : intervals) {
    if (!merged.empty() && merged.back().global_begin + merged.back().length == next.global_begin) {
      merged.back().length += next.length;
    } else {
      merged.push_back(next);
    }
  }
  return merged;
}

}  // namespace convoy
