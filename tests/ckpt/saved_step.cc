#include "tests/ckpt/saved_step.h"

#include <convoy/base/checksum.h>
#include <convoy/ckpt/copy.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace convoy::ckpt {
namespace {

int64_t elements_of(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

uint32_t tensor_index(Part& part, const TensorInfo& info) {
  for (uint32_t i = 0; i < part.tensors.size(); ++i) {
    if (part.tensors[i].name == info.name) return i;
  }
  part.tensors.push_back(info);
  return static_cast<uint32_t>(part.tensors.size() - 1);
}

std::vector<std::byte> add_stream(Part& part, uint32_t rank, const State& state,
                                  const SaveOptions& options) {
  StreamLayout layout = lay_out(state).value();
  Stream& stream = layout.stream;
  std::vector<std::byte> bytes(options.skew + stream.bytes, std::byte{0x77});
  std::vector<uint64_t> sums(chunk_count(stream.bytes));
  const auto pool = CopyPool::create(1).value();
  CONVOY_CHECK(pool->copy(layout.runs, std::span(bytes).subspan(options.skew), sums).ok());
  for (StoredPiece& piece : stream.pieces) {
    piece.tensor = tensor_index(part, layout.tensors[piece.tensor]);
    piece.offset += options.skew;
  }
  for (const TensorInfo& info : layout.tensors) tensor_index(part, info);
  stream.rank = rank;
  stream.bytes = bytes.size();
  stream.chunk_bytes = options.chunk_bytes;
  for (size_t at = 0; at < bytes.size(); at += options.chunk_bytes) {
    const auto raw =
        std::span(bytes).subspan(at, std::min<size_t>(options.chunk_bytes, bytes.size() - at));
    stream.chunks.push_back({0, at, static_cast<uint32_t>(raw.size()), Codec::kRaw, xxh3(raw)});
  }
  part.streams.push_back(std::move(stream));
  return bytes;
}

// The older step's chunk at that place, if it has the same bytes.
const Chunk* unchanged(const std::vector<Part>& base, uint32_t rank, size_t i, uint64_t checksum,
                       const Part*& part) {
  for (const Part& p : base) {
    for (const Stream& stream : p.streams) {
      if (stream.rank != rank || i >= stream.chunks.size()) continue;
      part = &p;
      return stream.chunks[i].checksum == checksum ? &stream.chunks[i] : nullptr;
    }
  }
  return nullptr;
}

uint32_t file_index(Part& part, const File& file) {
  for (uint32_t i = 0; i < part.files.size(); ++i) {
    if (part.files[i].path == file.path) return i;
  }
  part.files.push_back(file);
  return static_cast<uint32_t>(part.files.size() - 1);
}

Status write_chunks(Store& store, const std::vector<std::vector<std::byte>>& bytes,
                    const SaveOptions& options, const std::vector<std::string>& paths, Part& part) {
  std::vector<std::unique_ptr<StoreWriter>> writers;
  for (const std::string& path : paths) {
    CONVOY_ASSIGN_OR_RETURN(auto writer, store.open_writer(path));
    writers.push_back(std::move(writer));
    part.files.push_back({path, 0});
  }
  for (size_t s = 0; s < part.streams.size(); ++s) {
    Stream& stream = part.streams[s];
    for (size_t i = 0; i < stream.chunks.size(); ++i) {
      Chunk& chunk = stream.chunks[i];
      const Part* old = nullptr;
      if (const Chunk* same = unchanged(options.base, stream.rank, i, chunk.checksum, old)) {
        const uint32_t file = file_index(part, old->files[same->file]);
        chunk = *same;
        chunk.file = file;
        continue;
      }
      const auto raw = std::span(bytes[s]).subspan(i * stream.chunk_bytes, stream.chunk_size(i));
      const auto frame = options.compress ? compress_chunk(raw) : std::nullopt;
      const std::span<const std::byte> stored = frame ? std::span<const std::byte>(*frame) : raw;
      const uint32_t file = static_cast<uint32_t>(i % writers.size());
      CONVOY_RETURN_IF_ERROR(writers[file]->append(stored));
      chunk = {file, part.files[file].bytes, static_cast<uint32_t>(stored.size()),
               frame ? Codec::kZstd : Codec::kRaw, chunk.checksum};
      part.files[file].bytes += stored.size();
    }
  }
  for (const auto& writer : writers) CONVOY_RETURN_IF_ERROR(writer->finish());
  return ok_status();
}

}  // namespace

std::vector<std::byte> random_bytes(Random& random, size_t size) {
  std::vector<std::byte> bytes(size);
  const int64_t kinds = pick(random, 0, 3) == 0 ? 2 : 255;  // some compress well
  for (std::byte& b : bytes) b = static_cast<std::byte>(pick(random, 0, kinds));
  return bytes;
}

Global random_global(Random& random, const std::string& name) {
  Global global;
  global.info.name = name;
  global.info.dtype = static_cast<Dtype>(pick(random, 1, 18));
  global.info.shape = mesh_test::random_shape(random);
  if (global.info.dtype == Dtype::kBytes) global.info.shape = {pick(random, 0, 300)};
  global.bytes = random_bytes(
      random, static_cast<size_t>(elements_of(global.info.shape)) * dtype_bytes(global.info.dtype));
  return global;
}

Layouts random_layouts(Random& random, const std::vector<Global>& tensors, int max_ranks) {
  Layouts layouts{mesh_test::random_mesh(random, max_ranks), {}};
  for (const Global& global : tensors) {
    layouts.specs.push_back(mesh_test::random_spec(random, layouts.mesh, global.info.shape,
                                                   dtype_bytes(global.info.dtype)));
  }
  return layouts;
}

Local local_of(const std::vector<Global>& tensors, const Layouts& layouts, int rank, bool filled) {
  Local local;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const Global& global = tensors[t];
    const size_t size = dtype_bytes(global.info.dtype);
    local.elements.push_back(mesh_test::slow_local_elements(layouts.specs[t], layouts.mesh, rank));
    std::vector<std::byte> memory(local.elements[t].size() * size, std::byte{0xee});
    for (size_t i = 0; filled && i < local.elements[t].size(); ++i) {
      std::memcpy(&memory[i * size],
                  &global.bytes[static_cast<size_t>(local.elements[t][i]) * size], size);
    }
    local.memory.push_back(std::move(memory));
    StateTensor tensor{global.info, {}};
    for (const Piece& piece : layouts.specs[t].pieces(layouts.mesh, rank)) {
      tensor.boxes.push_back({piece.begin, piece.extent,
                              local.memory[t].data() + static_cast<size_t>(piece.offset) * size,
                              piece.strides});
    }
    local.state.push_back(std::move(tensor));
  }
  return local;
}

