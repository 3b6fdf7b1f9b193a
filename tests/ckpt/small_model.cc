#include "tests/ckpt/small_model.h"

#include <convoy/base/checksum.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

namespace convoy::ckpt {
namespace {

int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

// Numbers that every float type holds exactly, so that conversions can be checked by hand.
double value_of(const std::string& name, int64_t element, uint64_t version) {
  uint64_t seed = 0;
  for (const char c : name) seed = (seed * 31 + static_cast<unsigned char>(c)) % 61;
  return static_cast<double>((static_cast<uint64_t>(element) * 7 + seed + version * 3) % 127) / 8 -
         4;
}

uint64_t version_of(const SmallModel& model, const TensorInfo& tensor, uint64_t step) {
  const bool frozen = model.freeze != 0 && tensor.name.find("layers.0") != std::string::npos;
  return frozen ? step / model.freeze : step;
}

void store_value(double value, Dtype dtype, std::byte* out) {
  if (dtype == Dtype::kFloat32) {
    const auto narrow = static_cast<float>(value);
    std::memcpy(out, &narrow, 4);
  } else if (dtype == Dtype::kBFloat16) {
    const auto narrow = static_cast<float>(value);
    std::memcpy(out, reinterpret_cast<const char*>(&narrow) + 2, 2);
  } else if (dtype == Dtype::kInt64) {
    const auto whole = static_cast<int64_t>(value * 8);
    std::memcpy(out, &whole, 8);
  } else {
    *out = static_cast<std::byte>(static_cast<int>(value * 8) & 0xff);
  }
}

struct Box {
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;
};

// What `rank` gives of the tensor; nothing: empty extent.
std::vector<Box> boxes_of(const SmallModel& model, const TensorInfo& tensor, uint32_t rank) {
  if (count_of(tensor.shape) == 0) return {};
  const Box whole{std::vector<int64_t>(tensor.shape.size(), 0), tensor.shape};
  if (tensor.dtype == Dtype::kBytes) {
    return tensor.name == "rng." + std::to_string(rank) ? std::vector<Box>{whole}
                                                        : std::vector<Box>{};
  }
  if (tensor.shape.size() < 2) return rank == 0 ? std::vector<Box>{whole} : std::vector<Box>{};
  if (static_cast<int64_t>(rank) == model.forgets) return {};
  if (model.replicas) return {whole};
  const int64_t size = tensor.shape[static_cast<size_t>(model.cut)];
  const int64_t begin = size * rank / model.ranks;
  const int64_t end = size * (rank + 1) / model.ranks;
  if (begin == end) return {};
  Box box = whole;
  box.begin[static_cast<size_t>(model.cut)] = begin;
  box.extent[static_cast<size_t>(model.cut)] = end - begin;
  return {box};
}

// The box's elements, dense.
std::vector<std::byte> cut_out(const TensorInfo& tensor, const std::vector<std::byte>& whole,
                               const Box& box) {
  const int64_t element = dtype_bytes(tensor.dtype);
  std::vector<std::byte> out;
  const int64_t count = count_of(box.extent);
  for (int64_t i = 0; i < count; ++i) {
    int64_t rest = i;
    int64_t at = 0;
    int64_t stride = 1;
    for (size_t d = box.extent.size(); d-- > 0;) {
      at += (box.begin[d] + rest % box.extent[d]) * stride;
      rest /= box.extent[d];
      stride *= tensor.shape[d];
    }
    out.insert(out.end(), whole.begin() + at * element, whole.begin() + (at + 1) * element);
  }
  return out;
}

// A rank's stream and its pieces.
std::vector<std::byte> make_stream(const SmallModel& model, uint32_t rank, uint64_t step,
                                   Part& part, Stream& stream) {
  std::vector<std::byte> raw;
  for (uint32_t t = 0; t < part.tensors.size(); ++t) {
    const TensorInfo& tensor = part.tensors[t];
    const std::vector<Box> boxes = boxes_of(model, tensor, rank);
    if (boxes.empty()) continue;
    const auto whole = small_model_content(model, tensor, step);
    for (const Box& box : boxes) {
      raw.resize((raw.size() + 63) / 64 * 64);
      stream.pieces.push_back({t, box.begin, box.extent, raw.size()});
      const auto bytes = cut_out(tensor, whole, box);
      raw.insert(raw.end(), bytes.begin(), bytes.end());
    }
  }
  stream.rank = rank;
  stream.bytes = raw.size();
  stream.chunk_bytes = model.chunk_bytes;
  return raw;
}

// Chunk `i` of the same rank in the step before, if it holds the same.
std::optional<Chunk> find_in(const std::optional<Part>& base, uint32_t rank, uint64_t i,
                             uint64_t checksum, uint32_t bytes) {
  if (!base) return std::nullopt;
  for (const Stream& stream : base->streams) {
    if (stream.rank == rank && i < stream.chunks.size() && stream.chunk_size(i) == bytes &&
        stream.chunks[i].checksum == checksum) {
      return stream.chunks[i];
    }
  }
  return std::nullopt;
}

class NodeWriter {
 public:
  NodeWriter(Catalog& catalog, Store& store, Part& part, std::optional<Part> base, bool compress)
      : catalog_(catalog),
        store_(store),
        part_(part),
        base_(std::move(base)),
        compress_(compress) {}

