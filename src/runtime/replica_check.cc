#include "src/runtime/replica_check.h"

#include <convoy/base/checksum.h>
#include <convoy/base/units.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <bit>
#include <map>
#include <span>

namespace convoy::runtime {
namespace {

constexpr uint64_t kHashMask = (uint64_t{1} << 18) - 1;

// The k-th of `count` pieces of a tensor, in whole elements.
struct Piece {
  int64_t begin, size;
};
Piece piece_of(const at::Tensor& tensor, int64_t k, int64_t count) {
  const int64_t all = tensor.numel(), begin = all * k / count;
  return {begin, all * (k + 1) / count - begin};
}

// Without tensor operations, which take longer than the hash where tensors are small.
std::span<const std::byte> bytes_of(const at::Tensor& contiguous, Piece piece) {
  const auto* data = static_cast<const std::byte*>(contiguous.const_data_ptr());
  const size_t element = contiguous.element_size();
  return {data + static_cast<size_t>(piece.begin) * element,
          static_cast<size_t>(piece.size) * element};
}

// On a device: the sum of its words, in integers. One flipped bit changes it.
at::Tensor sum_of(const at::Tensor& tensor, Piece piece) {
  const at::Tensor part = tensor.reshape({-1}).narrow(0, piece.begin, piece.size);
  const auto words = part.element_size() == 8   ? at::kLong
                     : part.element_size() == 4 ? at::kInt
                                                : at::kShort;
  return at::sum(part.view(words), at::kLong);
}

uint64_t hash_of(const std::vector<at::Tensor>& state, int64_t k, int64_t count) {
  Xxh3Stream hash;
  std::vector<at::Tensor> sums;
  for (const at::Tensor& tensor : state) {
    const Piece piece = piece_of(tensor, k, count);
    if (tensor.is_cpu()) {
      hash.update(bytes_of(tensor.contiguous(), piece));
    } else {
      sums.push_back(sum_of(tensor, piece));
    }
  }
  if (sums.empty()) return hash.digest();
  // The device is waited for once, not for each tensor.
  const at::Tensor all = at::stack(sums).cpu();
  hash.update({static_cast<const std::byte*>(all.const_data_ptr()), all.nbytes()});
  return hash.digest();
}

}  // namespace

ReplicaCheck::ReplicaCheck(const Mesh& mesh, int rank, int64_t pieces)
    : rank_(rank), replicas_(mesh.group_of(rank, {"dp"})) {
  if (replicas_.size() < 2 || pieces <= 0) return;
  pieces_ = pieces;
  std::map<int, size_t> sets;  // by their first ranks
  for (int r = 0; r < mesh.size(); ++r) sets.emplace(mesh.group_of(r, {"dp"}).front(), 0);
  for (auto& [first, set] : sets) set = sets_++;
  set_ = sets.at(replicas_.front());
}

std::vector<double> ReplicaCheck::numbers(int64_t step, const std::vector<at::Tensor>& state,
                                          bool all) {
  if (!is_on()) return {};
  std::vector<double> numbers(2 * sets_, 0);
  step_ = step;
  hash_ = all ? hash_of(state, 0, 1) : hash_of(state, step % pieces_, pieces_);
  const auto h = static_cast<double>(hash_ & kHashMask);
  numbers[2 * set_] = h;
  numbers[2 * set_ + 1] = h * h;
  return numbers;
}

bool ReplicaCheck::differs(const std::vector<double>& sums, size_t set) const {
  __extension__ using Wide = unsigned __int128;
  const auto whole = [&](size_t i) { return static_cast<Wide>(sums[i]); };
  const Wide sum = whole(2 * set), squares = whole(2 * set + 1);
  return replicas_.size() * squares != sum * sum;
}

bool ReplicaCheck::differs(const std::vector<double>& sums) const {
  for (size_t set = 0; set < sets_; ++set) {
    if (differs(sums, set)) return true;
  }
  return false;
}

bool ReplicaCheck::own_differs(const std::vector<double>& sums) const {
  return is_on() && differs(sums, set_);
}

ReplicaCheck::Finding ReplicaCheck::compare(const comm::Group& dp) {
  at::Tensor own = at::empty({1}, at::kLong);
  *own.mutable_data_ptr<int64_t>() = std::bit_cast<int64_t>(hash_);
  const at::Tensor all = dp.all_gather(own.to(dp.device())).cpu();
  const std::span<const int64_t> hashes(all.const_data_ptr<int64_t>(), replicas_.size());
  Finding out{.step = step_, .ranks = replicas_, .wrong = {}, .is_wrong = true, .text = {}};
  for (const int64_t hash : hashes) {
    const auto like = static_cast<size_t>(std::count(hashes.begin(), hashes.end(), hash));
    if (2 * like <= hashes.size()) continue;
    std::vector<int> right;
    for (size_t i = 0; i < hashes.size(); ++i) {
      (hashes[i] == hash ? right : out.wrong).push_back(replicas_[i]);
    }
    out.is_wrong = std::bit_cast<int64_t>(hash_) != hash;
    out.text = names("rank", out.wrong) + " has not the parameters that " + names("rank", right) +
               " agree on, after step " + std::to_string(step_);
    open_.reset();
    return out;
  }
  out.text = "the replicas on " + names("rank", replicas_) + " differ after step " +
             std::to_string(step_) + ", and no majority tells which is right";
  open_ = out;
  open_hash_ = hash_;
  return out;
}

std::optional<std::string> ReplicaCheck::answer() {
  if (!open_ || open_->step != step_) return std::nullopt;
  const Finding asked = std::move(*open_);
  open_.reset();
  if (hash_ == open_hash_) return std::nullopt;
  return "rank " + std::to_string(rank_) + " had held wrong values after step " +
         std::to_string(asked.step) +
         ": trained once more from before, it came to others. Have its machine checked "
         "(`convoy doctor`).";
}

}  // namespace convoy::runtime
