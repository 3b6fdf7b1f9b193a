// What of a trainer a checkpoint holds, as boxes of global tensors: "model.NAME",
// "optimizer.m.NAME", "optimizer.v.NAME" and "optimizer.steps". Nothing in them tells of tp, pp, dp
// or ZeRO, so any mesh can go on from any other one's.
#include <convoy/ckpt/flat_range.h>
#include <convoy/runtime/trainer.h>

#include <ATen/ops/as_strided.h>

#include <algorithm>
#include <map>
#include <utility>

namespace convoy::runtime {
namespace {

using ckpt::NamedTensor;
using ckpt::RangeBox;
using ckpt::TensorBox;

// Elements of a bucket's flat memory.
struct FlatRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Boxes of global tensors, gathered by name.
class Boxes {
 public:
  void add(const std::string& name, const std::vector<int64_t>& shape, TensorBox box) {
    const auto [at, is_new] = index_.try_emplace(name, tensors_.size());
    if (is_new) tensors_.push_back({name, shape, {}});
    tensors_[at->second].boxes.push_back(std::move(box));
  }
  ckpt::TensorState take() && { return std::move(tensors_); }

 private:
  ckpt::TensorState tensors_;
  std::map<std::string, size_t> index_;
};

// A box of this rank's shard, as the pieces of it that lie together in the full parameter too:
// (local begin, global begin, extent).
struct Piece {
  std::vector<int64_t> local, global, extent;
};
std::vector<Piece> pieces_of(const parallel::Parameter& p, const RangeBox& box, bool owned_only) {
  std::vector<Piece> out;
  const auto dim = static_cast<size_t>(p.shard_dim);
  for (const parallel::HeldRun& run : p.runs) {
    if (owned_only && !run.owned) continue;
    const int64_t begin = std::max(box.begin[dim], run.local);
    const int64_t end = std::min(box.begin[dim] + box.extent[dim], run.local + run.size);
    if (begin >= end) continue;
    Piece piece{box.begin, box.begin, box.extent};
    piece.local[dim] = begin;
    piece.global[dim] = begin - run.local + run.global;
    piece.extent[dim] = end - begin;
    out.push_back(std::move(piece));
  }
  return out;
}

// The piece in flat memory that holds the shard from its element `first` on.
at::Tensor view_of(const at::Tensor& flat, const Piece& piece, at::IntArrayRef shape,
                   int64_t first) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * shape[d];
  int64_t offset = flat.storage_offset() - first;
  for (size_t d = 0; d < shape.size(); ++d) offset += piece.local[d] * strides[d];
  return at::as_strided(flat, piece.extent, strides, offset);
}

}  // namespace

void Trainer::add_steps(ckpt::TensorState& state) {
  steps_tensor_.fill_(optimizer_->steps_done());
  state.push_back({"optimizer.steps", {}, {{{}, steps_tensor_}}});
}

ckpt::TensorState Trainer::state_of(bool to_save) {
  Boxes boxes;
  const std::vector<data::AdamW::BucketState> states = optimizer_->state();
  for (size_t b = 0; b < states.size(); ++b) {
    const data::Bucket& bucket = buckets_->buckets()[b];
    const data::AdamW::BucketState& state = states[b];
    // A save takes from each data-parallel rank an equal part, as ZeRO cuts it, sharded or not.
    const FlatRange range =
        to_save ? FlatRange{bucket.shard_begin, bucket.shard_begin + bucket.shard_count}
                : FlatRange{state.begin, state.begin + state.m.numel()};
    for (const data::Slot& slot : bucket.slots) {
      const parallel::Parameter& p = *parameters_[slot.param];
      if (to_save && buckets_->params()[slot.param].counted.empty()) continue;  // another rank's
      const int64_t begin = std::max(range.begin, slot.offset) - slot.offset;
      const int64_t end = std::min(range.end, slot.offset + slot.count) - slot.offset;
      for (const RangeBox& box : ckpt::boxes_of_range(p.value.sizes(), begin, end)) {
        for (const Piece& piece : pieces_of(p, box, to_save)) {
          const auto add = [&](const std::string& prefix, const at::Tensor& flat) {
            boxes.add(
                prefix + p.name, p.full_shape(),
                {piece.global, view_of(flat, piece, p.value.sizes(), state.begin - slot.offset)});
          };
          add("model.", state.weights);
          add("optimizer.m.", state.m);
          add("optimizer.v.", state.v);
        }
      }
    }
  }
  return std::move(boxes).take();
}

ckpt::TensorState Trainer::state_to_save() {
  ckpt::TensorState state = state_of(/*to_save=*/true);
  if (world_.rank() == 0) add_steps(state);
  return state;
}

ckpt::TensorState Trainer::state_to_load() {
  ckpt::TensorState state = state_of(/*to_save=*/false);
  add_steps(state);
  return state;
}

std::vector<at::Tensor> Trainer::replica_state() {
  std::vector<at::Tensor> all;
  for (const data::AdamW::BucketState& state : optimizer_->state()) {
    all.insert(all.end(), {state.weights, state.m, state.v});
  }
  return all;
}

void Trainer::restored() {
  optimizer_->restored(steps_tensor_.item<int64_t>());
}

}  // namespace convoy::runtime
