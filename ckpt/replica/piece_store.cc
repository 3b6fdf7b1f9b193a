#include "ckpt/replica/piece_store.h"

#include <convoy/base/checksum.h>

#include <algorithm>
#include <cstring>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kPieceBytesMax = uint64_t{1} << 42;

std::string name_of(const PieceStore::StepKey& step, uint32_t owner) {
  return "a piece of node " + std::to_string(owner) + "'s step " + std::to_string(step.second) +
         " (generation " + std::to_string(step.first) + ")";
}

Status not_here(const PieceStore::StepKey& step, uint32_t owner) {
  return {Code::kNotFound, name_of(step, owner) + " is not here"};
}

}  // namespace

const PieceStore::Piece* PieceStore::find(const StepKey& step, uint32_t owner) const {
  const auto at = owners_.find(owner);
  if (at == owners_.end()) return nullptr;
  const auto piece = at->second.find(step);
  return piece == at->second.end() ? nullptr : &piece->second;
}

Status PieceStore::begin(const PieceInfo& info) {
  const uint64_t bytes = info.blocks() * kImageBlockBytes;
  if (info.scheme.k < 1 || info.scheme.pieces() > kReplicaPiecesMax ||
      info.piece >= info.scheme.pieces() || bytes == 0 || info.image.blocks > kPieceBytesMax ||
      bytes > kPieceBytesMax) {
    return {Code::kInvalidArgument, "a piece that can't be"};
  }
  const StepKey step{info.image.generation, info.image.step};
  const std::lock_guard lock(mutex_);
  if (step.first < generation_) {
    return {Code::kFailedPrecondition, name_of(step, info.image.node) + " is refused: generation " +
                                           std::to_string(generation_) + " has begun"};
  }
  generation_ = step.first;
  std::map<StepKey, Piece>& steps = owners_[info.image.node];
  // What was begun and never settled makes room; memory of the right size is used again.
  std::shared_ptr<Arena> memory;
  for (auto at = steps.begin(); at != steps.end();) {
    if (settled_ && at->first == *settled_) {
      ++at;
      continue;
    }
    if (at->second.memory.use_count() == 1) memory = std::move(at->second.memory);
    at = steps.erase(at);
  }
  if (memory == nullptr || memory->size() < bytes || memory->size() > bytes * 2) {
    memory.reset();
    CONVOY_ASSIGN_OR_RETURN(memory, Arena::create(bytes, {.touch_threads = 0}));
  }
  Piece& piece = steps[step];
  piece.info = info;
  piece.memory = std::move(memory);
  piece.sums.assign(info.blocks(), 0);
  piece.there.assign(info.blocks(), false);
  return ok_status();
}

Status PieceStore::put(const StepKey& step, uint32_t owner, uint64_t first,
                       std::span<const uint64_t> sums,
                       const std::function<void(std::byte*)>& copy) {
  std::shared_ptr<Arena> memory;
  {
    const std::lock_guard lock(mutex_);
    const Piece* piece = find(step, owner);
    if (piece == nullptr || piece->sealed) return not_here(step, owner);
    if (first > piece->sums.size() || sums.size() > piece->sums.size() - first) {
      return {Code::kInvalidArgument, name_of(step, owner) + " has not so many blocks"};
    }
    memory = piece->memory;
  }
  std::byte* const to = memory->bytes().data() + first * kImageBlockBytes;
  copy(to);
  for (size_t i = 0; i < sums.size(); ++i) {
    if (xxh3({to + i * kImageBlockBytes, kImageBlockBytes}) != sums[i]) {
      return {Code::kDataLoss,
              name_of(step, owner) + ": block " + std::to_string(first + i) + " came damaged"};
    }
  }
  const std::lock_guard lock(mutex_);
  auto* piece = const_cast<Piece*>(find(step, owner));
  if (piece == nullptr || piece->memory != memory) return not_here(step, owner);
  for (size_t i = 0; i < sums.size(); ++i) {
    piece->sums[first + i] = sums[i];
    piece->there[first + i] = true;
  }
  return ok_status();
}

Status PieceStore::seal(const StepKey& step, uint32_t owner) {
  const std::lock_guard lock(mutex_);
  auto* piece = const_cast<Piece*>(find(step, owner));
  if (piece == nullptr) return not_here(step, owner);
  if (std::ranges::find(piece->there, false) != piece->there.end()) {
    return {Code::kDataLoss, name_of(step, owner) + " is not whole"};
  }
  piece->sealed = true;
  return ok_status();
}

void PieceStore::settle(const StepKey& step) {
  const std::lock_guard lock(mutex_);
  settled_ = step;
  for (auto& [owner, steps] : owners_) {
    std::erase_if(steps, [&](const auto& at) { return at.first < step; });
  }
}

Status PieceStore::read(const StepKey& step, uint32_t owner, uint64_t block, std::byte* to) const {
  std::shared_ptr<Arena> memory;
  uint64_t sum = 0;
  {
    const std::lock_guard lock(mutex_);
    const Piece* piece = find(step, owner);
    if (piece == nullptr || !piece->sealed || block >= piece->sums.size()) {
      return not_here(step, owner);
    }
    memory = piece->memory;
    sum = piece->sums[block];
  }
  std::memcpy(to, memory->bytes().data() + block * kImageBlockBytes, kImageBlockBytes);
  if (xxh3({to, kImageBlockBytes}) == sum) return ok_status();
  return {Code::kDataLoss,
          name_of(step, owner) + ": block " + std::to_string(block) + " has changed in memory"};
}

std::vector<PieceInfo> PieceStore::sealed() const {
  const std::lock_guard lock(mutex_);
  std::vector<PieceInfo> out;
  for (const auto& [owner, steps] : owners_) {
    for (const auto& [step, piece] : steps) {
      if (piece.sealed) out.push_back(piece.info);
    }
  }
  return out;
}

uint64_t PieceStore::bytes() const {
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const auto& [owner, steps] : owners_) {
    for (const auto& [step, piece] : steps) sum += piece.memory->size();
  }
  return sum;
}

void PieceStore::damage(uint32_t owner, uint64_t block) {
  const std::lock_guard lock(mutex_);
  for (auto& [step, piece] : owners_[owner]) {
    piece.memory->bytes()[block * kImageBlockBytes] ^= std::byte{1};
  }
}

}  // namespace convoy::ckpt
