// Cuts a copy into batches of whole chunks and lets the pool's threads take them, one after the
// other, so that a thread whose core is busy with something else holds nobody up.
#include "ckpt/io/copy_checksum.h"
#include <convoy/base/check.h>
#include <convoy/ckpt/copy.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace convoy::ckpt {
namespace {

// Chunks that a thread takes at once: 2 MiB, one huge page.
constexpr size_t kBatchChunks = 8;
// Pieces of memory shorter than this are gathered in a block of this size first, so that the
// destination still gets whole lines.
constexpr size_t kGatherBytes = 4096;

// The sources as one row of bytes: walks from any offset.
class Gather {
 public:
  explicit Gather(std::span<const SourceRun> runs) : runs_(runs) {
    begins_.reserve(runs.size() + 1);
    size_t at = 0;
    for (const SourceRun& run : runs) {
      begins_.push_back(at);
      at += run.total_bytes();
    }
    begins_.push_back(at);
  }

  // Where a reader of the row stands.
  struct Cursor {
    size_t run = 0;
    size_t index = 0;   // which of the run's `count`
    size_t offset = 0;  // in it
  };

  Cursor at(size_t offset) const {
    // The last run that begins at or before `offset`: empty runs in front of it begin there too.
    const auto after = std::upper_bound(begins_.begin(), begins_.end() - 1, offset);
    Cursor c;
    c.run = static_cast<size_t>(after - begins_.begin()) - 1;
    const size_t in_run = offset - begins_[c.run];
    const size_t bytes = runs_[c.run].bytes;
    c.index = bytes == 0 ? 0 : in_run / bytes;
    c.offset = bytes == 0 ? 0 : in_run % bytes;
    return c;
  }

  // The longest piece at the cursor, at most `most` bytes; moves behind it.
  std::span<const std::byte> next(Cursor& c, size_t most) const {
    while (runs_[c.run].total_bytes() == 0) ++c.run;
    const SourceRun& run = runs_[c.run];
    const size_t n = std::min(most, run.bytes - c.offset);
    const std::byte* from = run.data + static_cast<ptrdiff_t>(c.index) * run.stride + c.offset;
    c.offset += n;
    if (c.offset == run.bytes) {
      c.offset = 0;
      if (++c.index == run.count) c = {c.run + 1, 0, 0};
    }
    return {from, n};
  }

 private:
  std::span<const SourceRun> runs_;
  std::vector<size_t> begins_;
};

const char* chars(const std::byte* p) {
  return reinterpret_cast<const char*>(p);
}

// Copies one chunk from the cursor on; returns its checksum.
uint64_t copy_chunk(const CopyKernel& kernel, const Gather& gather, Gather::Cursor& cursor,
                    std::span<std::byte> to) {
  HashState state;
  kernel.begin(state);
  auto* out = reinterpret_cast<char*>(to.data());
  size_t left = to.size();
  alignas(64) char block[kGatherBytes];
  while (left > 0) {
    std::span<const std::byte> piece = gather.next(cursor, left);
    // What goes straight from the source is whole blocks, so that `out` stays aligned.
    size_t straight = piece.size();
    if (straight < left) straight = straight / kGatherBytes * kGatherBytes;
    kernel.add(state, out, chars(piece.data()), straight);
    out += straight;
    left -= straight;
    piece = piece.subspan(straight);
    if (piece.empty()) continue;
    size_t filled = piece.size();
    std::memcpy(block, piece.data(), filled);
    const size_t fill = std::min(kGatherBytes, left);
    while (filled < fill) {
      piece = gather.next(cursor, fill - filled);
      std::memcpy(block + filled, piece.data(), piece.size());
      filled += piece.size();
    }
    kernel.add(state, out, block, fill);
    out += fill;
    left -= fill;
  }
  return kernel.digest(state);
}

Status check_sums(size_t bytes, size_t sums) {
  if (sums == chunk_count(bytes)) return ok_status();
  return {Code::kInvalidArgument, "a stream of " + std::to_string(bytes) + " bytes has " +
                                      std::to_string(chunk_count(bytes)) +
                                      " chunks, but there is room for " + std::to_string(sums) +
                                      " checksums"};
}

// The sum of the runs, or nothing if it doesn't fit into size_t.
Result<size_t> total(std::span<const SourceRun> runs) {
  size_t sum = 0;
  for (const SourceRun& run : runs) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(run.bytes, run.count, &bytes) ||
        __builtin_add_overflow(sum, bytes, &sum)) {
      return Status(Code::kInvalidArgument, "the runs to copy have more bytes than memory has");
    }
  }
  return sum;
}

}  // namespace

