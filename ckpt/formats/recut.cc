// Rank by rank, tensor by tensor, front to back: so one file is open at a time.
#include "ckpt/formats/chunk_writer.h"
#include "ckpt/formats/convert.h"
#include "ckpt/formats/tensor_reader.h"
#include <convoy/ckpt/recut.h>
#include <convoy/mesh/shard_spec.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace convoy::ckpt {
namespace {

struct Planned {
  const TensorEntry* entry = nullptr;
  TensorInfo info;     // as written
  int dim = -1;        // that is cut; -1: none
  uint32_t owner = 0;  // of one that is not cut
};

int cut_dimension(const TensorInfo& info, uint32_t ranks) {
  if (info.dtype == Dtype::kBytes) return -1;
  for (size_t d = 0; d < info.shape.size(); ++d) {
    if (info.shape[d] >= static_cast<int64_t>(ranks)) return static_cast<int>(d);
  }
  return -1;
}

std::vector<Planned> plan(const Commit& commit, const RecutOptions& options) {
  std::vector<Planned> tensors;
  for (const TensorEntry& entry : commit.tensors) {
    Planned planned{&entry, entry.info, cut_dimension(entry.info, options.ranks), 0};
    if (options.dtype && is_float(entry.info.dtype)) planned.info.dtype = *options.dtype;
    tensors.push_back(std::move(planned));
  }
  // Wide elements first, so that all are aligned; of those that are not cut, large ones first.
  std::ranges::stable_sort(tensors, [](const Planned& a, const Planned& b) {
    const uint32_t wide_a = dtype_bytes(a.info.dtype), wide_b = dtype_bytes(b.info.dtype);
    if (wide_a != wide_b) return wide_a > wide_b;
    return tensor_bytes(a.info) > tensor_bytes(b.info);
  });
  std::vector<uint64_t> load(options.ranks);
  for (Planned& planned : tensors) {
    if (planned.dim >= 0 || tensor_elements(planned.info) == 0) continue;
    planned.owner = static_cast<uint32_t>(std::ranges::min_element(load) - load.begin());
    load[planned.owner] += tensor_bytes(planned.info);
  }
  return tensors;
}

class Recutter {
 public:
  Recutter(Store& from, const Commit& commit, Store& to, Catalog& catalog,
           const RecutOptions& options)
      : commit_(commit), to_(to), catalog_(catalog), options_(options), reader_(from, commit) {}

  Result<Recut> run() {
    const std::vector<Planned> tensors = plan(commit_, options_);
    for (const Planned& planned : tensors) total_ += tensor_bytes(planned.entry->info);
    CONVOY_ASSIGN_OR_RETURN(const std::optional<Owner> owner, catalog_.owner());
    Commit head;
    head.step = commit_.step;
    head.world_size = options_.ranks;
    head.mesh = options_.mesh;
    head.notes = commit_.notes;
    CommitBuilder builder(std::move(head));
    Recut out{tensors.size(), 0, UINT64_MAX, 0};
    for (uint32_t rank = 0; rank < options_.ranks; ++rank) {
      Part part{commit_.step, rank, owner ? owner->generation : 0, {}, {}, {}};
      CONVOY_RETURN_IF_ERROR(write_rank(tensors, rank, part));
      const uint64_t bytes = part.streams[0].bytes;
      out = {out.tensors, out.bytes + bytes, std::min(out.least, bytes), std::max(out.most, bytes)};
      CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog_.write_part(part));
      CONVOY_RETURN_IF_ERROR(builder.add(ref, part));
    }
    CONVOY_RETURN_IF_ERROR(catalog_.commit(std::move(builder).finish()));
    return out;
  }

