// Decides whether a record keeps the format's rules. Sums and products are taken only where they
// can't overflow.
#include "ckpt/manifest/check.h"

#include <algorithm>
#include <unordered_set>

namespace convoy::ckpt {
namespace {

constexpr size_t kComponentBytesMax = 255;  // what file systems take

Status broken(const std::string& what) {
  return {Code::kInvalidArgument, what};
}

std::string numbered(const char* what, size_t i) {
  return std::string(what) + " " + std::to_string(i);
}

Status check_count(const char* what, uint64_t count, uint64_t most) {
  if (count <= most) return ok_status();
  return broken(std::to_string(count) + " " + what + ", but at most " + std::to_string(most) +
                " are allowed");
}

Status check_text(const char* what, std::string_view text, uint64_t most) {
  if (text.size() > most) {
    return broken(std::string(what) + " has " + std::to_string(text.size()) + " bytes, over " +
                  std::to_string(most));
  }
  if (text.find('\0') != std::string_view::npos) return broken(std::string(what) + " holds a NUL");
  return ok_status();
}

Status check_tensor(const TensorInfo& tensor) {
  if (tensor.name.empty()) return broken("a tensor has no name");
  CONVOY_RETURN_IF_ERROR(check_text("a tensor's name", tensor.name, kNameBytesMax));
  const std::string name = "tensor " + tensor.name;
  if (dtype_bytes(tensor.dtype) == 0) {
    return broken(name + " has unknown " + dtype_name(tensor.dtype));
  }
  if (tensor.shape.size() > kDimsMax) {
    return broken(name + " has " + std::to_string(tensor.shape.size()) + " dimensions, over " +
                  std::to_string(kDimsMax));
  }
  if (tensor.dtype == Dtype::kBytes && tensor.shape.size() != 1) {
    return broken(name + " of dtype bytes must have one dimension");
  }
  for (const int64_t size : tensor.shape) {
    if (size < 0 || static_cast<uint64_t>(size) > kTensorBytesMax) {
      return broken(name + " has a dimension of " + std::to_string(size));
    }
  }
  uint64_t bytes = 0;
  if (!box_bytes(tensor.shape, dtype_bytes(tensor.dtype), bytes)) {
    return broken(name + " has more than 2^62 bytes");
  }
  return ok_status();
}

Status check_names(const Part& part) {
  std::unordered_set<std::string_view> names;
  for (const TensorInfo& tensor : part.tensors) {
    CONVOY_RETURN_IF_ERROR(check_tensor(tensor));
    if (!names.insert(tensor.name).second) return broken("tensor " + tensor.name + " occurs twice");
  }
  return ok_status();
}

// Adds the piece's bytes to `end`, the end of the piece before it.
Status check_piece(const Part& part, const StoredPiece& piece, uint64_t stream_bytes,
                   uint64_t& end) {
  if (piece.tensor >= part.tensors.size()) {
    return broken("it names tensor " + std::to_string(piece.tensor) + " of " +
                  std::to_string(part.tensors.size()));
  }
  const TensorInfo& tensor = part.tensors[piece.tensor];
  const size_t dims = tensor.shape.size();
  if (piece.begin.size() != dims || piece.extent.size() != dims) {
    return broken("its dimensions are not those of tensor " + tensor.name);
  }
  for (size_t d = 0; d < dims; ++d) {
    if (piece.begin[d] < 0 || piece.extent[d] < 1 || piece.extent[d] > tensor.shape[d] ||
        piece.begin[d] > tensor.shape[d] - piece.extent[d]) {
      return broken("it lies outside of tensor " + tensor.name);
    }
  }
  uint64_t bytes = 0;
  if (!box_bytes(piece.extent, dtype_bytes(tensor.dtype), bytes)) return broken("it is too large");
  if (piece.offset < end) return broken("it overlaps the one before it, or pieces do not ascend");
  if (piece.offset > stream_bytes || bytes > stream_bytes - piece.offset) {
    return broken("it ends beyond its stream of " + std::to_string(stream_bytes) + " bytes");
  }
  end = piece.offset + bytes;
  return ok_status();
}

Status check_chunk(const Part& part, const Chunk& chunk, uint32_t size) {
  if (chunk.file >= part.files.size()) {
    return broken("it names file " + std::to_string(chunk.file) + " of " +
                  std::to_string(part.files.size()));
  }
  const bool fits = chunk.codec == Codec::kRaw    ? chunk.bytes == size
                    : chunk.codec == Codec::kZstd ? chunk.bytes >= 1 && chunk.bytes < size
                                                  : false;
  if (!fits) {
    return broken(std::to_string(chunk.bytes) + " stored bytes do not fit its " +
                  std::to_string(size) + " bytes and its codec");
  }
  const File& file = part.files[chunk.file];
  if (chunk.offset > file.bytes || chunk.bytes > file.bytes - chunk.offset) {
    return broken("it ends beyond its file " + file.path + " of " + std::to_string(file.bytes) +
                  " bytes");
  }
  return ok_status();
}

Status check_stream(const Part& part, const Stream& stream) {
  if (stream.chunk_bytes < 1 || stream.chunk_bytes > kChunkBytesMax) {
    return broken("its chunks have " + std::to_string(stream.chunk_bytes) + " bytes");
  }
  const uint64_t chunks =
      stream.bytes / stream.chunk_bytes + (stream.bytes % stream.chunk_bytes != 0 ? 1 : 0);
  if (stream.chunks.size() != chunks) {
    return broken("it has " + std::to_string(stream.chunks.size()) + " chunks, but its " +
                  std::to_string(stream.bytes) + " bytes make " + std::to_string(chunks));
  }
  uint64_t end = 0;
  for (size_t i = 0; i < stream.pieces.size(); ++i) {
    CONVOY_RETURN_IF_ERROR(
        check_piece(part, stream.pieces[i], stream.bytes, end).with_context(numbered("piece", i)));
  }
  for (size_t i = 0; i < chunks; ++i) {
    CONVOY_RETURN_IF_ERROR(check_chunk(part, stream.chunks[i], stream.chunk_size(i))
                               .with_context(numbered("chunk", i)));
  }
  return ok_status();
}

Status check_holders(const TensorEntry& entry, uint64_t parts) {
  uint64_t end = 0;
  for (size_t i = 0; i < entry.holders.size(); ++i) {
    const PartRun& run = entry.holders[i];
    // Runs are maximal, so a gap lies before each but the first.
    if (run.count < 1 || run.first < end + (i > 0 ? 1 : 0) ||
        uint64_t{run.first} + run.count > parts) {
      return broken("tensor " + entry.info.name +
                    " is held by parts that are out of order or not there");
    }
    end = uint64_t{run.first} + run.count;
  }
  return ok_status();
}

Status check_refs(const Commit& commit) {
  CONVOY_RETURN_IF_ERROR(check_count("parts", commit.parts.size(), kPartsMax));
  std::unordered_set<std::string_view> paths;
  for (const PartRef& part : commit.parts) {
    CONVOY_RETURN_IF_ERROR(check_path(part.path));
    if (!paths.insert(part.path).second) return broken("part " + part.path + " occurs twice");
    if (part.bytes > kRecordBytesMax) return broken("part " + part.path + " is too large");
  }
  return ok_status();
}

}  // namespace

bool box_bytes(const std::vector<int64_t>& extent, uint32_t element_bytes, uint64_t& out) {
  if (std::ranges::find(extent, 0) != extent.end()) {
    out = 0;
    return true;
  }
  out = element_bytes;
  for (const int64_t size : extent) {
    if (__builtin_mul_overflow(out, static_cast<uint64_t>(size), &out) || out > kTensorBytesMax) {
      return false;
    }
  }
  return true;
}

Status check_path(std::string_view path) {
  const auto refused = [&](const char* why) {
    return Status(Code::kInvalidArgument,
                  "path '" + std::string(path.substr(0, kPathBytesMax)) + "' is refused: " + why +
                      ". Paths in a checkpoint folder are relative and stay inside of it.");
  };
  if (path.size() > kPathBytesMax) return refused("it is too long");
  if (path.find('\0') != std::string_view::npos) return refused("it holds a NUL");
  if (path.starts_with('/')) return refused("it is absolute");
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view component = path.substr(begin, end - begin);
    if (component.empty()) return refused("a component is empty");
    if (component == "." || component == "..") return refused("a component is '.' or '..'");
    if (component.size() > kComponentBytesMax) return refused("a component is too long");
    begin = end + 1;
  }
  return ok_status();
}