std::string difference(const std::vector<Global>& tensors, const Local& local) {
  for (size_t t = 0; t < tensors.size(); ++t) {
    const size_t size = dtype_bytes(tensors[t].info.dtype);
    for (size_t i = 0; i < local.elements[t].size(); ++i) {
      const auto at = static_cast<size_t>(local.elements[t][i]);
      if (std::memcmp(&local.memory[t][i * size], &tensors[t].bytes[at * size], size) != 0) {
        return tensors[t].info.name + " element " + std::to_string(at);
      }
    }
  }
  return "";
}

Streams streams_of(const std::vector<Local>& ranks, uint64_t step, const SaveOptions& options) {
  Streams streams;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const auto node = static_cast<uint32_t>(rank / static_cast<size_t>(options.ranks_per_node));
    if (node == streams.parts.size()) {
      streams.parts.push_back({step, node, 1, {}, {}, {}});
      streams.bytes.emplace_back();
    }
    streams.bytes[node].push_back(
        add_stream(streams.parts[node], static_cast<uint32_t>(rank), ranks[rank].state, options));
  }
  return streams;
}

Result<Commit> save_step(Catalog& catalog, Store& store, uint64_t step,
                         const std::vector<Local>& ranks, const SaveOptions& options,
                         std::vector<Part>* parts) {
  Commit head;
  head.step = step;
  head.world_size = static_cast<uint32_t>(ranks.size());
  CommitBuilder builder(head);
  Streams streams = streams_of(ranks, step, options);
  for (Part& part : streams.parts) {
    std::vector<std::string> paths;
    for (int i = 0; i < options.files; ++i) {
      paths.push_back(catalog.data_path(step, part.node, static_cast<uint32_t>(i)));
    }
    CONVOY_RETURN_IF_ERROR(write_chunks(store, streams.bytes[part.node], options, paths, part));
    CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog.write_part(part));
    CONVOY_RETURN_IF_ERROR(builder.add(ref, part));
  }
  if (parts != nullptr) *parts = streams.parts;
  const Commit commit = std::move(builder).finish();
  CONVOY_RETURN_IF_ERROR(catalog.commit(commit));
  return catalog.load_commit(step);
}

}  // namespace convoy::ckpt
