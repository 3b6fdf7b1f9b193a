#include "ckpt/cluster/encode.h"

#include <utility>

namespace convoy::ckpt {

void set_failure(proto::ClusterFailure& to, const Status& status) {
  to.set_code(static_cast<uint32_t>(status.code()));
  to.set_text(status.message());
}

Status get_failure(const proto::ClusterFailure& from) {
  if (from.code() == 0) return {};
  const bool known = from.code() <= static_cast<uint32_t>(Code::kInternal);
  return {known ? static_cast<Code>(from.code()) : Code::kInternal, from.text()};
}

void set_part(proto::PartSummary& to, const PartSummary& part) {
  to.set_step(part.step);
  proto::PartRef& ref = *to.mutable_ref();
  ref.set_path(part.ref.path);
  ref.set_bytes(part.ref.bytes);
  ref.set_checksum(part.ref.checksum);
  ref.set_node(part.ref.node);
  for (const TensorInfo& tensor : part.tensors) {
    proto::TensorInfo& info = *to.add_tensors();
    info.set_name(tensor.name);
    info.set_dtype(static_cast<uint32_t>(tensor.dtype));
    for (const int64_t size : tensor.shape) info.add_shape(static_cast<uint64_t>(size));
  }
  for (const bool held : part.held) to.add_held(held);
  for (const File& file : part.files) {
    to.add_files()->set_path(file.path);
    to.mutable_files()->rbegin()->set_bytes(file.bytes);
  }
  for (const uint64_t step : part.steps) to.add_steps(step);
}

// Names, dtypes and shapes are checked when the commit record is encoded.
Result<PartSummary> get_part(const proto::PartSummary& from) {
  if (from.held_size() != from.tensors_size()) {
    return Status(Code::kInvalidArgument, "a summary of a part that does not fit itself");
  }
  PartSummary part;
  part.step = from.step();
  part.ref = {from.ref().path(), from.ref().bytes(), from.ref().checksum(), from.ref().node()};
  part.tensors.reserve(static_cast<size_t>(from.tensors_size()));
  for (const proto::TensorInfo& info : from.tensors()) {
    TensorInfo& tensor = part.tensors.emplace_back();
    tensor.name = info.name();
    tensor.dtype = static_cast<Dtype>(info.dtype());
    tensor.shape.assign(info.shape().begin(), info.shape().end());
  }
  part.held.assign(from.held().begin(), from.held().end());
  for (const proto::File& file : from.files()) part.files.push_back({file.path(), file.bytes()});
  part.steps.assign(from.steps().begin(), from.steps().end());
  return part;
}

void set_event(proto::Event& to, const StepEvent& event) {
  to.set_kind(static_cast<uint32_t>(event.kind));
  to.set_step(event.step);
  to.set_slot(static_cast<uint32_t>(event.slot));
  to.set_to_disk(event.to_disk);
  to.set_dropped(event.dropped);
  to.set_claim(event.claim);
  to.set_who(event.who);
  if (!event.status.ok()) set_failure(*to.mutable_failure(), event.status);
}

StepEvent get_event(const proto::Event& from) {
  StepEvent event;
  event.kind = static_cast<StepEvent::Kind>(from.kind());
  event.step = from.step();
  event.slot = static_cast<int>(from.slot());
  event.to_disk = from.to_disk();
  event.dropped = from.dropped();
  event.claim = from.claim();
  event.who = from.who();
  event.status = get_failure(from.failure());
  return event;
}

void set_piece(proto::PieceInfo& to, const PieceInfo& piece) {
  to.set_k(piece.scheme.k);
  to.set_m(piece.scheme.m);
  to.set_piece(piece.piece);
  proto::ImageInfo& image = *to.mutable_image();
  image.set_generation(piece.image.generation);
  image.set_step(piece.image.step);
  image.set_node(piece.image.node);
  image.set_nodes(piece.image.nodes);
  image.set_world_size(piece.image.world_size);
  image.set_blocks(piece.image.blocks);
  for (const ImageRank& rank : piece.image.ranks) {
    proto::ImageRank& at = *image.add_ranks();
    at.set_rank(rank.rank);
    at.set_stream_block(rank.stream_block);
    at.set_stream_bytes(rank.stream_bytes);
    at.set_part_block(rank.part_block);
    at.set_part_bytes(rank.part_bytes);
  }
}

PieceInfo get_piece(const proto::PieceInfo& from) {
  PieceInfo piece;
  piece.scheme = {from.k(), from.m()};
  piece.piece = from.piece();
  const proto::ImageInfo& image = from.image();
  piece.image = {image.generation(),
                 image.step(),
                 image.node(),
                 image.nodes(),
                 image.world_size(),
                 image.blocks(),
                 {}};
  for (const proto::ImageRank& rank : image.ranks()) {
    piece.image.ranks.push_back({rank.rank(), rank.stream_block(), rank.stream_bytes(),
                                 rank.part_block(), rank.part_bytes()});
  }
  return piece;
}

}  // namespace convoy::ckpt