Status check(const Part& part) {
  CONVOY_RETURN_IF_ERROR(check_count("tensors", part.tensors.size(), kTensorsMax));
  CONVOY_RETURN_IF_ERROR(check_count("files", part.files.size(), kFilesMax));
  CONVOY_RETURN_IF_ERROR(check_count("streams", part.streams.size(), kStreamsMax));
  CONVOY_RETURN_IF_ERROR(check_names(part));
  for (const File& file : part.files) CONVOY_RETURN_IF_ERROR(check_path(file.path));
  uint64_t pieces = 0;
  uint64_t chunks = 0;
  std::unordered_set<uint32_t> ranks;
  for (const Stream& stream : part.streams) {
    pieces += stream.pieces.size();
    chunks += stream.chunks.size();
    CONVOY_RETURN_IF_ERROR(check_count("pieces", pieces, kPiecesMax));
    CONVOY_RETURN_IF_ERROR(check_count("chunks", chunks, kChunksMax));
    const std::string name = "the stream of rank " + std::to_string(stream.rank);
    if (!ranks.insert(stream.rank).second) return broken(name + " occurs twice");
    CONVOY_RETURN_IF_ERROR(check_stream(part, stream).with_context(name));
  }
  return ok_status();
}

Status check(const Commit& commit) {
  CONVOY_RETURN_IF_ERROR(check_text("the job id", commit.job, kTextBytesMax));
  CONVOY_RETURN_IF_ERROR(check_text("the mesh", commit.mesh, kTextBytesMax));
  CONVOY_RETURN_IF_ERROR(check_refs(commit));
  CONVOY_RETURN_IF_ERROR(check_count("tensors", commit.tensors.size(), kTensorsMax));
  std::unordered_set<std::string_view> names;
  for (const TensorEntry& entry : commit.tensors) {
    CONVOY_RETURN_IF_ERROR(check_tensor(entry.info));
    if (!names.insert(entry.info.name).second) {
      return broken("tensor " + entry.info.name + " occurs twice");
    }
    CONVOY_RETURN_IF_ERROR(check_holders(entry, commit.parts.size()));
  }
  CONVOY_RETURN_IF_ERROR(check_count("notes", commit.notes.size(), kNotesMax));
  for (const auto& [key, value] : commit.notes) {
    CONVOY_RETURN_IF_ERROR(check_text("a note's key", key, kTextBytesMax));
    if (value.size() > kNoteBytesMax) return broken("note " + key + " is too long");
  }
  CONVOY_RETURN_IF_ERROR(check_count("steps", commit.steps.size(), kStepsMax));
  if (std::ranges::adjacent_find(commit.steps, std::greater_equal<>()) != commit.steps.end()) {
    return broken("the steps of its files do not ascend");
  }
  return ok_status();
}

Status check(const Owner& owner) {
  if (owner.job.empty()) return broken("the job id is empty");
  CONVOY_RETURN_IF_ERROR(check_text("the job id", owner.job, kTextBytesMax));
  CONVOY_RETURN_IF_ERROR(check_text("the owner's name", owner.who, kTextBytesMax));
  return check_count("inherited commits", owner.inherited.size(), kStepsMax);
}

}  // namespace convoy::ckpt
