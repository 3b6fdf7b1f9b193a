#include "src/runtime/replica_check.h"

#include <convoy/base/checksum.h>
#include <convoy/base/units.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <bit>
#include <map>
#include <span>

namespace convoy::runtime {
namespace {

constexpr uint64_t kHashMask = (uint64_t{1} << 18) - 1;

// The k-th of `count` pieces of a tensor's bytes, in whole elements.
at::Tensor piece_of(const at::Tensor& tensor, int64_t k, int64_t count) {
  const at::Tensor flat = tensor.reshape({-1});
  const int64_t begin = flat.numel() * k / count, end = flat.numel() * (k + 1) / count;
  return flat.narrow(0, begin, end - begin);
}

uint64_t hash_of(const std::vector<at::Tensor>& state, int64_t k, int64_t count) {
  Xxh3Stream hash;
  for (const at::Tensor& tensor : state) {
    const at::Tensor piece = piece_of(tensor, k, count);
    if (piece.is_cpu()) {
      hash.update({static_cast<const std::byte*>(piece.const_data_ptr()), piece.nbytes()});
      continue;
    }
    // On a device: the sum of its words, in integers. One flipped bit changes it.
    const auto words = piece.element_size() == 8   ? at::kLong
                       : piece.element_size() == 4 ? at::kInt
                                                   : at::kShort;
    const auto sum = at::sum(piece.view(words), at::kLong).item<int64_t>();
    hash.update(std::as_bytes(std::span(&sum, 1)));
  }
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
