#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// A folder of a checkpoint's files: on a disk, in memory, in an object store.
namespace convoy::ckpt {

// A large file that is written from front to back. It has no name until finish(), and nobody sees
// a part of it. One thread at a time; calls may block. Must not outlive its store.
class StoreWriter {
 public:
  // An unfinished file is abandoned.
  virtual ~StoreWriter() = default;
  // After a failure the writer can only be abandoned.
  virtual Status append(std::span<const std::byte> bytes) = 0;
  // As Store::put(). Once only.
  virtual Status finish() = 0;
  // Drops what was written; finish() can no longer be called.
  virtual void abandon() = 0;
};

struct StoreEntry {
  std::string path;
  uint64_t bytes = 0;

  bool operator==(const StoreEntry&) const = default;
};

// A folder with the promises on which commits rest. Nothing here needs rename or append, so that
// an object store can keep them too: put() is its PUT, create_new() its conditional PUT, a writer
// its multi-part upload.
//
// Paths are as check_path() (records.h) demands, else kInvalidArgument; folders come and go with
// their files. Thread-safe. Every call may block on a disk or a network; a store that stops
// answering gives kDeadlineExceeded or kUnavailable. A full disk or quota is kResourceExhausted, a
// folder that can't be written kInvalidArgument, a medium that can't be read kDataLoss. Messages
// name the whole path.
class Store {
 public:
  virtual ~Store() = default;
  // For messages: "/mnt/checkpoints".
  virtual std::string name() const = 0;

  // The file appears whole and durable, in place of one that was there. After a failure the old or
  // the new file is there, whole; which of them only get() tells.
  virtual Status put(const std::string& path, std::span<const std::byte> bytes) = 0;
  // The same, but kAlreadyExists if the name is taken; of two at once exactly one succeeds.
  virtual Status create_new(const std::string& path, std::span<const std::byte> bytes) = 0;
  virtual Result<std::unique_ptr<StoreWriter>> open_writer(const std::string& path) = 0;

  // A whole file of at most `most` bytes; kNotFound, or kDataLoss if it is larger.
  virtual Result<std::vector<std::byte>> get(const std::string& path, uint64_t most) = 0;
  // Fills `out` from `offset`. kNotFound, or kDataLoss if the file ends before.
  virtual Status read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) = 0;
  // All files whose path begins with `prefix` (empty: all), ascending by path. Links and what
  // check_path() refuses are left out. Sees every operation that returned before the call.
  virtual Result<std::vector<StoreEntry>> list(const std::string& prefix) = 0;

  // Ok if there is no such file. Durable only after sync(): until then a crash may bring any of
  // the removed files back.
  virtual Status remove(const std::string& path) = 0;
  virtual Status sync() = 0;

  // Drops what writers that were cut off (killed) have left of files which `which` names, where the
  // store keeps such things and bills for them: unfinished multi-part uploads. Returns how many. A
  // writer of such a file that still runs can't finish.
  virtual Result<uint64_t> drop_unfinished(
      const std::function<bool(const std::string& path)>& which) {
    (void)which;
    return uint64_t{0};
  }
};

// A folder of this machine (or a mounted one). Files are written without a name (O_TMPFILE; where
// that is missing, as a hidden neighbour), synced, linked, and their folders synced up to the root.
// No link is followed inside of the folder, so no path leads out of it; the root itself may be one.
// kNotFound if the folder is not there, kInvalidArgument if it is none. Hidden files (names that
// begin with a dot) are neither listed nor touched.
Result<std::unique_ptr<Store>> open_local_store(const std::string& folder);

struct StoreOptions {
  Nanos timeout = std::chrono::minutes(2);       // for one call, with all its tries
  Nanos stall_limit = std::chrono::seconds(20);  // for a request to move a byte; whole seconds
  int tries_max = 8;                             // of a request, where a failure may be transient
  uint64_t bandwidth = 0;                        // bytes/s that are written; 0: no limit
  // How long a store that can't create on condition waits to see who was the last: longer than any
  // single request of another claimant takes. docs/checkpoints.md says which stores these are.
  Nanos settle = std::chrono::seconds(5);
};

// Whether the text is a URI, "scheme://…", and not a path.
bool is_store_uri(std::string_view where);

// A folder by its path or URI. A path and "file:///…" give open_local_store(); the others are
// Arrow's file systems: "s3://bucket/prefix", "gs://…", "abfs://…", "hdfs://…", with Arrow's
// options behind a question mark ("?region=…", "?endpoint_override=host:port&scheme=http").
// Credentials come from the environment as the store's own tools find them; if they stand in the
// URI, they are left out of name() and of messages.
//
// Their libraries are loaded when the first one is opened. kInvalidArgument: they are not there
// (what to install, where it was looked for), a URI that can't be, credentials that don't work.
// kNotFound: there is no such bucket or folder. A failure that may be transient (throttling, a
// server's error, a connection that is cut) is tried again with growing, random pauses; the last
// one is kUnavailable, with the store's words. kDeadlineExceeded: no answer within options.timeout.
//
// Memory: some 60 MiB for all writers of a store together, 10 MiB for each of them, and what reads
// ask for once more.
Result<std::unique_ptr<Store>> open_store(const std::string& where,
                                          const StoreOptions& options = StoreOptions());

// Files in this process's memory; for tests, and as the model of what a store does.
class MemoryStore final : public Store {
 public:
  std::string name() const override { return "memory"; }
  Status put(const std::string& path, std::span<const std::byte> bytes) override;
  Status create_new(const std::string& path, std::span<const std::byte> bytes) override;
  Result<std::unique_ptr<StoreWriter>> open_writer(const std::string& path) override;
  Result<std::vector<std::byte>> get(const std::string& path, uint64_t most) override;
  Status read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) override;
  Result<std::vector<StoreEntry>> list(const std::string& prefix) override;
  Status remove(const std::string& path) override;
  Status sync() override { return ok_status(); }

 private:
  std::mutex mutex_;
  std::map<std::string, std::vector<std::byte>> files_;  // guarded by mutex_
};

}  // namespace convoy::ckpt
