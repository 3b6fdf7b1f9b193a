// Joining transfers that continue each other, side by side or one after the other.
#include <convoy/mesh/transfer.h>

#include <algorithm>
#include <tuple>

namespace convoy {
namespace {

auto sort_key(const Transfer& t) {
  return std::tuple(t.src_rank, t.dst_rank, t.dst_offset, t.src_offset);
}

bool same_strides(const Transfer& a, const Transfer& b) {
  return a.src_stride == b.src_stride && a.dst_stride == b.dst_stride;
}

// Runs that have grown until they touch are one run.
void close_gaps(Transfer& t) {
  if (t.count > 1 && t.bytes == t.src_stride && t.bytes == t.dst_stride) {
    t.bytes *= t.count;
    t.count = 1;
  }
  if (t.count == 1) t.src_stride = t.dst_stride = 0;
}

// Whether each run of `b` directly follows one of `a`: then `a` grows.
bool join_side_by_side(Transfer& a, const Transfer& b) {
  if (a.count != b.count || (a.count > 1 && !same_strides(a, b))) return false;
  if (b.src_offset != a.src_offset + a.bytes || b.dst_offset != a.dst_offset + a.bytes) {
    return false;
  }
  a.bytes += b.bytes;
  close_gaps(a);
  return true;
}

// Whether the runs of `b` carry on the sequence of `a`: then `a` gets more runs.
bool join_in_sequence(Transfer& a, const Transfer& b) {
  if (a.bytes != b.bytes || (a.count == 1 && b.count == 1)) return false;
  if (a.count > 1 && b.count > 1 && !same_strides(a, b)) return false;
  const Transfer& strided = a.count > 1 ? a : b;
  if (b.src_offset != a.src_offset + a.count * strided.src_stride ||
      b.dst_offset != a.dst_offset + a.count * strided.dst_stride) {
    return false;
  }
  const Transfer strides = strided;
  a.count += b.count;
  a.src_stride = strides.src_stride;
  a.dst_stride = strides.dst_stride;
  return true;
}

}  // namespace

void merge(std::vector<Transfer>& transfers) {
  for (Transfer& transfer : transfers) close_gaps(transfer);
  std::sort(transfers.begin(), transfers.end(),
            [](const Transfer& a, const Transfer& b) { return sort_key(a) < sort_key(b); });
  for (size_t before = transfers.size() + 1; transfers.size() < before;) {
    before = transfers.size();
    size_t kept = 0;
    for (const Transfer next : transfers) {
      Transfer* last = kept == 0 ? nullptr : &transfers[kept - 1];
      const bool joined = last != nullptr && last->src_rank == next.src_rank &&
                          last->dst_rank == next.dst_rank &&
                          (join_side_by_side(*last, next) || join_in_sequence(*last, next));
      if (!joined) transfers[kept++] = next;
    }
    transfers.resize(kept);
  }
}

std::vector<Transfer> flatten(std::span<const Transfer> transfers) {
  std::vector<Transfer> runs;
  for (const Transfer& transfer : transfers) {
    for (int64_t i = 0; i < transfer.count; ++i) {
      Transfer run = transfer;
      run.src_offset += i * transfer.src_stride;
      run.dst_offset += i * transfer.dst_stride;
      run.count = 1;
      run.src_stride = run.dst_stride = 0;
      runs.push_back(run);
    }
  }
  merge(runs);
  return runs;
}

}  // namespace convoy
