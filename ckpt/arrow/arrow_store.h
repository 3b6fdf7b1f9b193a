#pragma once

#include "ckpt/arrow/bounded_executor.h"
#include "ckpt/arrow/s3_requests.h"
#include "ckpt/io/token_bucket.h"
#include <convoy/ckpt/store.h>

#include <arrow/filesystem/filesystem.h>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace convoy::ckpt {

// What file systems differ in.
struct FileSystemTraits {
  bool whole = false;         // a file appears when it is closed, in place of the old one
  bool moves = false;         // else: written under a hidden name, which is then moved
  bool move_refuses = false;  // a move onto a file that exists fails
  bool folders = false;       // have to be made before a file is
};

// A Store on one of Arrow's file systems. Every call of Arrow runs on a thread of its own with a
// deadline (bounded_call.h).
class ArrowStore final : public Store {
 public:
  // `root`: the folder, as the file system names it. `s3`: for what Arrow can't do there; null on
  // other file systems.
  ArrowStore(std::shared_ptr<arrow::fs::FileSystem> fs, std::string root, std::string name,
             FileSystemTraits traits, StoreOptions options, std::unique_ptr<S3Requests> s3,
             std::shared_ptr<BoundedExecutor> executor);
  ~ArrowStore() override;
  ArrowStore(const ArrowStore&) = delete;
  ArrowStore& operator=(const ArrowStore&) = delete;

  std::string name() const override { return name_; }
  Status put(const std::string& path, std::span<const std::byte> bytes) override;
  Status create_new(const std::string& path, std::span<const std::byte> bytes) override;
  Result<std::unique_ptr<StoreWriter>> open_writer(const std::string& path) override;
  Result<std::vector<std::byte>> get(const std::string& path, uint64_t most) override;
  Status read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) override;
  Result<std::vector<StoreEntry>> list(const std::string& prefix) override;
  Status remove(const std::string& path) override;
  Status sync() override { return ok_status(); }
  Result<uint64_t> drop_unfinished(
      const std::function<bool(const std::string& path)>& which) override;

  // For writers and the tests of others; any thread.
  using Stream = std::shared_ptr<arrow::io::OutputStream>;
  using Buffer = std::shared_ptr<arrow::Buffer>;
  // Where a file is written until it has its name: the name itself, or a hidden neighbour.
  std::string working_path(const std::string& path) const;
  Status open_stream(const std::string& path, const std::string& working, Stream& stream);
  Status write(const std::string& path, const Stream& stream, Buffer bytes);
  Status close(const std::string& path, const std::string& working, const Stream& stream);
  // Never fails: what can't be dropped now is left for drop_unfinished(). `large`: it may be an
  // upload in parts.
  void abort(const std::string& path, const std::string& working, const Stream& stream, bool large);

 private:
  std::string full(const std::string& path) const { return root_ + "/" + path; }
  std::string shown(const std::string& path) const { return name_ + "/" + path; }
  std::string key(const std::string& path) const;
  Status map(const std::string& what, const arrow::Status& status) const;
  Status late(const std::string& what) const;
  Status run(const std::string& what, std::function<arrow::Status()> work);
  Result<std::vector<std::byte>> read(const std::string& what, const std::string& path,
                                      uint64_t offset, uint64_t most, uint64_t& size);
  Result<uint64_t> drop_uploads(const std::string& prefix,
                                const std::function<bool(const std::string&)>& which);
  Status probe_conditions();
  Status create_on_condition(const std::string& path, std::span<const std::byte> bytes);
  Status create_and_settle(const std::string& path, std::span<const std::byte> bytes);
  Status create_by_move(const std::string& path, std::span<const std::byte> bytes);
  Status compare(const std::string& path, std::span<const std::byte> bytes);
  void pace(uint64_t bytes);

  const std::shared_ptr<arrow::fs::FileSystem> fs_;  // also of calls that were given up
  const std::string root_;
  const std::string name_;
  const FileSystemTraits traits_;
  const StoreOptions options_;
  const std::unique_ptr<S3Requests> s3_;
  const std::shared_ptr<BoundedExecutor> executor_;  // kept for ever by open_arrow.cc
  enum class Conditions { kUnknown, kKept, kIgnored };
  std::mutex conditions_mutex_;
  Conditions conditions_ = Conditions::kUnknown;  // guarded by conditions_mutex_
  std::mutex settling_;                           // one create_and_settle() at a time
  std::mutex pace_mutex_;
  TokenBucket bucket_;  // guarded by pace_mutex_
};

// See plugin.h.
Result<std::unique_ptr<Store>> make_arrow_store(const std::string& uri,
                                                const StoreOptions& options);

}  // namespace convoy::ckpt