struct CopyPool::Impl {
  const CopyKernel& kernel = copy_kernel();
  std::mutex calls;  // one call at a time
  std::mutex mutex;
  std::condition_variable begin, end;
  uint64_t generation = 0;  // of work; changes when there is some
  size_t working = 0;       // workers that have not finished this generation
  bool stop = false;
  std::vector<std::thread> workers;

  // The work of this generation.
  const Gather* gather = nullptr;  // null: checksums only
  std::span<const std::byte> bytes;
  std::byte* to = nullptr;
  std::span<uint64_t> sums;
  std::atomic<size_t> next_chunk{0};

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stop = true;
    }
    begin.notify_all();
    for (std::thread& t : workers) t.join();
  }

  void work() {
    for (;;) {
      const size_t first = next_chunk.fetch_add(kBatchChunks, std::memory_order_relaxed);
      if (first >= sums.size()) break;
      const size_t last = std::min(first + kBatchChunks, sums.size());
      Gather::Cursor cursor;
      if (gather != nullptr) cursor = gather->at(first * kChunkBytes);
      for (size_t chunk = first; chunk < last; ++chunk) {
        const size_t offset = chunk * kChunkBytes;
        const auto piece = bytes.subspan(offset, std::min(kChunkBytes, bytes.size() - offset));
        sums[chunk] = gather != nullptr
                          ? copy_chunk(kernel, *gather, cursor, {to + offset, piece.size()})
                          : hash_chunk(piece);
      }
    }
    kernel.fence();
  }

  uint64_t hash_chunk(std::span<const std::byte> piece) const {
    HashState state;
    kernel.begin(state);
    kernel.add(state, nullptr, chars(piece.data()), piece.size());
    return kernel.digest(state);
  }

  void worker() {
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      begin.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      lock.unlock();
      work();
      lock.lock();
      if (--working == 0) end.notify_one();
    }
  }

  void run() {
    next_chunk.store(0, std::memory_order_relaxed);
    const bool alone = workers.empty() || sums.size() <= kBatchChunks;
    if (!alone) {
      {
        const std::lock_guard lock(mutex);
        working = workers.size();
        ++generation;
      }
      begin.notify_all();
    }
    work();
    if (alone) return;
    std::unique_lock lock(mutex);
    end.wait(lock, [&] { return working == 0; });
  }
};

CopyPool::CopyPool(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CopyPool::~CopyPool() = default;

Result<std::unique_ptr<CopyPool>> CopyPool::create(int threads) {
  if (threads < 1 || threads > kCopyThreadsMax) {
    return Status(Code::kInvalidArgument, "a copy by " + std::to_string(threads) +
                                              " threads; between 1 and " +
                                              std::to_string(kCopyThreadsMax) + " are possible");
  }
  auto impl = std::make_unique<Impl>();
  try {
    for (int i = 1; i < threads; ++i) {
      impl->workers.emplace_back([p = impl.get()] { p->worker(); });
    }
  } catch (const std::system_error& e) {
    return Status(Code::kResourceExhausted,
                  "cannot start thread " + std::to_string(impl->workers.size() + 1) + " of " +
                      std::to_string(threads) + " for copies: " + e.what() +
                      "; ask for fewer, or allow more with `ulimit -u`");
  }
  return std::unique_ptr<CopyPool>(new CopyPool(std::move(impl)));
}

Status CopyPool::copy(std::span<const SourceRun> from, std::span<std::byte> to,
                      std::span<uint64_t> checksums) {
  CONVOY_ASSIGN_OR_RETURN(const size_t bytes, total(from));
  if (bytes != to.size()) {
    return {Code::kInvalidArgument, "the runs to copy have " + std::to_string(bytes) +
                                        " bytes, the destination " + std::to_string(to.size())};
  }
  CONVOY_RETURN_IF_ERROR(check_sums(bytes, checksums.size()));
  const Gather gather(from);
  const std::lock_guard one(impl_->calls);
  impl_->gather = &gather;
  impl_->bytes = to;
  impl_->to = to.data();
  impl_->sums = checksums;
  impl_->run();
  return ok_status();
}

Status CopyPool::checksum(std::span<const std::byte> bytes, std::span<uint64_t> checksums) {
  CONVOY_RETURN_IF_ERROR(check_sums(bytes.size(), checksums.size()));
  const std::lock_guard one(impl_->calls);
  impl_->gather = nullptr;
  impl_->bytes = bytes;
  impl_->to = nullptr;
  impl_->sums = checksums;
  impl_->run();
  return ok_status();
}

}  // namespace convoy::ckpt
