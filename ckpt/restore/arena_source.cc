// A step in memory: its commit record is made up from the parts.
#include "ckpt/restore/verify.h"
#include <convoy/ckpt/step_source.h>

#include <map>
#include <utility>

namespace convoy::ckpt {
namespace {

Status wrong(const Snapshot& snapshot, const std::string& text) {
  return {Code::kInvalidArgument,
          "the snapshot of node " + std::to_string(snapshot.part.node) + ": " + text};
}

Status check(const Snapshot& snapshot, uint64_t step) {
  const Part& part = snapshot.part;
  if (part.step != step) {
    return wrong(snapshot,
                 "it is of step " + std::to_string(part.step) + ", not " + std::to_string(step));
  }
  if (snapshot.streams.size() != part.streams.size()) {
    return wrong(snapshot, "it has " + std::to_string(part.streams.size()) +
                               " streams, but bytes of " + std::to_string(snapshot.streams.size()));
  }
  for (size_t i = 0; i < part.streams.size(); ++i) {
    const Stream& stream = part.streams[i];
    const std::string who = "rank " + std::to_string(stream.rank) + " ";
    if (snapshot.streams[i].size() != stream.bytes || stream.chunk_bytes == 0 ||
        stream.chunks.size() != (stream.bytes + stream.chunk_bytes - 1) / stream.chunk_bytes) {
      return wrong(snapshot, who + "has not the bytes or the chunks that its part tells");
    }
    for (const Chunk& chunk : stream.chunks) {
      if (chunk.codec != Codec::kRaw) return wrong(snapshot, who + "has compressed chunks");
    }
    for (const StoredPiece& piece : stream.pieces) {
      if (piece.tensor >= part.tensors.size()) return wrong(snapshot, who + "has a nameless piece");
    }
  }
  return ok_status();
}

// Adds the part's tensors, with part number `index` as their holder.
Status add_tensors(const Part& part, uint32_t index, std::map<std::string, size_t>& known,
                   Commit& commit) {
  std::vector<bool> held(part.tensors.size());
  for (const Stream& stream : part.streams) {
    for (const StoredPiece& piece : stream.pieces) held[piece.tensor] = true;
  }
  for (size_t i = 0; i < part.tensors.size(); ++i) {
    const TensorInfo& info = part.tensors[i];
    const auto [at, added] = known.try_emplace(info.name, commit.tensors.size());
    if (added) commit.tensors.push_back({info, {}});
    TensorEntry& entry = commit.tensors[at->second];
    if (!(entry.info == info)) {
      return {Code::kMismatch, "the snapshots of step " + std::to_string(part.step) +
                                   " disagree on tensor " + info.name +
                                   ": its dtype or global shape differs on node " +
                                   std::to_string(part.node)};
    }
    if (held[i]) entry.holders.push_back({index, 1});
  }
  return ok_status();
}

}  // namespace

ArenaSource::ArenaSource(const std::string& name, Commit commit, std::vector<Snapshot> snapshots)
    : StepSource(name, std::move(commit)), snapshots_(std::move(snapshots)) {}

Result<std::unique_ptr<ArenaSource>> ArenaSource::create(const std::string& name, Commit head,
                                                         std::vector<Snapshot> snapshots) {
  std::map<std::string, size_t> known;
  head.parts.clear();
  head.tensors.clear();
  for (uint32_t i = 0; i < snapshots.size(); ++i) {
    const Part& part = snapshots[i].part;
    CONVOY_RETURN_IF_ERROR(check(snapshots[i], head.step));
    CONVOY_RETURN_IF_ERROR(add_tensors(part, i, known, head));
    head.parts.push_back({"memory of node " + std::to_string(part.node), 0, 0, part.node});
  }
  return std::unique_ptr<ArenaSource>(new ArenaSource(name, std::move(head), std::move(snapshots)));
}

Result<Part> ArenaSource::load_part(uint32_t index) {
  return snapshots_[index].part;
}

void ArenaSource::read(std::span<ChunkRead> reads, const std::shared_ptr<const void>& /*owner*/) {
  for (ChunkRead& read : reads) {
    const Stream& stream = snapshots_[read.id.part].part.streams[read.id.stream];
    const uint64_t sum =
        copy_with_checksum(read.to, {view(read.id), stream.chunk_size(read.id.chunk)});
    read.status = compare(*this, read.id, stream, sum);
  }
}

const std::byte* ArenaSource::view(const ChunkId& id) const {
  const Snapshot& snapshot = snapshots_[id.part];
  return snapshot.streams[id.stream].data() +
         id.chunk * snapshot.part.streams[id.stream].chunk_bytes;
}

std::string ArenaSource::place(const ChunkId& id) const {
  const Part& part = snapshots_[id.part].part;
  const Stream& stream = part.streams[id.stream];
  return "memory of node " + std::to_string(part.node) + " at " +
         std::to_string(id.chunk * stream.chunk_bytes);
}

}  // namespace convoy::ckpt