 private:
  Status write_rank(const std::vector<Planned>& tensors, uint32_t rank, Part& part) {
    part.streams.emplace_back();
    part.streams[0].rank = rank;
    ChunkWriter writer(to_, catalog_, part);
    for (const Planned& planned : tensors) {
      StoredPiece piece;
      piece.begin.assign(planned.info.shape.size(), 0);
      piece.extent = planned.info.shape;
      const bool is_empty = tensor_elements(planned.info) == 0;
      if (planned.dim >= 0 && !is_empty) {
        const auto d = static_cast<size_t>(planned.dim);
        const Range mine = even_chunk(planned.info.shape[d], static_cast<int>(options_.ranks),
                                      static_cast<int>(rank));
        piece.begin[d] = mine.begin;
        piece.extent[d] = mine.length;
      } else if (planned.owner != rank) {
        continue;
      }
      piece.tensor = static_cast<uint32_t>(part.tensors.size());
      part.tensors.push_back(planned.info);
      if (is_empty) continue;  // has no piece
      CONVOY_RETURN_IF_ERROR(writer.align());
      piece.offset = part.streams[0].bytes;
      CONVOY_RETURN_IF_ERROR(write_piece(planned, piece, writer));
      part.streams[0].pieces.push_back(std::move(piece));
    }
    return writer.finish();
  }

  // One dense run of the tensor for each index of the dimensions before the one that is cut.
  Status write_piece(const Planned& planned, const StoredPiece& piece, ChunkWriter& writer) {
    const std::vector<int64_t>& shape = planned.info.shape;
    const size_t d = planned.dim < 0 ? 0 : static_cast<size_t>(planned.dim);
    int64_t outer = 1, inner = 1;
    for (size_t i = 0; i < shape.size(); ++i) (i < d ? outer : inner) *= shape[i];
    const int64_t row = shape.empty() ? 1 : inner / shape[d];
    const int64_t begin = shape.empty() ? 0 : piece.begin[d] * row;
    const int64_t count = shape.empty() ? 1 : piece.extent[d] * row;
    for (int64_t o = 0; o < outer; ++o) {
      CONVOY_RETURN_IF_ERROR(write_run(planned, o * inner + begin, count, writer));
    }
    return ok_status();
  }

  Status write_run(const Planned& planned, int64_t first, int64_t count, ChunkWriter& writer) {
    const Dtype from = planned.entry->info.dtype;
    const uint64_t element = dtype_bytes(from);
    const auto most = static_cast<int64_t>(kWindowBytes / element);
    for (int64_t done = 0; done < count; done += most) {
      const auto n = static_cast<uint64_t>(std::min(most, count - done));
      raw_.resize(n * element);
      CONVOY_RETURN_IF_ERROR(reader_.read(*planned.entry, first + done, raw_));
      if (planned.info.dtype == from) {
        CONVOY_RETURN_IF_ERROR(writer.append(raw_));
      } else {
        converted_.resize(n * dtype_bytes(planned.info.dtype));
        convert(from, raw_, planned.info.dtype, converted_);
        CONVOY_RETURN_IF_ERROR(writer.append(converted_));
      }
      read_ += raw_.size();
      if (options_.progress && !options_.progress(read_, total_)) {
        return {Code::kAborted, "the reshard was stopped"};
      }
    }
    return ok_status();
  }

  const Commit& commit_;
  Store& to_;
  Catalog& catalog_;
  const RecutOptions& options_;
  TensorReader reader_;
  uint64_t read_ = 0, total_ = 0;
  std::vector<std::byte> raw_, converted_;
};

}  // namespace

Result<Recut> recut(Store& from, const Commit& commit, Store& to, Catalog& catalog,
                    const RecutOptions& options) {
  if (options.ranks < 1 || options.ranks > kRecutRanksMax) {
    return Status(Code::kInvalidArgument, "a step can be cut for 1 to " +
                                              std::to_string(kRecutRanksMax) + " ranks, not " +
                                              std::to_string(options.ranks) + ".");
  }
  if (options.dtype && !can_convert_to(*options.dtype)) {
    return Status(Code::kInvalidArgument, "tensors can't be converted to " +
                                              dtype_name(*options.dtype) +
                                              ": use float32, float64, float16 or bfloat16.");
  }
  return Recutter(from, commit, to, catalog, options).run();
}

}  // namespace convoy::ckpt
