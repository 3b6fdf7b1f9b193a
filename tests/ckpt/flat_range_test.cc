// Method: random shapes and ranges; every element of the range is in exactly one box, the boxes
// ascend, and there are no more than stated.
#include "tests/mesh/random_layout.h"
#include <convoy/ckpt/flat_range.h>

#include <catch2/catch.hpp>

#include <functional>
#include <numeric>

namespace convoy::ckpt {
namespace {

using mesh_test::pick;
using mesh_test::Random;

// The flat indices of a box's elements, in its order.
std::vector<int64_t> elements(const std::vector<int64_t>& shape, const RangeBox& box) {
  std::vector<int64_t> out;
  std::vector<int64_t> index(shape.size(), 0);
  for (;;) {
    int64_t flat = 0;
    for (size_t d = 0; d < shape.size(); ++d) flat = flat * shape[d] + box.begin[d] + index[d];
    out.push_back(flat);
    size_t d = shape.size();
    while (d > 0 && ++index[d - 1] == box.extent[d - 1]) index[--d] = 0;
    if (d == 0) return out;
  }
}

TEST_CASE("the boxes of a range hold its elements, each once and in order") {
  Random random(5);
  for (int round = 0; round < 3000; ++round) {
    std::vector<int64_t> shape;
    for (int64_t d = pick(random, 0, 4); d > 0; --d) shape.push_back(pick(random, 1, 5));
    const int64_t total =
        std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    const int64_t begin = pick(random, 0, total), end = pick(random, 0, total);
    const std::vector<RangeBox> boxes = boxes_of_range(shape, begin, end);
    std::vector<int64_t> found;
    for (const RangeBox& box : boxes) {
      REQUIRE(box.begin.size() == shape.size());
      for (size_t d = 0; d < shape.size(); ++d) {
        REQUIRE(box.extent[d] >= 1);
        REQUIRE(box.begin[d] + box.extent[d] <= shape[d]);
      }
      for (const int64_t element : elements(shape, box)) found.push_back(element);
    }
    std::vector<int64_t> expected(static_cast<size_t>(std::max<int64_t>(0, end - begin)));
    std::iota(expected.begin(), expected.end(), begin);
    INFO("round " << round << ": [" << begin << ", " << end << ") of " << shape.size()
                  << " dimensions");
    REQUIRE(found == expected);
    CHECK(boxes.size() <= std::max<size_t>(1, 2 * shape.size() - (shape.empty() ? 0 : 1)));
  }
}

}  // namespace
}  // namespace convoy::ckpt
