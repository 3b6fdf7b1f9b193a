// Two steps, tensor by tensor: by checksums where these suffice, else window by window.
#include "ckpt/formats/convert.h"
#include "ckpt/formats/tensor_reader.h"
#include <convoy/ckpt/compare.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

namespace convoy::ckpt {
namespace {

using Held = TensorReader::Held;
using Index = std::map<std::string_view, const TensorEntry*>;

bool box_before(const Held& a, const Held& b) {
  return std::tie(a.piece->begin, a.piece->extent) < std::tie(b.piece->begin, b.piece->extent);
}

// Whether two pieces have the same box, cut into chunks at the same places, with equal checksums.
bool same_chunks(const Held& a, const Held& b, uint64_t element) {
  const uint64_t chunk = a.stream->chunk_bytes;
  const bool same_cut = a.piece->begin == b.piece->begin && a.piece->extent == b.piece->extent &&
                        b.stream->chunk_bytes == chunk &&
                        a.piece->offset % chunk == b.piece->offset % chunk;
  if (!same_cut) return false;
  uint64_t bytes = element;
  for (const int64_t extent : a.piece->extent) bytes *= static_cast<uint64_t>(extent);
  const uint64_t first_a = a.piece->offset / chunk;
  const uint64_t first_b = b.piece->offset / chunk;
  const uint64_t count = (a.piece->offset % chunk + bytes + chunk - 1) / chunk;
  for (uint64_t i = 0; i < count; ++i) {
    if (a.stream->chunks[first_a + i].checksum != b.stream->chunks[first_b + i].checksum ||
        a.stream->chunk_size(first_a + i) != b.stream->chunk_size(first_b + i)) {
      return false;
    }
  }
  return true;
}

// |a − b| of one element of a float type.
double distance(Dtype dtype, const std::byte* a, const std::byte* b) {
  const double x = load_float(dtype, a);
  const double y = load_float(dtype, b);
  const double apart = std::fabs(x - y);
  return std::isnan(apart) ? std::numeric_limits<double>::infinity() : apart;
}

void add_differences(std::span<const std::byte> a, std::span<const std::byte> b,
                     TensorDifference& out) {
  if (std::memcmp(a.data(), b.data(), a.size()) == 0) return;
  const size_t element = dtype_bytes(out.a.dtype);
  for (size_t at = 0; at < a.size(); at += element) {
    if (std::memcmp(a.data() + at, b.data() + at, element) == 0) continue;
    ++out.differing;
    if (out.has_max_abs) {
      out.max_abs = std::max(out.max_abs, distance(out.a.dtype, a.data() + at, b.data() + at));
    }
  }
}

class Comparer {
 public:
  Comparer(Store& store_a, const Commit& a, Store& store_b, const Commit& b,
           const std::function<bool(uint64_t, uint64_t)>& progress)
      : a_(store_a, a), b_(store_b, b), progress_(progress) {}

  void expect(uint64_t bytes) { total_ += bytes; }

  Status compare(const TensorEntry& a, const TensorEntry& b) {
    if (a.info.dtype != b.info.dtype || a.info.shape != b.info.shape) {
      out_.differences.push_back({DifferenceKind::kForm, a.info, b.info, 0, 0, 0, false, {}});
      return advance(tensor_bytes(a.info));
    }
    if (same_by_checksum(a, b)) {
      ++out_.equal;
      ++out_.by_checksum;
      return advance(tensor_bytes(a.info));
    }
    return compare_content(a, b);
  }
  void add_single(DifferenceKind kind, const TensorInfo& info) {
    out_.differences.push_back({kind, info, info, 0, 0, 0, false, {}});
  }
  Comparison finish() { return std::move(out_); }

