// The sampler's promises, by property tests with printed seeds: each epoch is a permutation; the
// sequence of global batches is the same for every number of data-parallel ranks, also when that
// number changes in the middle of an epoch; states survive their text. Randomness is judged
// coarsely (positions, neighbours), not cryptographically.
#include <convoy/dataset/sampler.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

namespace convoy::dataset {
namespace {

std::vector<uint64_t> epoch_of(uint64_t size, uint64_t seed, uint64_t epoch) {
  std::vector<uint64_t> order;
  for (uint64_t i = 0; i < size; ++i) order.push_back(permute(i, size, seed, epoch));
  return order;
}

TEST_CASE("each epoch is a permutation of all samples, for every size") {
  for (uint64_t size = 1; size <= 300; ++size) {
    for (const uint64_t seed : {0ULL, 1ULL, ~0ULL}) {
      std::vector<uint64_t> order = epoch_of(size, seed, size % 3);
      std::sort(order.begin(), order.end());
      for (uint64_t i = 0; i < size; ++i) REQUIRE(order[i] == i);
    }
  }
  for (const uint64_t size : {uint64_t{1} << 40, (uint64_t{1} << 63) + 12345, ~uint64_t{0}}) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < 1000; ++i) {
      const uint64_t at = permute(size - 1 - i, size, 5, 0);
      REQUIRE(at < size);
      REQUIRE(seen.insert(at).second);
    }
  }
}

TEST_CASE("epochs and seeds shuffle differently, and evenly") {
  constexpr uint64_t kSize = 1000;
  const std::vector<uint64_t> first = epoch_of(kSize, 1, 0);
  for (const auto& other : {epoch_of(kSize, 1, 1), epoch_of(kSize, 2, 0), epoch_of(kSize, 0, 0)}) {
    int equal = 0;
    for (uint64_t i = 0; i < kSize; ++i) equal += first[i] == other[i];
    REQUIRE(equal < 10);  // 1 is expected of independent permutations
  }
  // The sample at a fixed position, over many epochs, falls evenly into ten bins: chi-squared with
  // 9 degrees of freedom stays far below 40 (p < 1e-5). Deterministic: fixed seeds.
  for (const uint64_t position : {0ULL, 1ULL, 499ULL, 999ULL}) {
    int bins[10] = {};
    for (uint64_t epoch = 0; epoch < 5000; ++epoch)
      ++bins[permute(position, kSize, 9, epoch) / 100];
    double chi = 0;
    for (const int n : bins) chi += (n - 500.0) * (n - 500.0) / 500.0;
    CAPTURE(position, chi);
    REQUIRE(chi < 40);
  }
  // Neighbours do not stay neighbours.
  int steps = 0;
  for (uint64_t i = 1; i < kSize; ++i) steps += first[i] == first[i - 1] + 1;
  REQUIRE(steps < 10);
}

TEST_CASE("the order is pinned: saved states of any release continue alike") {
  REQUIRE(epoch_of(10, 42, 0) == std::vector<uint64_t>{0, 9, 5, 4, 3, 6, 7, 2, 1, 8});
  REQUIRE(permute(123456789, 1000000007, 7, 3) == 286209290);
}

// Collects global batches from all ranks of `dp` and advances every sampler once.
std::vector<uint64_t> joined(std::vector<Sampler>& ranks, uint64_t batch) {
  std::vector<uint64_t> all;
  for (uint64_t rank = 0; rank < ranks.size(); ++rank) {
    const auto share = ranks[rank].next(batch, rank, ranks.size());
    REQUIRE(share.ok());
    REQUIRE(share->size() >= batch / ranks.size());
    REQUIRE(share->size() <= batch / ranks.size() + 1);
    all.insert(all.end(), share->begin(), share->end());
  }
  return all;
}

