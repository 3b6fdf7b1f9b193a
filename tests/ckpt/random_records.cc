#include "tests/ckpt/random_records.h"

#include <algorithm>
#include <array>

namespace convoy::ckpt {
namespace {

uint64_t below(std::mt19937& random, uint64_t end) {
  return std::uniform_int_distribution<uint64_t>(0, end - 1)(random);
}

// Small and huge numbers alike.
uint64_t number(std::mt19937& random) {
  const uint64_t value = (uint64_t{random()} << 32) | random();
  return value >> below(random, 64);
}

std::string word(std::mt19937& random) {
  std::string text;
  for (uint64_t i = 0; i < 1 + below(random, 12); ++i) {
    text += static_cast<char>(1 + below(random, 255));
  }
  std::ranges::replace(text, '/', '_');
  std::ranges::replace(text, '.', '_');
  return text;
}

TensorInfo tensor(std::mt19937& random, size_t i) {
  TensorInfo info{
      word(random) + "." + std::to_string(i), static_cast<Dtype>(1 + below(random, 18)), {}};
  const uint64_t dims = info.dtype == Dtype::kBytes ? 1 : below(random, 5);
  for (uint64_t d = 0; d < dims; ++d) {
    info.shape.push_back(static_cast<int64_t>(below(random, 10) == 0 ? 0 : 1 + below(random, 60)));
  }
  return info;
}

void add_pieces(std::mt19937& random, const Part& part, Stream& stream) {
  for (uint64_t n = below(random, 6); n > 0 && !part.tensors.empty(); --n) {
    StoredPiece piece;
    piece.tensor = static_cast<uint32_t>(below(random, part.tensors.size()));
    uint64_t bytes = dtype_bytes(part.tensors[piece.tensor].dtype);
    bool empty = false;
    for (const int64_t size : part.tensors[piece.tensor].shape) {
      empty = empty || size == 0;
      if (empty) break;
      piece.extent.push_back(1 + static_cast<int64_t>(below(random, static_cast<uint64_t>(size))));
      piece.begin.push_back(static_cast<int64_t>(
          below(random, static_cast<uint64_t>(size - piece.extent.back() + 1))));
      bytes *= static_cast<uint64_t>(piece.extent.back());
    }
    if (empty) continue;
    piece.offset = stream.bytes + (below(random, 3) == 0 ? below(random, 64) : 0);
    stream.bytes = piece.offset + bytes;
    stream.pieces.push_back(std::move(piece));
  }
  stream.bytes += below(random, 3) == 0 ? below(random, 100) : 0;
}

void add_chunks(std::mt19937& random, Part& part, Stream& stream) {
  const bool compressed = below(random, 2) == 0;
  const uint64_t chunks = (stream.bytes + stream.chunk_bytes - 1) / stream.chunk_bytes;
  for (uint64_t i = 0; i < chunks; ++i) {
    Chunk chunk;
    chunk.file = static_cast<uint32_t>(below(random, part.files.size()));
    if (i > 0 && below(random, 4) != 0) chunk.file = stream.chunks.back().file;
    File& file = part.files[chunk.file];
    chunk.offset = file.bytes + (below(random, 4) == 0 ? below(random, 5000) : 0);
    chunk.bytes = stream.chunk_size(i);
    if (compressed && chunk.bytes > 1 && below(random, 2) == 0) {
      chunk.codec = Codec::kZstd;
      chunk.bytes = 1 + static_cast<uint32_t>(below(random, chunk.bytes - 1));
    }
    file.bytes = chunk.offset + chunk.bytes;
    chunk.checksum = (uint64_t{random()} << 32) | random();
    stream.chunks.push_back(chunk);
  }
}

}  // namespace

Part random_part(std::mt19937& random) {
  Part part{number(random), static_cast<uint32_t>(random()), number(random), {}, {}, {}};
  for (uint64_t n = below(random, 8); n > 0; --n) part.tensors.push_back(tensor(random, n));
  for (uint64_t n = 1 + below(random, 3); n > 0; --n) {
    part.files.push_back({word(random) + "/" + word(random) + std::to_string(n), 0});
  }
  for (uint32_t rank = 0; rank < below(random, 4); ++rank) {
    Stream stream;
    stream.rank = rank * 7;
    stream.chunk_bytes = static_cast<uint32_t>(1000 + below(random, 100000));
    add_pieces(random, part, stream);
    add_chunks(random, part, stream);
    part.streams.push_back(std::move(stream));
  }
  return part;
}

Commit random_commit(std::mt19937& random) {
  Commit commit;
  commit.step = number(random);
  commit.job = word(random);
  commit.generation = number(random);
  commit.claim = number(random);
  commit.world_size = static_cast<uint32_t>(random());
  commit.mesh = word(random);
  commit.wall_ns = static_cast<int64_t>(number(random)) * (below(random, 2) == 0 ? 1 : -1);
  const auto parts = static_cast<uint32_t>(below(random, 20));
  for (uint32_t i = 0; i < parts; ++i) {
    commit.parts.push_back({"d/" + std::to_string(i), below(random, kRecordBytesMax),
                            number(random), static_cast<uint32_t>(random())});
  }
  for (uint64_t n = below(random, 8); n > 0; --n) {
    TensorEntry entry{tensor(random, n), {}};
    for (uint32_t at = static_cast<uint32_t>(below(random, 3)); at < parts;) {
      const auto count = static_cast<uint32_t>(1 + below(random, parts - at));
      entry.holders.push_back({at, count});
      at += count + 1 + static_cast<uint32_t>(below(random, 3));
    }
    commit.tensors.push_back(std::move(entry));
  }
  for (uint64_t n = below(random, 4); n > 0; --n) commit.notes[word(random)] = word(random);
  for (uint64_t n = below(random, 4); n > 0; --n) commit.steps.push_back(number(random));
  std::ranges::sort(commit.steps);
  commit.steps.erase(std::unique(commit.steps.begin(), commit.steps.end()), commit.steps.end());
  return commit;
}

Owner random_owner(std::mt19937& random) {
  Owner owner;
  owner.job = word(random);
  owner.generation = number(random);
  owner.claim = number(random);
  owner.who = word(random);
  owner.wall_ns = static_cast<int64_t>(number(random));
  owner.sealed = below(random, 2) == 0;
  owner.released = below(random, 2) == 0;
  for (uint64_t n = below(random, 5); n > 0; --n) {
    owner.inherited.push_back({number(random), number(random)});
  }
  return owner;
}

Part golden_part() {
  Part part{120, 1, 3, {}, {}, {}};
  part.tensors = {{"layer.weight", Dtype::kBFloat16, {8, 4}},
                  {"scale", Dtype::kFloat32, {}},
                  {"rng", Dtype::kBytes, {5}}};
  part.files = {{"data/s000000000120/c00000002-g3/n00001-000.chunks", 108},
                {"data/s000000000110/c00000002-g3/n00001-000.chunks", 64}};
  Stream stream{8, 109, 64, {}, {}};
  stream.pieces = {{0, {4, 0}, {4, 4}, 0}, {1, {}, {}, 32}, {2, {0}, {5}, 104}};
  stream.chunks = {{1, 0, 64, Codec::kRaw, 0x0123456789abcdef}, {0, 64, 44, Codec::kZstd, 2}};
  part.streams = {stream, Stream{9, 0, 64, {}, {}}};
  return part;
}

Commit golden_commit() {
  Commit commit;
  commit.step = 120;
  commit.job = "demo";
  commit.generation = 3;
  commit.claim = 2;
  commit.world_size = 16;
  commit.mesh = "tp=2,dp=8";
  commit.wall_ns = 1764110674000000000;
  commit.parts = {{"data/s000000000120/c00000002-g3/n00000.part", 300, 77, 0},
                  {"data/s000000000120/c00000002-g3/n00001.part", 301, 78, 1}};
  commit.tensors = {{{"layer.weight", Dtype::kBFloat16, {8, 4}}, {{0, 2}}},
                    {{"scale", Dtype::kFloat32, {}}, {{1, 1}}},
                    {{"empty", Dtype::kInt64, {0, 3}}, {}}};
  commit.notes = {{"loss", "2.5"}, {"model", "demo"}};
  commit.steps = {110, 120};
  return commit;
}

Owner golden_owner() {
  return {"demo", 3, 2, "host-a:4711", 1764110674000000000, true, {{100, 1}, {110, 1}}};
}

}  // namespace convoy::ckpt
