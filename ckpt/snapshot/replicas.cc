// Largest first: what only one rank holds is its own load; then each shared box, from the largest
// on, goes to those of its holders that have least, as water fills a vessel with an uneven floor.
#include <convoy/ckpt/replicas.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

namespace convoy::ckpt {
namespace {

struct Holder {
  uint32_t rank = 0;
  uint32_t tensor = 0;
  uint32_t box = 0;
};

// Equal boxes of all ranks.
struct SharedBox {
  std::string_view name;
  const HeldBox* box = nullptr;
  uint64_t bytes = 0;
  std::vector<Holder> holders;  // by rank
};

Status check_tensor(const HeldTensor& tensor, uint32_t rank) {
  const std::string who = "tensor " + tensor.info.name + " of rank " + std::to_string(rank) + ": ";
  const std::vector<int64_t>& shape = tensor.info.shape;
  for (const HeldBox& box : tensor.boxes) {
    if (box.begin.size() != shape.size() || box.extent.size() != shape.size()) {
      return {Code::kInvalidArgument, who + "a box has another number of dimensions"};
    }
    for (size_t d = 0; d < shape.size(); ++d) {
      if (box.begin[d] < 0 || box.extent[d] < 1 || box.extent[d] > shape[d] - box.begin[d]) {
        return {Code::kInvalidArgument, who + "a box is not inside of it"};
      }
    }
  }
  return ok_status();
}

uint64_t bytes_of(const HeldBox& box, Dtype dtype) {
  uint64_t bytes = dtype_bytes(dtype);
  for (const int64_t extent : box.extent) bytes *= static_cast<uint64_t>(extent);
  return bytes;
}

// All boxes, the equal ones together; checks that the ranks tell the same of each tensor.
Result<std::vector<SharedBox>> collect(std::span<const Holding> holdings) {
  std::map<std::string_view, std::pair<const TensorInfo*, uint32_t>> known;
  std::map<std::pair<std::string_view, HeldBox>, SharedBox> boxes;
  for (uint32_t rank = 0; rank < holdings.size(); ++rank) {
    for (uint32_t t = 0; t < holdings[rank].size(); ++t) {
      const HeldTensor& tensor = holdings[rank][t];
      CONVOY_RETURN_IF_ERROR(check_tensor(tensor, rank));
      const auto [at, is_new] = known.try_emplace(tensor.info.name, &tensor.info, rank);
      if (!is_new && at->second.second == rank && at->second.first != &tensor.info) {
        return Status(Code::kInvalidArgument, "rank " + std::to_string(rank) + " has tensor " +
                                                  tensor.info.name + " twice");
      }
      if (*at->second.first != tensor.info) {
        return Status(Code::kMismatch, "tensor " + tensor.info.name +
                                           " has another shape or dtype on rank " +
                                           std::to_string(rank) + " than on rank " +
                                           std::to_string(at->second.second));
      }
      for (uint32_t b = 0; b < tensor.boxes.size(); ++b) {
        SharedBox& shared = boxes[{tensor.info.name, tensor.boxes[b]}];
        shared.name = tensor.info.name;
        shared.box = &tensor.boxes[b];
        shared.bytes = bytes_of(tensor.boxes[b], tensor.info.dtype);
        // A box that a rank lists twice is given once.
        if (!shared.holders.empty() && shared.holders.back().rank == rank) continue;
        shared.holders.push_back({rank, t, b});
      }
    }
  }
  std::vector<SharedBox> all;
  all.reserve(boxes.size());
  for (auto& [key, shared] : boxes) all.push_back(std::move(shared));
  return all;
}

// The dimension along which a dense box can be cut into dense parts: the outermost of more than 1.
size_t cut_dimension(const HeldBox& box) {
  size_t d = 0;
  while (d + 1 < box.extent.size() && box.extent[d] == 1) ++d;
  return d;
}

class Spreader {
 public:
  explicit Spreader(size_t ranks) : loads_(ranks, 0), shares_(ranks) {}