TEST_CASE("changing the data-parallel degree in mid-epoch neither repeats nor skips a sample") {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto pick = [&](uint64_t low, uint64_t high) {
      return std::uniform_int_distribution<uint64_t>(low, high)(random);
    };
    const uint64_t samples = pick(1, 400);
    Sampler reference(samples, seed);
    std::vector<Sampler> ranks(1, Sampler(samples, seed));
    std::vector<uint64_t> seen;
    for (int step = 0; step < 60; ++step) {
      if (pick(0, 3) == 0) {  // another number of ranks: all go on from the saved text
        const auto state = SamplerState::from_text(ranks[0].state().to_text());
        REQUIRE(state.ok());
        ranks.assign(pick(1, 9), *Sampler::restore(samples, *state));
      }
      const uint64_t batch = pick(ranks.size(), ranks.size() + 20);
      const std::vector<uint64_t> all = joined(ranks, batch);
      REQUIRE(all == reference.next(batch));
      for (const Sampler& rank : ranks) REQUIRE(rank.state() == reference.state());
      seen.insert(seen.end(), all.begin(), all.end());
    }
    for (size_t begin = 0; begin + samples <= seen.size(); begin += samples) {
      std::vector<uint64_t> epoch(seen.begin() + begin, seen.begin() + begin + samples);
      std::sort(epoch.begin(), epoch.end());
      for (uint64_t i = 0; i < samples; ++i) REQUIRE(epoch[i] == i);
    }
    REQUIRE(reference.state().epoch * samples + reference.state().offset == seen.size());
  }
}

TEST_CASE("micro-batches keep a rank's samples in order and lose none") {
  std::vector<uint64_t> samples(11);
  std::iota(samples.begin(), samples.end(), 100);
  for (uint64_t count = 1; count <= samples.size(); ++count) {
    std::vector<uint64_t> joined;
    const auto parts = microbatches(samples, count);
    for (const auto& part : *parts) {
      REQUIRE(!part.empty());
      joined.insert(joined.end(), part.begin(), part.end());
    }
    REQUIRE(joined == samples);
  }
  REQUIRE(microbatches(samples, 12).status().message() ==
          "11 samples of a rank cannot fill 12 micro-batches: use a larger global batch or fewer "
          "micro-batches.");
  REQUIRE_FALSE(microbatches(samples, 0).ok());
}

TEST_CASE("what cannot be sampled is refused and nothing advances") {
  Sampler sampler(10, 1);
  REQUIRE(sampler.next(3, 0, 4).status().message() ==
          "a global batch of 3 leaves some of 4 data-parallel ranks without a sample: use a larger "
          "batch or a smaller dp.");
  REQUIRE_FALSE(sampler.next(8, 4, 4).ok());
  REQUIRE_FALSE(sampler.next(8, 0, 0).ok());
  REQUIRE(sampler.state() == SamplerState{10, 1, 0, 0});
  REQUIRE(Sampler::restore(11, {10, 1, 0, 0}).status().code() == Code::kMismatch);
  REQUIRE_FALSE(Sampler::restore(10, {10, 1, 0, 10}).ok());
}

TEST_CASE("states are one line of text, and other text is refused") {
  const SamplerState state{1000, ~uint64_t{0}, 3, 999};
  REQUIRE(state.to_text() ==
          R"({"version":1,"samples":1000,"seed":18446744073709551615,"epoch":3,"offset":999})");
  REQUIRE(*SamplerState::from_text(state.to_text()) == state);
  for (const char* text :
       {"", "{}", "[]", "7", "{\"version\":2,\"samples\":1,\"seed\":0,\"epoch\":0,\"offset\":0}",
        "{\"version\":1,\"samples\":1,\"seed\":0,\"epoch\":0}",
        "{\"version\":1,\"samples\":1,\"seed\":0,\"epoch\":0,\"offset\":1}",
        "{\"version\":1,\"samples\":0,\"seed\":0,\"epoch\":0,\"offset\":0}",
        "{\"version\":1,\"samples\":5,\"seed\":-1,\"epoch\":0,\"offset\":0}",
        "{\"version\":1,\"samples\":5,\"seed\":1.5,\"epoch\":0,\"offset\":0}"}) {
    CAPTURE(text);
    REQUIRE(SamplerState::from_text(text).status().code() == Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace convoy::dataset
