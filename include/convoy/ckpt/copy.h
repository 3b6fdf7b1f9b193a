#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/records.h>
#include <convoy/mesh/transfer.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

// Copies memory into a snapshot's arena and takes the checksums of its chunks in the same pass.
namespace convoy::ckpt {

// Threads of one CopyPool at most; more are refused.
inline constexpr int kCopyThreadsMax = 64;

// Memory to copy from: `count` runs of `bytes`, run i at data + i·stride. A plain span has count 1,
// where the stride means nothing.
struct SourceRun {
  const std::byte* data = nullptr;
  size_t bytes = 0;
  size_t count = 1;
  ptrdiff_t stride = 0;

  size_t total_bytes() const { return bytes * count; }
};

// What transfer `t` reads from the tensor at `src`.
inline SourceRun source_run(const Transfer& t, const std::byte* src) {
  return {src + t.src_offset, static_cast<size_t>(t.bytes), static_cast<size_t>(t.count),
          static_cast<ptrdiff_t>(t.src_stride)};
}

// How many checksums a stream of `bytes` has.
constexpr size_t chunk_count(size_t bytes) {
  return (bytes + kChunkBytes - 1) / kChunkBytes;
}

// A few threads that copy. Owned by whoever saves; its threads sleep between calls. Calls are
// served one after the other, from any thread; the calling thread works too. They block for as
// long as the bytes take: nothing here waits for a disk or another process.
class CopyPool {
 public:
  // `threads` in 1 … kCopyThreadsMax, the calling one included; else kInvalidArgument.
  // kResourceExhausted if the system gives no thread.
  static Result<std::unique_ptr<CopyPool>> create(int threads);
  ~CopyPool();

  // Writes the runs of `from`, one behind the other, to `to`, and XXH3-64 of each chunk of `to` to
  // `checksums` (chunk_count of them). The stores go past the caches, so that the trainer's working
  // set stays there: `to` should be aligned to 64 bytes (else slower), touched, and must not
  // overlap the sources. Neither bytes nor checksums depend on the number of threads. The bytes are
  // visible to other threads and processes when the call returns. Sizes that don't fit together:
  // kInvalidArgument, and nothing is written.
  Status copy(std::span<const SourceRun> from, std::span<std::byte> to,
              std::span<uint64_t> checksums);

  // The checksums alone, of bytes that lie there: what a reader compares.
  Status checksum(std::span<const std::byte> bytes, std::span<uint64_t> checksums);

 private:
  struct Impl;
  explicit CopyPool(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::ckpt
