#include "tests/ckpt/known_state.h"

#include <convoy/mesh/shard_spec.h>

namespace convoy::ckpt {
namespace {

constexpr int64_t kColumns = 1024;
constexpr uint64_t kSlowSteps = 4;  // a row of "slow" changes every so many steps
constexpr size_t kOwnWords = 64;

uint32_t mixed(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x7fb5d329728ea185ULL;
  x = (x ^ (x >> 27)) * 0x81dadef4bc2dd44dULL;
  return static_cast<uint32_t>(x >> 32);
}

}  // namespace

KnownState::KnownState(int64_t rows, uint32_t rank, uint32_t ranks) : rank_(rank) {
  const Range mine = even_chunk(rows, static_cast<int>(ranks), static_cast<int>(rank));
  first_row_ = mine.begin;
  const int64_t count = mine.length;
  const auto add = [this](TensorInfo info, std::vector<int64_t> begin, std::vector<int64_t> extent,
                          std::vector<int64_t> strides) {
    size_t words = 1;
    for (const int64_t size : extent) words *= static_cast<size_t>(size);
    tensors_.push_back({info.name, std::vector<uint32_t>(words)});
    auto* data = reinterpret_cast<std::byte*>(tensors_.back().data.data());
    state_.push_back({std::move(info), {{begin, extent, data, strides}}});
  };
  tensors_.reserve(4);
  if (count > 0) {
    for (const char* name : {"fast", "slow"}) {
      add({name, Dtype::kUInt32, {rows, kColumns}}, {mine.begin, 0}, {count, kColumns},
          {kColumns, 1});
    }
  }
  add({"own/" + std::to_string(rank), Dtype::kUInt32, {kOwnWords}}, {0}, {kOwnWords}, {1});
  if (rank == 0) add({"step", Dtype::kUInt32, {}}, {}, {}, {});
}

uint32_t KnownState::expected(const Tensor& tensor, size_t i, uint64_t step) const {
  if (tensor.name == "step") return static_cast<uint32_t>(step);
  if (tensor.name.starts_with("own/")) return mixed((step << 20) + (uint64_t{rank_} << 10) + i);
  const uint64_t place = static_cast<uint64_t>(first_row_) * kColumns + i;
  if (tensor.name == "fast") return mixed((step << 40) + place);
  const uint64_t row = place / kColumns;
  return mixed(((step + row) / kSlowSteps << 40) + place + (uint64_t{1} << 39));
}

void KnownState::fill(uint64_t step) {
  for (Tensor& tensor : tensors_) {
    for (size_t i = 0; i < tensor.data.size(); ++i) tensor.data[i] = expected(tensor, i, step);
  }
}

std::string KnownState::difference(uint64_t step) const {
  for (const Tensor& tensor : tensors_) {
    for (size_t i = 0; i < tensor.data.size(); ++i) {
      if (tensor.data[i] == expected(tensor, i, step)) continue;
      return "rank " + std::to_string(rank_) + ": element " + std::to_string(i) + " of " +
             tensor.name + " is not that of step " + std::to_string(step);
    }
  }
  return "";
}

}  // namespace convoy::ckpt
