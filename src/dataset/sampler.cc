// Decides which sample comes when, from four integers. The permutation is part of the state's
// meaning: changing one constant here changes what a saved state continues with (a test pins it).
#include <convoy/dataset/sampler.h>

#include <nlohmann/json.hpp>

#include <bit>

namespace convoy::dataset {
namespace {

constexpr int kStateVersion = 1;
constexpr int kFeistelRounds = 6;

// Steele, Lea and Flood's SplitMix64 finalizer: every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

Status bad_state(std::string_view why) {
  return Status(Code::kInvalidArgument, "this is no sampler state: " + std::string(why) + ".");
}

}  // namespace

uint64_t permute(uint64_t index, uint64_t size, uint64_t seed, uint64_t epoch) {
  CONVOY_CHECK(index < size, "permute: index outside of the permutation");
  const int half_bits = (std::bit_width(size - 1) + 1) / 2;
  if (half_bits == 0) return 0;  // one sample
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  const uint64_t key = mix(mix(seed) ^ epoch);
  // The network permutes 0 .. 4^half_bits - 1, less than 4 times the size; values outside of the
  // size lie on a cycle that leads back inside, so walking on keeps it a permutation.
  uint64_t value = index;
  do {
    uint64_t left = value >> half_bits;
    uint64_t right = value & mask;
    for (int round = 0; round < kFeistelRounds; ++round) {
      const uint64_t next = left ^ (mix(key + mix(right + (uint64_t(round) << 56))) & mask);
      left = right;
      right = next;
    }
    value = (left << half_bits) | right;
  } while (value >= size);
  return value;
}

std::pair<uint64_t, uint64_t> share_of(uint64_t total, uint64_t index, uint64_t count) {
  CONVOY_CHECK(count > 0 && index < count, "share_of: no such part");
  const uint64_t base = total / count;
  const uint64_t larger = total % count;  // the first so many have one more
  const uint64_t begin = index * base + std::min(index, larger);
  return {begin, begin + base + (index < larger ? 1 : 0)};
}

Result<std::vector<std::vector<uint64_t>>> microbatches(std::span<const uint64_t> samples,
                                                        uint64_t count) {
  if (count == 0 || count > samples.size()) {
    return Status(Code::kInvalidArgument,
                  std::to_string(samples.size()) + " samples of a rank cannot fill " +
                      std::to_string(count) +
                      " micro-batches: use a larger global batch or fewer micro-batches.");
  }
  std::vector<std::vector<uint64_t>> parts;
  for (uint64_t i = 0; i < count; ++i) {
    const auto [begin, end] = share_of(samples.size(), i, count);
    parts.emplace_back(samples.begin() + begin, samples.begin() + end);
  }
  return parts;
}

std::string SamplerState::to_text() const {
  const nlohmann::ordered_json json = {{"version", kStateVersion},
                                       {"samples", samples},
                                       {"seed", seed},
                                       {"epoch", epoch},
                                       {"offset", offset}};
  return json.dump();
}

Result<SamplerState> SamplerState::from_text(std::string_view text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return bad_state("it is not a JSON object");
  const auto number = [&](const char* key, uint64_t* out) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_unsigned()) return false;
    *out = found->get<uint64_t>();
    return true;
  };
  uint64_t version = 0;
  if (!number("version", &version)) return bad_state("it has no version");
  if (version != kStateVersion) {
    return bad_state("its version is " + std::to_string(version) + ", this program knows " +
                     std::to_string(kStateVersion));
  }
  SamplerState state;
  if (!number("samples", &state.samples) || !number("seed", &state.seed) ||
      !number("epoch", &state.epoch) || !number("offset", &state.offset)) {
    return bad_state("samples, seed, epoch and offset must be whole numbers from 0");
  }
  if (state.samples == 0 || state.offset >= state.samples) {
    return bad_state("offset " + std::to_string(state.offset) + " is not below samples " +
                     std::to_string(state.samples));
  }
  return state;
}

Sampler::Sampler(uint64_t samples, uint64_t seed) : state_{samples, seed, 0, 0} {
  CONVOY_CHECK(samples > 0, "a sampler needs at least one sample");
}

Result<Sampler> Sampler::restore(uint64_t samples, const SamplerState& state) {
  if (samples == 0 || state.samples != samples) {
    return Status(Code::kMismatch, "the sampler state was saved with " +
                                       std::to_string(state.samples) +
                                       " samples, but the data set has " + std::to_string(samples) +
                                       ": use the same token file and sequence length, or start "
                                       "with a new state.");
  }
  if (state.offset >= samples) return bad_state("its offset is beyond the last sample");
  Sampler sampler(samples, state.seed);
  sampler.state_ = state;
  return sampler;
}

std::vector<uint64_t> Sampler::next(uint64_t global_batch) {
  std::vector<uint64_t> batch;
  batch.reserve(global_batch);
  for (uint64_t i = 0; i < global_batch; ++i) {
    batch.push_back(permute(state_.offset, state_.samples, state_.seed, state_.epoch));
    if (++state_.offset == state_.samples) {
      state_.offset = 0;
      ++state_.epoch;
    }
  }
  return batch;
}

Result<std::vector<uint64_t>> Sampler::next(uint64_t global_batch, uint64_t dp_rank,
                                            uint64_t dp_size) {
  if (dp_size == 0 || dp_rank >= dp_size) {
    return Status(Code::kInvalidArgument, "there is no data-parallel rank " +
                                              std::to_string(dp_rank) + " of " +
                                              std::to_string(dp_size) + ".");
  }
  if (global_batch < dp_size) {
    return Status(Code::kInvalidArgument,
                  "a global batch of " + std::to_string(global_batch) + " leaves some of " +
                      std::to_string(dp_size) +
                      " data-parallel ranks without a sample: use a larger batch or a smaller dp.");
  }
  const std::vector<uint64_t> batch = next(global_batch);
  const auto [begin, end] = share_of(global_batch, dp_rank, dp_size);
  return std::vector<uint64_t>(batch.begin() + begin, batch.begin() + end);
}

}  // namespace convoy::dataset
