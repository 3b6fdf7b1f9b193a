// Sizes and times of checkpoint records of a large job, without one: the real parts of every node
// go through the real encoder, decoder and CommitBuilder, one at a time. Prints one JSON line a
// figure.
//
//   ckpt_records [NODES [STREAM_GIB]]
//
// 8 ranks a node, 10 pipeline stages of 125 nodes, 300 tensors on each rank (3,000 in all), each
// cut along its first dimension over the 1,000 ranks of its stage, plus each rank's own random
// state.
#include <convoy/base/checksum.h>
#include <convoy/ckpt/catalog.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace convoy::ckpt {
namespace {

constexpr uint32_t kRanksPerNode = 8;
constexpr uint32_t kStages = 10;
constexpr uint32_t kTensorsPerRank = 300;
constexpr uint64_t kGiB = uint64_t{1} << 30;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string file_name(uint32_t node, const char* rest) {
  char text[96];
  std::snprintf(text, sizeof(text), "data/s000000000120/c00000001-g1/n%05u%s", node, rest);
  return text;
}

// Each rank's stream has `bytes` in its 300 tensors; chunks lie in a row in the node's one file.
Part make_part(uint32_t node, uint32_t nodes, uint64_t bytes) {
  const uint32_t nodes_per_stage = nodes / kStages;
  const uint32_t stage = node / nodes_per_stage;
  const int64_t ranks = int64_t{nodes_per_stage} * kRanksPerNode;
  const int64_t columns = 1024;  // float32
  const auto rows = static_cast<int64_t>(bytes / kTensorsPerRank / (columns * 4));
  Part part{120, node, 1, {}, {{file_name(node, "-000.chunks"), 0}}, {}};
  for (uint32_t t = 0; t < kTensorsPerRank; ++t) {
    part.tensors.push_back({"model.layers." + std::to_string(stage * 10 + t / 30) +
                                ".self_attention.linear_" + std::to_string(t % 30) + ".weight",
                            Dtype::kFloat32,
                            {rows * ranks, columns}});
  }
  for (uint32_t r = 0; r < kRanksPerNode; ++r) {
    const int64_t in_stage = int64_t{node % nodes_per_stage} * kRanksPerNode + r;
    part.tensors.push_back(
        {"rng." + std::to_string(node * kRanksPerNode + r), Dtype::kBytes, {5000}});
    Stream stream{node * kRanksPerNode + r, 0, kChunkBytes, {}, {}};
    for (uint32_t t = 0; t < kTensorsPerRank; ++t) {
      stream.pieces.push_back({t, {rows * in_stage, 0}, {rows, columns}, stream.bytes});
      stream.bytes += static_cast<uint64_t>(rows * columns * 4);
    }
    stream.pieces.push_back({kTensorsPerRank + r, {0}, {5000}, stream.bytes});
    stream.bytes += 5000;
    for (uint64_t begin = 0; begin < stream.bytes; begin += kChunkBytes) {
      const uint32_t size = stream.chunk_size(begin / kChunkBytes);
      stream.chunks.push_back(
          {0, part.files[0].bytes, size, Codec::kRaw, begin * 0x9e3779b97f4a7c15});
      part.files[0].bytes += size;
    }
    part.streams.push_back(std::move(stream));
  }
  return part;
}

void print(const std::string& label, const char* metric, double value, const char* unit) {
  std::printf(
      "{\"bench\":\"ckpt.records\",\"case\":\"%s\",\"metric\":\"%s\",\"value\":%.6g,\"unit\":\"%"
      "s\"}\n",
      label.c_str(), metric, value, unit);
}

int run(uint32_t nodes, double gib) {
  const std::string label = std::to_string(nodes * kRanksPerNode) + " ranks";
  Commit head;
  head.step = 120;
  head.world_size = nodes * kRanksPerNode;
  head.mesh = "tp=8,dp=125,pp=10";
  CommitBuilder builder(head);
  double encode_s = 0;
  double add_s = 0;
  double decode_s = 0;
  uint64_t part_bytes = 0;
  uint64_t chunks = 0;
  uint64_t pieces = 0;
  for (uint32_t node = 0; node < nodes; ++node) {
    const Part part =
        make_part(node, nodes, static_cast<uint64_t>(gib * static_cast<double>(kGiB)));
    auto start = std::chrono::steady_clock::now();
    const auto bytes = encode(part).value();
    encode_s += seconds_since(start);
    const PartRef ref{file_name(node, ".part"), bytes.size(), xxh3(bytes), node};
    start = std::chrono::steady_clock::now();
    if (!(decode_part(bytes, ref.path).value() == part)) return 1;
    decode_s += seconds_since(start);
    start = std::chrono::steady_clock::now();
    if (!builder.add(ref, part).ok()) return 1;
    add_s += seconds_since(start);
    part_bytes += bytes.size();
    for (const Stream& stream : part.streams) {
      chunks += stream.chunks.size();
      pieces += stream.pieces.size();
    }
  }
  auto start = std::chrono::steady_clock::now();
  const Commit commit = std::move(builder).finish();
  add_s += seconds_since(start);
  start = std::chrono::steady_clock::now();
  const auto bytes = encode(commit).value();
  print(label, "commit_encode_s", seconds_since(start), "s");
  start = std::chrono::steady_clock::now();
  if (!(decode_commit(bytes, "commit").value() == commit)) return 1;
  print(label, "commit_decode_s", seconds_since(start), "s");
  print(label, "commit_bytes", static_cast<double>(bytes.size()), "B");
  print(label, "commit_tensors", static_cast<double>(commit.tensors.size()), "");
  print(label, "part_bytes", static_cast<double>(part_bytes) / nodes, "B");
  print(label, "parts_total_bytes", static_cast<double>(part_bytes), "B");
  print(label, "chunks", static_cast<double>(chunks), "");
  print(label, "pieces", static_cast<double>(pieces), "");
  print(label, "part_encode_s", encode_s / nodes, "s");
  print(label, "part_decode_s", decode_s / nodes, "s");
  print(label, "builder_s", add_s, "s");
  return 0;
}

}  // namespace
}  // namespace convoy::ckpt

int main(int argc, char** argv) {
  const auto nodes = static_cast<uint32_t>(argc > 1 ? std::atoi(argv[1]) : 1250);
  const double gib = argc > 2 ? std::atof(argv[2]) : 1.5;
  if (nodes < 10 || nodes % 10 != 0 || gib <= 0.01) return 64;
  return convoy::ckpt::run(nodes, gib);
}