  void give(const SharedBox& shared) {
    std::vector<Holder> holders = shared.holders;
    std::ranges::sort(holders, [this](const Holder& a, const Holder& b) {
      return std::tie(loads_[a.rank], a.rank) < std::tie(loads_[b.rank], b.rank);
    });
    const size_t most = std::max<uint64_t>(1, shared.bytes / kReplicaShareBytesMin);
    if (holders.size() > most) holders.resize(most);
    if (holders.size() == 1) return give_part(shared, holders[0], 0, -1);
    const std::vector<int64_t> ends = cut(shared, holders);
    int64_t from = 0;
    for (size_t i = 0; i < holders.size(); ++i) {
      if (ends[i] > from) give_part(shared, holders[i], from, ends[i]);
      from = std::max(from, ends[i]);
    }
  }

  std::vector<std::vector<ReplicaShare>> finish() && {
    for (auto& shares : shares_) {
      std::ranges::sort(shares, [](const ReplicaShare& a, const ReplicaShare& b) {
        return std::tie(a.tensor, a.box, a.begin) < std::tie(b.tensor, b.box, b.begin);
      });
    }
    return std::move(shares_);
  }

 private:
  // Rows [0, ends[0]) go to the first holder and so on: each is filled up to a common level.
  // Holders ascend by load.
  std::vector<int64_t> cut(const SharedBox& shared, const std::vector<Holder>& holders) const {
    const size_t d = cut_dimension(*shared.box);
    const auto rows = static_cast<uint64_t>(shared.box->extent[d]);
    const uint64_t row_bytes = shared.bytes / rows;
    uint64_t level = 0;
    uint64_t sum = shared.bytes;  // of the loads below the level, and the box
    for (size_t n = 0; n < holders.size(); ++n) {
      const uint64_t load = loads_[holders[n].rank];
      if (n > 0 && load >= level) break;
      sum += load;
      level = sum / (n + 1);
    }
    std::vector<int64_t> ends;
    uint64_t bytes = 0;
    for (const Holder& holder : holders) {
      bytes += level - std::min(level, loads_[holder.rank]);
      ends.push_back(static_cast<int64_t>(std::min(rows, (bytes + row_bytes / 2) / row_bytes)));
    }
    // What rounding has left over goes to the last one that has a share.
    const auto last = std::ranges::find(ends, ends.back());
    std::fill(last, ends.end(), static_cast<int64_t>(rows));
    return ends;
  }

  void give_part(const SharedBox& shared, const Holder& holder, int64_t from, int64_t to) {
    ReplicaShare share{holder.tensor, holder.box, shared.box->begin, shared.box->extent};
    uint64_t bytes = shared.bytes;
    if (to >= 0) {
      const size_t d = cut_dimension(*shared.box);
      bytes = bytes / static_cast<uint64_t>(share.extent[d]) * static_cast<uint64_t>(to - from);
      share.begin[d] += from;
      share.extent[d] = to - from;
    }
    loads_[holder.rank] += bytes;
    shares_[holder.rank].push_back(std::move(share));
  }

  std::vector<uint64_t> loads_;  // bytes, by rank
  std::vector<std::vector<ReplicaShare>> shares_;
};

}  // namespace

Result<std::vector<std::vector<ReplicaShare>>> spread_replicas(std::span<const Holding> holdings) {
  CONVOY_ASSIGN_OR_RETURN(std::vector<SharedBox> boxes, collect(holdings));
  std::ranges::stable_sort(boxes, [](const SharedBox& a, const SharedBox& b) {
    const bool alone_a = a.holders.size() == 1;
    const bool alone_b = b.holders.size() == 1;
    return alone_a != alone_b ? alone_a : a.bytes > b.bytes;
  });
  Spreader spreader(holdings.size());
  for (const SharedBox& shared : boxes) spreader.give(shared);
  return std::move(spreader).finish();
}

}  // namespace convoy::ckpt