 private:
  bool same_by_checksum(const TensorEntry& a, const TensorEntry& b) {
    Result<std::vector<Held>> in_a = a_.pieces(a);
    Result<std::vector<Held>> in_b = b_.pieces(b);
    if (!in_a.ok() || !in_b.ok() || in_a->size() != in_b->size()) return false;
    std::ranges::stable_sort(*in_a, box_before);
    std::ranges::stable_sort(*in_b, box_before);
    for (size_t i = 0; i < in_a->size(); ++i) {
      if (!same_chunks((*in_a)[i], (*in_b)[i], dtype_bytes(a.info.dtype))) return false;
    }
    return !in_a->empty() || tensor_elements(a.info) == 0;
  }

  Status compare_content(const TensorEntry& a, const TensorEntry& b) {
    TensorDifference difference{DifferenceKind::kContent, a.info, b.info, 0, 0, 0, false, {}};
    difference.elements = static_cast<uint64_t>(tensor_elements(a.info));
    difference.has_max_abs = is_float(a.info.dtype);
    const uint64_t element = dtype_bytes(a.info.dtype);
    const auto most = kWindowBytes / element;
    for (uint64_t first = 0; first < difference.elements; first += most) {
      const uint64_t bytes = std::min(most, difference.elements - first) * element;
      raw_a_.resize(bytes);
      raw_b_.resize(bytes);
      difference.status = a_.read(a, static_cast<int64_t>(first), raw_a_);
      if (difference.status.ok()) {
        difference.status = b_.read(b, static_cast<int64_t>(first), raw_b_);
      }
      out_.bytes_read += 2 * bytes;
      CONVOY_RETURN_IF_ERROR(advance(bytes));
      if (!difference.status.ok()) {
        difference.kind = DifferenceKind::kDamaged;
        CONVOY_RETURN_IF_ERROR(advance((difference.elements - first) * element - bytes));
        break;
      }
      add_differences(raw_a_, raw_b_, difference);
    }
    if (difference.differing == 0 && difference.status.ok()) {
      ++out_.equal;
    } else {
      out_.differences.push_back(std::move(difference));
    }
    return ok_status();
  }

  Status advance(uint64_t bytes) {
    done_ += bytes;
    if (!progress_ || progress_(done_, total_)) return ok_status();
    return {Code::kAborted, "the comparison was stopped"};
  }

  TensorReader a_;
  TensorReader b_;
  const std::function<bool(uint64_t, uint64_t)>& progress_;
  Comparison out_;
  uint64_t done_ = 0;
  uint64_t total_ = 0;
  std::vector<std::byte> raw_a_;
  std::vector<std::byte> raw_b_;
};

Index index_of(const Commit& commit, const std::function<bool(const std::string&)>& want) {
  Index index;
  for (const TensorEntry& entry : commit.tensors) {
    if (!want || want(entry.info.name)) index.emplace(entry.info.name, &entry);
  }
  return index;
}

}  // namespace

Result<Comparison> compare_steps(Store& store_a, const Commit& a, Store& store_b, const Commit& b,
                                 const std::function<bool(const std::string&)>& want,
                                 const std::function<bool(uint64_t, uint64_t)>& progress) {
  const Index in_a = index_of(a, want);
  const Index in_b = index_of(b, want);
  Comparer comparer(store_a, a, store_b, b, progress);
  for (const auto& [name, entry] : in_a) {
    if (in_b.contains(name)) comparer.expect(tensor_bytes(entry->info));
  }
  // Both are sorted by name.
  auto at_a = in_a.begin();
  auto at_b = in_b.begin();
  while (at_a != in_a.end() || at_b != in_b.end()) {
    if (at_b == in_b.end() || (at_a != in_a.end() && at_a->first < at_b->first)) {
      comparer.add_single(DifferenceKind::kOnlyInA, (at_a++)->second->info);
    } else if (at_a == in_a.end() || at_b->first < at_a->first) {
      comparer.add_single(DifferenceKind::kOnlyInB, (at_b++)->second->info);
    } else {
      CONVOY_RETURN_IF_ERROR(comparer.compare(*(at_a++)->second, *(at_b++)->second));
    }
  }
  return comparer.finish();
}

}  // namespace convoy::ckpt
