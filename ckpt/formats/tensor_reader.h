#pragma once

#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

// Whole tensors of a committed step in row-major order, window by window, for tools: one thread,
// one store, bounded memory. (Loading into a job's own layout is restore's.)
namespace convoy::ckpt {

// What one reader keeps in memory at most, beside one window: encoded parts (their values take a
// small multiple) and raw chunks. One part or chunk more while it is being read.
inline constexpr uint64_t kPartCacheBytes = uint64_t{256} << 20;
inline constexpr uint64_t kChunkCacheBytes = uint64_t{128} << 20;
inline constexpr uint64_t kWindowBytes = uint64_t{16} << 20;

int64_t tensor_elements(const TensorInfo& tensor);
uint64_t tensor_bytes(const TensorInfo& tensor);

// Calls `visit(piece element, tensor element, count)` for each dense run of elements that the box
// [begin, begin + extent) shares with elements [from, to) of the row-major tensor, ascending.
void for_each_run(const std::vector<int64_t>& shape, const std::vector<int64_t>& begin,
                  const std::vector<int64_t>& extent, int64_t from, int64_t to,
                  const std::function<void(int64_t, int64_t, int64_t)>& visit);

class TensorReader {
 public:
  // Both must outlive the reader.
  TensorReader(Store& store, const Commit& commit) : store_(store), commit_(commit) {}

  // Elements [first, first + out.size() / element) of the tensor, checksums verified. Where several
  // ranks gave an element, any whole copy will do. kDataLoss names the tensor: a chunk is bad, or
  // no rank gave an element. Fastest when called front to back.
  Status read(const TensorEntry& tensor, int64_t first, std::span<std::byte> out);

  // A piece of a tensor, in which part and stream.
  struct Held {
    std::shared_ptr<const Part> part;
    const PartRef* ref = nullptr;
    const Stream* stream = nullptr;
    const StoredPiece* piece = nullptr;
  };
  // All pieces of the tensor; kDataLoss if a part can't be read. Parts stay in memory with them.
  Result<std::vector<Held>> pieces(const TensorEntry& tensor);

 private:
  using ChunkKey = std::tuple<const PartRef*, uint32_t, uint64_t>;  // part, rank, chunk
  struct Cached {
    std::vector<std::byte> bytes;
    std::list<ChunkKey>::iterator age;
  };
  struct Window;

  Result<std::shared_ptr<const Part>> part(const PartRef& ref);
  std::vector<Held> find(const TensorEntry& tensor, Status& lost);
  Result<std::span<const std::byte>> chunk(const Held& held, uint64_t i);
  Status copy(const Held& held, uint64_t at, std::span<std::byte> out);
  void add_piece(const Held& held, Window& window);
  void use(const TensorEntry& tensor);

  Store& store_;
  const Commit& commit_;
  std::list<std::pair<const PartRef*, std::shared_ptr<const Part>>> parts_;  // newest first
  uint64_t parts_bytes_ = 0;                                                 // encoded
  std::map<ChunkKey, Cached> chunks_;
  std::list<ChunkKey> ages_;           // newest first
  std::span<const std::byte> newest_;  // of ages_.front(): runs of a box are often neighbours
  uint64_t chunks_bytes_ = 0;
  std::map<ChunkKey, Status> bad_;  // chunks that could not be read
  // Of the tensor that was read last.
  const TensorEntry* tensor_ = nullptr;
  std::vector<Held> held_;
  Status lost_part_;
};

}  // namespace convoy::ckpt
