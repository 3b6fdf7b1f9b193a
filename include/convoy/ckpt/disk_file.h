#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

// The disk's fast path: large files written from front to back and read in ranges, many requests
// deep, past the page cache. Whole small files are base/atomic_file.h's; names, commit order and
// folders are the store's.
namespace convoy::ckpt {

class DiskCore;
class ReadTask;
class WriteTask;

// What O_DIRECT needs of offsets, and at most of memory that is to be written or read in place (the
// kernel may say that less will do).
inline constexpr size_t kDiskAlign = 4096;
inline constexpr unsigned kQueueDepthMax = 256;
inline constexpr size_t kBlockBytesMax = size_t{64} << 20;

struct DiskOptions {
  unsigned queue_depth = 8;              // requests in flight, 1 … kQueueDepthMax
  size_t block_bytes = size_t{4} << 20;  // of one request; whole kDiskAlign, ≤ kBlockBytesMax
  size_t bytes_in_flight_max = size_t{64} << 20;  // ≥ block_bytes
  bool force_threads = false;                     // no io_uring
  bool direct = true;                             // O_DIRECT where the file system takes it
  uint64_t bandwidth = 0;  // bytes/s of reads and writes together; 0: no limit
  Nanos stall_limit = std::chrono::seconds(60);  // for one request to be answered
};

// Bytes that are done so far. Called on the engine's thread: must be quick and not call the engine.
using DiskProgress = std::function<void(uint64_t bytes_done)>;

// A file that is being written. One thread at a time.
class DiskWriter {
 public:
  // Drops what is not written yet, as cancel() does.
  ~DiskWriter();

  // Queues `bytes` behind what was appended before; returns at once. The memory must stay as it is
  // until finish() or cancel() returns, and if that was kDeadlineExceeded, for as long as the
  // engine holds `owner`: the kernel may still read it. Memory that is aligned to kDiskAlign, at an
  // aligned offset of the file, is written from where it lies; other memory through a bounce block.
  // Extents that are queued: at most 2^20, then kResourceExhausted. An error that a former block
  // met comes back here.
  Status append(std::span<const std::byte> bytes, std::shared_ptr<const void> owner = nullptr);

  // Blocks until everything is written and, with `sync`, on the disk (fsync of the file; the
  // folder's is the store's, see DiskEngine::sync). Closes the file. No data has been lost only if
  // this is ok. Errors name path and offset: kResourceExhausted (no space, quota), kDataLoss (the
  // device failed), kDeadlineExceeded (a request was not answered within stall_limit). After an
  // error the file holds an undefined part of the data; remove it.
  Status finish(bool sync = true);

  // Drops what is queued, waits for what is in flight (at most stall_limit). The file stays, partly
  // written.
  void cancel();

  uint64_t bytes_appended() const;
  uint64_t bytes_written() const;
  const std::string& path() const;

 private:
  friend class DiskEngine;
  DiskWriter(std::shared_ptr<DiskCore> core, std::shared_ptr<WriteTask> task, uint64_t allocated);
  std::shared_ptr<DiskCore> core_;
  std::shared_ptr<WriteTask> task_;
  uint64_t allocated_ = 0;
  bool ended_ = false;
};

// `bytes` of a file from `offset` on, to `destination`.
struct ReadRange {
  uint64_t offset = 0;
  size_t bytes = 0;
  std::byte* destination = nullptr;
};

// A file that is being read. Reads from several threads are served side by side.
class DiskReader {
 public:
  ~DiskReader();

  // Of the file when it was opened.
  uint64_t size() const;
  const std::string& path() const;

  // Blocks until all ranges are there. Ranges may come in any order and overlap in the file, not in
  // memory; neighbours are read as one. Of what was not asked for, at most the rest of the first
  // and the last kDiskAlign of a range is read. kDataLoss if the file ends before a range does, or
  // the device failed; kDeadlineExceeded as above, and then `owner` is held until the kernel lets
  // go of the memory, which must not be freed before. After an error the destinations' content is
  // undefined.
  Status read(std::span<const ReadRange> ranges, std::shared_ptr<const void> owner = nullptr,
              DiskProgress progress = nullptr);

 private:
  friend class DiskEngine;
  struct State;
  explicit DiskReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Moves bytes between memory and files, for any number of files at once, which share its depth and
// bandwidth fairly. One thread of its own drives an io_uring; where there is none (old kernel,
// seccomp, kernel.io_uring_disabled: the log says which), queue_depth threads call pread and
// pwrite. Where a file system refuses O_DIRECT (tmpfs), its files are buffered. Interrupted, short
// and refused (EAGAIN) requests are resumed, at most 1,000 times without progress.
//
// Thread-safe. Memory: at most min(queue_depth × block_bytes, bytes_in_flight_max) of bounce
// blocks, made when first needed. A request that the kernel never answers costs its block (and,
// without io_uring, a thread) for as long as that lasts, and counts for nothing else: others go on.
// More than 64 of them: kUnavailable.
//
// Fault points: ckpt.io.{open,read,write,allocate,truncate,sync} fail with EIO; with ".kill"
// behind, the process dies there (SIGKILL); ckpt.io.{read,write}.short,
// ckpt.io.{allocate,write}.enospc.
class DiskEngine {
 public:
  // kInvalidArgument names the option that can't work.
  static Result<std::shared_ptr<DiskEngine>> create(const DiskOptions& options);
  static Result<std::shared_ptr<DiskEngine>> create() { return create(DiskOptions()); }
  DiskEngine(const DiskEngine&) = delete;
  DiskEngine& operator=(const DiskEngine&) = delete;
  // Writers and readers that are left fail with kFailedPrecondition. Waits for what is in flight,
  // but not for requests that have passed stall_limit: those are waited for in the background.
  ~DiskEngine();

  // A new file, or an old one from its beginning (truncated). `size_hint`: the size to come, if
  // known; room for it is reserved now, so that a full disk is found at once (kResourceExhausted).
  Result<std::unique_ptr<DiskWriter>> create_file(const std::string& path, uint64_t size_hint = 0,
                                                  DiskProgress progress = nullptr);
  // kNotFound names the path.
  Result<std::unique_ptr<DiskReader>> open_file(const std::string& path);
  // fsync of a file or folder by name, with stall_limit.
  Status sync(const std::string& path);

  // Pins memory (an arena) once instead of with each request. False if it could not be done (no
  // io_uring, RLIMIT_MEMLOCK; one log line): all works without it. `owner` is held until
  // forget_memory() or the end.
  bool register_memory(std::span<std::byte> memory, std::shared_ptr<const void> owner);
  void forget_memory(const std::byte* begin);

  // From now on; 0: no limit.
  void set_bandwidth(uint64_t bytes_per_second);
  // Whether an io_uring does the work.
  bool uses_io_uring() const;
  // Requests that have passed stall_limit and are still with the kernel.
  size_t requests_lost() const;

 private:
  friend Result<std::shared_ptr<DiskEngine>> make_disk_engine(const DiskOptions&,
                                                              const struct DiskTestParts&);
  explicit DiskEngine(std::shared_ptr<DiskCore> core);
  std::shared_ptr<DiskCore> core_;
};

}  // namespace convoy::ckpt
