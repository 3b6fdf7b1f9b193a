// Files on Arrow's file systems: whole reads, ranges, lists, removal. Writing is arrow_write.cc's.
#include "ckpt/arrow/arrow_store.h"

#include "ckpt/arrow/bounded_call.h"
#include <convoy/ckpt/records.h>

#include <algorithm>
#include <arrow/io/interfaces.h>
#include <arrow/result.h>
#include <arrow/util/io_util.h>
#include <cerrno>
#include <cstring>

namespace convoy::ckpt {
namespace {

using Bytes = std::vector<std::byte>;
constexpr std::chrono::milliseconds kIdleMax(2000);  // of a store that ends

// Of a file system other than S3 (S3Requests).
arrow::Result<Bytes> read_range(arrow::fs::FileSystem& fs, const std::string& path, uint64_t offset,
                                uint64_t most, uint64_t& size) {
  ARROW_ASSIGN_OR_RAISE(const auto file, fs.OpenInputFile(path));
  ARROW_ASSIGN_OR_RAISE(const int64_t length, file->GetSize());
  size = static_cast<uint64_t>(length);
  if (offset >= size) return Bytes();
  Bytes bytes(std::min(most, size - offset));
  ARROW_ASSIGN_OR_RAISE(
      const int64_t got,
      file->ReadAt(static_cast<int64_t>(offset), static_cast<int64_t>(bytes.size()), bytes.data()));
  bytes.resize(static_cast<size_t>(got));
  return bytes;
}

}  // namespace

ArrowStore::ArrowStore(std::shared_ptr<arrow::fs::FileSystem> fs, std::string root,
                       std::string name, FileSystemTraits traits, StoreOptions options,
                       std::unique_ptr<S3Requests> s3, std::shared_ptr<BoundedExecutor> executor)
    : fs_(std::move(fs)),
      root_(std::move(root)),
      name_(std::move(name)),
      traits_(traits),
      options_(options),
      s3_(std::move(s3)),
      executor_(std::move(executor)) {}

ArrowStore::~ArrowStore() {
  executor_->wait_idle(kIdleMax);
}

// In the bucket.
std::string ArrowStore::key(const std::string& path) const {
  const std::string whole = path.empty() ? root_ + "/" : full(path);
  return whole.substr(whole.find('/') + 1);
}

Status ArrowStore::map(const std::string& what, const arrow::Status& status) const {
  if (status.ok()) return ok_status();
  if (arrow::internal::ErrnoFromStatus(status) == ENOENT) {
    return {Code::kNotFound, what + ": " + status.message()};
  }
  if (status.IsOutOfMemory()) return {Code::kResourceExhausted, what + ": " + status.message()};
  if (status.IsInvalid() || status.IsNotImplemented()) {
    return {Code::kInvalidArgument, what + ": " + status.message()};
  }
  const Status words = s3_status(what, status.message());
  const int error = arrow::internal::ErrnoFromStatus(status);
  if (words.code() == Code::kUnavailable && error != 0) {
    return {errno_status("", error).code(), words.message()};
  }
  return words;
}

Status ArrowStore::late(const std::string& what) const {
  if (calls_lost() >= kCallsLostMax) {
    return {Code::kUnavailable,
            what + ": " + std::to_string(kCallsLostMax) + " earlier calls were never answered"};
  }
  const auto seconds = std::chrono::duration_cast<std::chrono::milliseconds>(options_.timeout);
  return {Code::kDeadlineExceeded,
          what + ": the store did not answer within " + std::to_string(seconds.count()) + " ms"};
}

Status ArrowStore::run(const std::string& what, std::function<arrow::Status()> work) {
  const auto status = bounded_call<arrow::Status>(options_.timeout, std::move(work));
  return status ? map(what, *status) : late(what);
}

// Into memory of its own: after the deadline nobody may write to the caller's.
Result<Bytes> ArrowStore::read(const std::string& what, const std::string& path, uint64_t offset,
                               uint64_t most, uint64_t& size) {
  struct Read {
    uint64_t size = 0;
    arrow::Result<Bytes> bytes = Bytes();
  };
  auto done = bounded_call<Read>(options_.timeout, [fs = fs_, at = full(path), offset, most] {
    Read out;
    out.bytes = read_range(*fs, at, offset, most, out.size);
    return out;
  });
  if (!done) return late(what);
  size = done->size;
  if (!done->bytes.ok()) return map(what, done->bytes.status());
  return std::move(done->bytes).ValueUnsafe();
}

Result<Bytes> ArrowStore::get(const std::string& path, uint64_t most) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  if (s3_ != nullptr) {
    Result<Bytes> bytes = s3_->get(key(path), most);
    return bytes.ok() ? std::move(bytes) : bytes.status().with_context(shown(path));
  }
  uint64_t size = 0;
  CONVOY_ASSIGN_OR_RETURN(Bytes bytes, read("cannot read " + shown(path), path, 0, most, size));
  if (size <= most) return bytes;
  return Status(Code::kDataLoss, shown(path) + " has " + std::to_string(size) +
                                     " bytes, more than the " + std::to_string(most) +
                                     " that it may have.");
}

