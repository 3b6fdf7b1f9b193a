// Random streams (known answers, dropout of a shard = slice of the whole's), placement of heads,
// and the plain conjugate pairs on one rank. Several ranks: llama_ranks_test and borders_test.
#include "parallel/tensor/kernels.h"
#include <convoy/parallel/sequence/sequence.h>
#include <convoy/parallel/tensor/ops.h>

#include <ATen/ATen.h>
#include <catch2/catch.hpp>
#include <torch/csrc/autograd/autograd.h>

namespace convoy::parallel {

TEST_CASE("philox gives the published answers") {
  // Known-answer test of Random123: counter and key all ones, all zeros.
  RandomStream zero;
  CHECK(zero.block(0) ==
        std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  RandomStream ones;
  ones.seed = ~uint64_t{0};
  ones.step = ones.purpose_layer = ~uint32_t{0};
  CHECK(ones.block(~uint64_t{0}) ==
        std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
}

TEST_CASE("masks made in rows are the stream's bits, from any element on") {
  kernels::Dropout d{0.3, RandomStream(42, Purpose::kUser, 7, 3), {}};
  for (const uint64_t base : {0ull, 1ull, 6ull, (1ull << 34) - 5}) {
    std::vector<float> mask(1000);
    kernels::dropout_mask(d, base, 1000, mask.data());
    int kept = 0;
    for (int i = 0; i < 1000; ++i) {
      const bool keep = d.stream.bits(base + i) >= static_cast<uint32_t>(0.3 * 4294967296.0);
      REQUIRE(mask[i] == (keep ? static_cast<float>(1 / 0.7) : 0.0f));
      kept += keep;
    }
    CHECK(kept > 600);
    CHECK(kept < 800);
  }
}

TEST_CASE("dropout of a part is the part of the dropout") {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor x = at::ones({6, 4, 10}, options);
  DropoutSpec whole{0.5, RandomStream(1, Purpose::kUser), {}};
  whole.place.seq_total = 6;
  const at::Tensor y = dropout(x, whole);
  SECTION("of the sequence") {
    DropoutSpec part = whole;
    part.place.seq_begin = 2;
    CHECK(at::equal(dropout(x.narrow(0, 2, 3).contiguous(), part), y.narrow(0, 2, 3)));
  }
  SECTION("of the columns") {
    DropoutSpec part = whole;
    part.place.column_begin = 3;
    part.place.columns_total = 10;
    CHECK(at::equal(dropout(x.narrow(2, 3, 5).contiguous(), part), y.narrow(2, 3, 5)));
  }
  SECTION("of the batch, every second sample") {
    DropoutSpec part = whole;
    part.place.first_sample = 1;
    part.place.sample_stride = 2;
    CHECK(at::equal(dropout(x.narrow(1, 0, 2).contiguous(), part),
                    at::stack({y.select(1, 1), y.select(1, 3)}, 1)));
  }
  SECTION("of the gradient, with the same mask") {
    at::Tensor in = x.clone().requires_grad_(true);
    torch::autograd::backward({dropout(in, whole).sum()}, {});
    CHECK(at::equal(in.grad(), y));
  }
}

TEST_CASE("heads are cut whole, and every rank has the kv heads it reads") {
  for (const auto& [q, kv] : {std::pair<int64_t, int64_t>{6, 2}, {8, 8}, {12, 4}, {7, 1}})
    for (int ranks = 1; ranks <= q; ++ranks) {
      int64_t covered = 0;
      for (int r = 0; r < ranks; ++r) {
        const HeadShard s = shard_heads(q, kv, ranks, r);
        CHECK(s.q_begin == covered);
        covered += s.q_heads;
        for (int64_t h = 0; h < s.q_heads; ++h) {
          CHECK(s.kv_begin + s.kv_of_q[h] == (s.q_begin + h) / (q / kv));
          CHECK(s.kv_of_q[h] < s.kv_heads);
        }
      }
      CHECK(covered == q);
    }
  CHECK_THROWS_WITH(shard_heads(4, 2, 5, 0), Catch::Contains("use tp <= 4"));
  CHECK_THROWS_WITH(shard_heads(4, 3, 1, 0), Catch::Contains("multiple"));
}

TEST_CASE("a group of one makes borders identities") {
  const comm::Group alone;
  const at::Tensor x = at::ones({3, 2});
  CHECK(copy_to_group(x, alone).is_same(x));
  CHECK(reduce_from_group(x, alone).is_same(x));
  CHECK(scatter_sequence(x, {3}, alone).is_same(x));
  CHECK(sequence_sizes(7, 3) == std::vector<int64_t>{3, 2, 2});
  CHECK(sequence_begin({3, 2, 2}, 2) == 5);
  CHECK_THROWS_WITH(sequence_sizes(2, 3), Catch::Contains("can't be cut"));
}

}  // namespace convoy::parallel