  Status add(Stream stream, const std::vector<std::byte>& raw) {
    for (uint64_t i = 0; i * stream.chunk_bytes < raw.size(); ++i) {
      const auto chunk = std::span(raw).subspan(
          i * stream.chunk_bytes,
          std::min<size_t>(stream.chunk_bytes, raw.size() - i * stream.chunk_bytes));
      const uint64_t checksum = xxh3(chunk);
      if (auto same =
              find_in(base_, stream.rank, i, checksum, static_cast<uint32_t>(chunk.size()))) {
        same->file = file_of(base_->files[same->file]);
        stream.chunks.push_back(*same);
        continue;
      }
      const auto frame = compress_ ? compress_chunk(chunk) : std::nullopt;
      const std::span<const std::byte> stored = frame ? std::span<const std::byte>(*frame) : chunk;
      if (writer_ == nullptr) {
        own_ = file_of({catalog_.data_path(part_.step, part_.node), 0});
        CONVOY_ASSIGN_OR_RETURN(writer_, store_.open_writer(part_.files[own_].path));
      }
      CONVOY_RETURN_IF_ERROR(writer_->append(stored));
      stream.chunks.push_back({own_, part_.files[own_].bytes, static_cast<uint32_t>(stored.size()),
                               frame ? Codec::kZstd : Codec::kRaw, checksum});
      part_.files[own_].bytes += stored.size();
    }
    part_.streams.push_back(std::move(stream));
    return ok_status();
  }
  Status finish() { return writer_ == nullptr ? ok_status() : writer_->finish(); }

 private:
  uint32_t file_of(const File& file) {
    const auto found = std::ranges::find(part_.files, file.path, &File::path);
    if (found != part_.files.end()) return static_cast<uint32_t>(found - part_.files.begin());
    part_.files.push_back(file);
    return static_cast<uint32_t>(part_.files.size() - 1);
  }

  Catalog& catalog_;
  Store& store_;
  Part& part_;
  std::optional<Part> base_;
  bool compress_;
  std::unique_ptr<StoreWriter> writer_;
  uint32_t own_ = 0;
};

Result<std::optional<Part>> base_part(Catalog& catalog, uint64_t base, uint32_t node) {
  if (base == 0) return std::optional<Part>();
  CONVOY_ASSIGN_OR_RETURN(const Commit commit, catalog.load_commit(base));
  for (const PartRef& ref : commit.parts) {
    if (ref.node != node) continue;
    CONVOY_ASSIGN_OR_RETURN(Part part, catalog.load_part(ref));
    return std::optional<Part>(std::move(part));
  }
  return std::optional<Part>();
}

}  // namespace

std::vector<TensorInfo> small_model_tensors(const SmallModel& model) {
  const int64_t w = model.width;
  std::vector<TensorInfo> tensors = {
      {"model.embed.weight", Dtype::kFloat32, {w + 1, w}},
      {"model.layers.0.mlp.weight", Dtype::kBFloat16, {2 * w, w}},
      {"model.layers.1.mlp.weight", Dtype::kBFloat16, {2 * w, w}},
      {"model.norm.weight", Dtype::kFloat32, {w}},
      {"model.unused", Dtype::kFloat32, {0, w}},
      {"optimizer.layers.0.mlp.exp_avg", Dtype::kFloat32, {2 * w, w}},
      {"optimizer.step", Dtype::kInt64, {}}};
  for (uint32_t rank = 0; rank < model.ranks; ++rank) {
    tensors.push_back({"rng." + std::to_string(rank), Dtype::kBytes, {16}});
  }
  return tensors;
}

std::vector<std::byte> small_model_content(const SmallModel& model, const TensorInfo& tensor,
                                           uint64_t step) {
  const uint64_t version = version_of(model, tensor, step);
  const int64_t element = dtype_bytes(tensor.dtype);
  std::vector<std::byte> out(static_cast<size_t>(count_of(tensor.shape) * element));
  for (int64_t i = 0; i * element < static_cast<int64_t>(out.size()); ++i) {
    store_value(value_of(tensor.name, i, version), tensor.dtype, out.data() + i * element);
  }
  return out;
}

Status save_small_model(const SmallModel& model, Catalog& catalog, Store& store, uint64_t step,
                        uint64_t base) {
  Commit head;
  head.step = step;
  head.world_size = model.ranks;
  head.mesh = (model.cut == 0 ? "dp=" : "tp=") + std::to_string(model.ranks);
  head.notes = {{"tokens", std::to_string(step * 4096)}};
  CommitBuilder builder(head);
  const uint32_t nodes = (model.ranks + model.ranks_per_node - 1) / model.ranks_per_node;
  for (uint32_t node = 0; node < nodes; ++node) {
    CONVOY_ASSIGN_OR_RETURN(std::optional<Part> before, base_part(catalog, base, node));
    Part part{step, node, 0, small_model_tensors(model), {}, {}};
    NodeWriter writer(catalog, store, part, std::move(before), model.compress && node == 0);
    const uint32_t end = std::min(model.ranks, (node + 1) * model.ranks_per_node);
    for (uint32_t rank = node * model.ranks_per_node; rank < end; ++rank) {
      Stream stream;
      const auto raw = make_stream(model, rank, step, part, stream);
      CONVOY_RETURN_IF_ERROR(writer.add(std::move(stream), raw));
    }
    CONVOY_RETURN_IF_ERROR(writer.finish());
    CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog.write_part(part));
    CONVOY_RETURN_IF_ERROR(builder.add(ref, part));
  }
  return catalog.commit(std::move(builder).finish());
}

}  // namespace convoy::ckpt
