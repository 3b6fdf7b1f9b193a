#pragma once

#include "tests/mesh/random_layout.h"
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/state.h>
#include <convoy/mesh/mesh.h>
#include <convoy/mesh/shard_spec.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// Steps with known content for the restore tests: global tensors, laid out over ranks by the slow
// rules of tests/mesh/random_layout.h, saved through a catalog.
namespace convoy::ckpt {

using mesh_test::pick;
using mesh_test::Random;

// A tensor as a whole: what every load is compared with.
struct Global {
  TensorInfo info;
  std::vector<std::byte> bytes;  // row-major
};

std::vector<std::byte> random_bytes(Random& random, size_t size);
// Random shape, dtype and content.
Global random_global(Random& random, const std::string& name);

// A rank's share, and the memory it lies in.
struct Local {
  State state;
  // By tensor: memory, and the global element of each local one.
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::vector<int64_t>> elements;
};

// One layout of all tensors: a mesh, and a spec each.
struct Layouts {
  Mesh mesh;
  std::vector<ShardSpec> specs;
};
Layouts random_layouts(Random& random, const std::vector<Global>& tensors, int max_ranks);
// The rank's share in its dense local tensors; filled with the content, or with 0xee.
Local local_of(const std::vector<Global>& tensors, const Layouts& layouts, int rank, bool filled);
// The first tensor whose local elements are not those of the global ones; empty: none.
std::string difference(const std::vector<Global>& tensors, const Local& local);

struct SaveOptions {
  uint32_t chunk_bytes = kChunkBytes;
  int ranks_per_node = 2;
  size_t skew = 0;              // bytes of nothing before each stream's first piece
  bool compress = false;        // where it makes a chunk shorter
  int files = 1;                // a node
  std::vector<Part> base = {};  // an older step's parts; equal chunks are referred to
};

// The streams of a step, as they would lie in arenas.
struct Streams {
  std::vector<Part> parts;                                 // by node; chunks have checksums only
  std::vector<std::vector<std::vector<std::byte>>> bytes;  // by node and stream
};
Streams streams_of(const std::vector<Local>& ranks, uint64_t step, const SaveOptions& options);

// Writes and commits the step; `parts` gets what was written.
Result<Commit> save_step(Catalog& catalog, Store& store, uint64_t step,
                         const std::vector<Local>& ranks, const SaveOptions& options,
                         std::vector<Part>* parts = nullptr);

// Counts what is read of data files.
class CountingStore final : public Store {
 public:
  explicit CountingStore(Store& inner) : inner_(inner) {}
  std::string name() const override { return inner_.name(); }
  Status put(const std::string& path, std::span<const std::byte> bytes) override {
    return inner_.put(path, bytes);
  }
  Status create_new(const std::string& path, std::span<const std::byte> bytes) override {
    return inner_.create_new(path, bytes);
  }
  Result<std::unique_ptr<StoreWriter>> open_writer(const std::string& path) override {
    return inner_.open_writer(path);
  }
  Result<std::vector<std::byte>> get(const std::string& path, uint64_t most) override {
    return inner_.get(path, most);
  }
  Status read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) override {
    bytes_ += out.size();
    calls_ += 1;
    return inner_.read_at(path, offset, out);
  }
  Result<std::vector<StoreEntry>> list(const std::string& prefix) override {
    return inner_.list(prefix);
  }
  Status remove(const std::string& path) override { return inner_.remove(path); }
  Status sync() override { return inner_.sync(); }

  uint64_t bytes() const { return bytes_; }
  uint64_t calls() const { return calls_; }

 private:
  Store& inner_;
  std::atomic<uint64_t> bytes_{0}, calls_{0};
};

}  // namespace convoy::ckpt
