#include "tests/ckpt/training.h"

#include <convoy/base/checksum.h>

namespace convoy::ckpt {
namespace {

constexpr uint32_t kNodes = 2;
constexpr uint32_t kRanksPerNode = 2;
constexpr uint32_t kTestChunk = 64;     // bytes
constexpr uint64_t kStreamBytes = 160;  // 16 float32 of "w", then 96 bytes of "rng"

// Node 1 changes every second step only.
uint64_t content_step(uint64_t step, uint32_t node) {
  return node == 1 && step % (2 * kStepsApart) != 0 ? step - kStepsApart : step;
}

std::vector<std::byte> content(uint64_t step, uint32_t rank) {
  std::vector<std::byte> bytes(kStreamBytes);
  for (uint64_t i = 0; i < bytes.size(); ++i) {
    bytes[i] =
        static_cast<std::byte>(content_step(step, rank / kRanksPerNode) * 7 + rank * 31 + i / 16);
  }
  return bytes;
}

Part outline(uint64_t step, uint32_t node, uint64_t generation) {
  Part part{step, node, generation, {}, {}, {}};
  part.tensors.push_back({"w", Dtype::kFloat32, {kNodes * kRanksPerNode * 16}});
  for (uint32_t i = 0; i < kRanksPerNode; ++i) {
    const uint32_t rank = node * kRanksPerNode + i;
    part.tensors.push_back({"rng." + std::to_string(rank), Dtype::kBytes, {96}});
    Stream stream{rank, kStreamBytes, kTestChunk, {}, {}};
    stream.pieces = {{0, {rank * 16}, {16}, 0}, {i + 1, {0}, {96}, 64}};
    part.streams.push_back(std::move(stream));
  }
  return part;
}

Status write_chunks(StoreWriter& writer, Part& part) {
  uint64_t offset = 0;
  for (Stream& stream : part.streams) {
    const std::vector<std::byte> raw = content(part.step, stream.rank);
    for (uint64_t begin = 0; begin < raw.size(); begin += kTestChunk) {
      const auto chunk =
          std::span(raw).subspan(begin, std::min<uint64_t>(kTestChunk, raw.size() - begin));
      const auto frame = part.node == 0 ? compress_chunk(chunk) : std::nullopt;
      const std::span<const std::byte> stored = frame ? *frame : chunk;
      CONVOY_RETURN_IF_ERROR(writer.append(stored));
      stream.chunks.push_back({0, offset, static_cast<uint32_t>(stored.size()),
                               frame ? Codec::kZstd : Codec::kRaw, xxh3(chunk)});
      offset += stored.size();
    }
  }
  part.files[0].bytes = offset;
  return writer.finish();
}

// The part of `node` in `step`, if that is committed.
Result<Part> part_of(Catalog& catalog, uint64_t step, uint32_t node) {
  CONVOY_ASSIGN_OR_RETURN(const Commit commit, catalog.load_commit(step));
  for (const PartRef& ref : commit.parts) {
    if (ref.node == node) return catalog.load_part(ref);
  }
  return Status(Code::kNotFound, "no such node");
}

Result<Part> write_node(Catalog& catalog, Store& store, uint64_t step, uint32_t node) {
  Part part = outline(step, node, 0);
  if (content_step(step, node) != step) {
    Result<Part> base = part_of(catalog, step - kStepsApart, node);
    if (base.ok()) {  // same content: refer to it
      base->step = step;
      return base;
    }
    if (base.status().code() != Code::kNotFound) return base.status();
  }
  part.files.push_back({catalog.data_path(step, node), 0});
  CONVOY_ASSIGN_OR_RETURN(const auto writer, store.open_writer(part.files[0].path));
  CONVOY_RETURN_IF_ERROR(write_chunks(*writer, part));
  return part;
}

}  // namespace

Result<Commit> write_data(Catalog& catalog, Store& store, uint64_t step) {
  Commit head;
  head.step = step;
  head.world_size = kNodes * kRanksPerNode;
  head.mesh = "dp=4";
  CommitBuilder builder(head);
  for (uint32_t node = 0; node < kNodes; ++node) {
    CONVOY_ASSIGN_OR_RETURN(const Part part, write_node(catalog, store, step, node));
    CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog.write_part(part));
    CONVOY_RETURN_IF_ERROR(builder.add(ref, part));
  }
  return std::move(builder).finish();
}

Status save(Catalog& catalog, Store& store, uint64_t step) {
  CONVOY_ASSIGN_OR_RETURN(const Commit commit, write_data(catalog, store, step));
  return catalog.commit(commit);
}

std::string difference(Catalog& catalog, Store& store, const Commit& commit) {
  uint32_t streams = 0;
  for (const PartRef& ref : commit.parts) {
    const auto part = catalog.load_part(ref);
    if (!part.ok()) return part.status().to_string();
    for (const Stream& stream : part->streams) {
      std::vector<std::byte> raw;
      for (uint64_t i = 0; i < stream.chunks.size(); ++i) {
        const auto chunk = read_chunk(store, *part, stream, i);
        if (!chunk.ok()) return chunk.status().to_string();
        raw.insert(raw.end(), chunk->begin(), chunk->end());
      }
      if (raw != content(commit.step, stream.rank)) {
        return "rank " + std::to_string(stream.rank) + " has other bytes";
      }
      ++streams;
    }
  }
  return streams == kNodes * kRanksPerNode ? "" : std::to_string(streams) + " streams";
}

Progress train(Store& store, uint64_t generation, int steps) {
  Progress progress;
  Catalog catalog(store);
  progress.status = catalog.take_over({"job", generation, "test"});
  if (!progress.status.ok()) return progress;
  const auto latest = catalog.latest();
  if (!latest.ok() && latest.status().code() != Code::kNotFound) {
    progress.status = latest.status();
    return progress;
  }
  progress.committed = latest.ok() ? latest->step : 0;
  for (int i = 1; i <= steps && progress.status.ok(); ++i) {
    progress.attempted = progress.committed + kStepsApart;
    progress.status = save(catalog, store, progress.attempted);
    if (!progress.status.ok()) break;
    progress.committed = progress.attempted;
    if (i % 2 != 0) continue;
    KeepPolicy keep;
    keep.newest = 2;
    keep.every = 40;
    progress.status = catalog.collect(keep).status();
    progress.collecting = !progress.status.ok();
  }
  return progress;
}

}  // namespace convoy::ckpt
