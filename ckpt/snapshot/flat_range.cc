// Per dimension: the rest of a row that was begun, whole rows, the beginning of a last one.
#include <convoy/ckpt/flat_range.h>

#include <algorithm>
#include <functional>
#include <numeric>

namespace convoy::ckpt {
namespace {

// `prefix`: the indices of the dimensions before those of `shape`, relative to which begin and end
// are.
void split(std::span<const int64_t> all, size_t dim, std::vector<int64_t>& prefix, int64_t begin,
           int64_t end, std::vector<RangeBox>& out) {
  if (begin >= end) return;
  const auto emit = [&](int64_t first, int64_t count) {
    RangeBox box{prefix, std::vector<int64_t>(prefix.size(), 1)};
    if (dim < all.size()) {
      box.begin.push_back(first);
      box.extent.push_back(count);
      for (size_t d = dim + 1; d < all.size(); ++d) {
        box.begin.push_back(0);
        box.extent.push_back(all[d]);
      }
    }
    out.push_back(std::move(box));
  };
  if (dim + 1 >= all.size()) return emit(begin, end - begin);
  const int64_t row = std::accumulate(all.begin() + static_cast<std::ptrdiff_t>(dim) + 1, all.end(),
                                      int64_t{1}, std::multiplies<>());
  const auto part = [&](int64_t index, int64_t from, int64_t to) {
    prefix.push_back(index);
    split(all, dim + 1, prefix, from, to, out);
    prefix.pop_back();
  };
  const int64_t whole_from = (begin + row - 1) / row;
  const int64_t whole_to = end / row;
  if (whole_from > whole_to) return part(begin / row, begin % row, end - begin / row * row);
  if (begin % row != 0) part(begin / row, begin % row, row);
  if (whole_to > whole_from) emit(whole_from, whole_to - whole_from);
  if (end % row != 0) part(whole_to, 0, end % row);
}

}  // namespace

std::vector<RangeBox> boxes_of_range(std::span<const int64_t> shape, int64_t begin, int64_t end) {
  std::vector<RangeBox> out;
  std::vector<int64_t> prefix;
  split(shape, 0, prefix, begin, end, out);
  return out;
}

}  // namespace convoy::ckpt