Status ArrowStore::read_at(const std::string& path, uint64_t offset, std::span<std::byte> out) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  if (out.empty()) return ok_status();
  if (s3_ != nullptr) return s3_->read_at(key(path), offset, out).with_context(shown(path));
  uint64_t size = 0;
  CONVOY_ASSIGN_OR_RETURN(const Bytes bytes,
                          read("cannot read " + shown(path) + " at " + std::to_string(offset), path,
                               offset, out.size(), size));
  if (bytes.size() < out.size()) {
    return {Code::kDataLoss, shown(path) + " is truncated: it has " + std::to_string(size) +
                                 " bytes, but " + std::to_string(out.size()) + " at " +
                                 std::to_string(offset) + " were asked for."};
  }
  std::memcpy(out.data(), bytes.data(), out.size());
  return ok_status();
}

Result<std::vector<StoreEntry>> ArrowStore::list(const std::string& prefix) {
  const size_t slash = prefix.rfind('/');
  arrow::fs::FileSelector selector;
  selector.base_dir = slash == std::string::npos ? root_ : full(prefix.substr(0, slash));
  selector.allow_not_found = true;
  selector.recursive = true;
  auto found = bounded_call<arrow::Result<arrow::fs::FileInfoVector>>(
      options_.timeout, [fs = fs_, selector] { return fs->GetFileInfo(selector); });
  const std::string what = "cannot list " + shown(prefix);
  if (!found) return late(what);
  if (!found->ok()) return map(what, found->status());
  std::vector<StoreEntry> entries;
  for (const arrow::fs::FileInfo& info : **found) {
    if (!info.IsFile() || !info.path().starts_with(root_ + "/")) continue;
    const std::string path = info.path().substr(root_.size() + 1);
    const bool hidden = path.starts_with(".") || path.find("/.") != std::string::npos;
    if (hidden || !path.starts_with(prefix) || !check_path(path).ok()) continue;
    entries.push_back({path, static_cast<uint64_t>(std::max<int64_t>(0, info.size()))});
  }
  std::ranges::sort(entries, {}, &StoreEntry::path);
  return entries;
}

Status ArrowStore::remove(const std::string& path) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  if (s3_ != nullptr) return s3_->remove(key(path)).with_context(name_);
  const Status status =
      run("cannot remove " + shown(path), [fs = fs_, at = full(path)]() -> arrow::Status {
        ARROW_ASSIGN_OR_RAISE(const arrow::fs::FileInfo info, fs->GetFileInfo(at));
        if (info.type() == arrow::fs::FileType::NotFound) return arrow::Status::OK();
        return fs->DeleteFile(at);
      });
  return status.code() == Code::kNotFound ? ok_status() : status;
}

Result<uint64_t> ArrowStore::drop_uploads(const std::string& prefix,
                                          const std::function<bool(const std::string&)>& which) {
  const size_t root = key("").size();
  CONVOY_ASSIGN_OR_RETURN(const std::vector<S3Upload> uploads, s3_->uploads(prefix));
  uint64_t dropped = 0;
  for (const S3Upload& upload : uploads) {
    if (!which(upload.key.substr(root))) continue;
    CONVOY_RETURN_IF_ERROR(s3_->abort(upload));
    ++dropped;
  }
  return dropped;
}

Result<uint64_t> ArrowStore::drop_unfinished(
    const std::function<bool(const std::string& path)>& which) {
  if (s3_ == nullptr) return uint64_t{0};
  return drop_uploads(key(""), which);
}

}  // namespace convoy::ckpt
