// How files get their name on Arrow's file systems, and how one is created only if it is not there.
//
// On S3 by a conditional PUT. Where the server has no conditions, and on file systems that don't
// offer any, a creator looks whether the name is free, writes, waits until whatever others began
// before they could see it must have landed, and reads who was the last: he has it. That is safe as
// long as no request takes longer than options.settle.
#include "ckpt/arrow/arrow_store.h"
#include "ckpt/arrow/bounded_call.h"
#include <convoy/base/log.h>
#include <convoy/ckpt/records.h>

#include <algorithm>
#include <arrow/buffer.h>
#include <arrow/io/interfaces.h>
#include <arrow/result.h>
#include <arrow/util/io_util.h>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace convoy::ckpt {
namespace {

using Stream = ArrowStore::Stream;
// What a stream is given at once; Arrow's own size of a part on S3.
constexpr size_t kPartBytes = size_t{10} << 20;

std::string random_text() {
  std::random_device random;
  return std::to_string(random()) + "-" + std::to_string(random());
}

// A stream that could not be aborted must not be destroyed: its destructor would publish what it
// has. Rare, so kept for ever.
void keep_for_ever(const Stream& stream) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<Stream>();
  const std::lock_guard lock(mutex);
  kept->push_back(stream);
}

void abort_or_keep(const Stream& stream) {
  if (stream != nullptr && !stream->closed() && !stream->Abort().ok()) keep_for_ever(stream);
}

arrow::Status move_over(arrow::fs::FileSystem& fs, const std::string& from, const std::string& to) {
  arrow::Status moved = fs.Move(from, to);
  if (moved.ok()) return moved;
  ARROW_ASSIGN_OR_RAISE(const arrow::fs::FileInfo there, fs.GetFileInfo(to));
  if (!there.IsFile()) return moved;
  ARROW_RETURN_NOT_OK(fs.DeleteFile(to));
  return fs.Move(from, to);
}

class ArrowWriter final : public StoreWriter {
 public:
  ArrowWriter(ArrowStore& store, std::string path)
      : store_(store), path_(std::move(path)), working_(store_.working_path(path_)) {}
  ArrowWriter(const ArrowWriter&) = delete;
  ArrowWriter& operator=(const ArrowWriter&) = delete;
  ~ArrowWriter() override { abandon(); }

  Status append(std::span<const std::byte> bytes) override {
    CONVOY_CHECK(!ended_, "append after the end of " + path_);
    while (!bytes.empty()) {
      const size_t some = std::min(bytes.size(), kPartBytes - part_.size());
      if (part_.capacity() < kPartBytes && part_.size() + some > part_.capacity()) {
        part_.reserve(std::min(kPartBytes, 2 * (part_.size() + some)));
      }
      part_.insert(part_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(some));
      bytes = bytes.subspan(some);
      if (part_.size() == kPartBytes) CONVOY_RETURN_IF_ERROR(flush());
    }
    return ok_status();
  }
  Status finish() override {
    CONVOY_CHECK(!ended_, "a second end of " + path_);
    Status status = flush();
    if (status.ok()) status = store_.close(path_, working_, stream_);
    ended_ = status.ok();
    abandon();
    return status;
  }
  void abandon() override {
    if (!ended_ && stream_ != nullptr)
      store_.abort(path_, working_, stream_, written_ >= kPartBytes);
    ended_ = true;
    stream_.reset();
  }

 private:
  Status flush() {
    if (stream_ == nullptr) CONVOY_RETURN_IF_ERROR(store_.open_stream(path_, working_, stream_));
    if (part_.empty()) return ok_status();
    const auto part = std::make_shared<std::vector<std::byte>>(std::move(part_));
    written_ += part->size();
    part_ = {};
    // The buffer owns the bytes: a call that is given up may still read them.
    struct Owned final : arrow::Buffer {
      explicit Owned(std::shared_ptr<std::vector<std::byte>> b)
          : arrow::Buffer(reinterpret_cast<const uint8_t*>(b->data()),
                          static_cast<int64_t>(b->size())),
            bytes(std::move(b)) {}
      std::shared_ptr<std::vector<std::byte>> bytes;
    };
    return store_.write(path_, stream_, std::make_shared<Owned>(part));
  }

  ArrowStore& store_;
  const std::string path_;
  const std::string working_;
  Stream stream_;
  std::vector<std::byte> part_;
  uint64_t written_ = 0;
  bool ended_ = false;
};

}  // namespace

std::string ArrowStore::working_path(const std::string& path) const {
  if (!traits_.moves) return full(path);
  const std::string whole = full(path);
  return whole.substr(0, whole.rfind('/') + 1) + ".convoy-" + random_text();
}

Status ArrowStore::open_stream(const std::string& path, const std::string& working,
                               Stream& stream) {
  auto opened = bounded_call<arrow::Result<Stream>>(
      options_.timeout,
      [fs = fs_, working, folders = traits_.folders]() -> arrow::Result<Stream> {
        if (folders) ARROW_RETURN_NOT_OK(fs->CreateDir(working.substr(0, working.rfind('/'))));
        return fs->OpenOutputStream(working, nullptr);
      },
      [](arrow::Result<Stream> late) {
        if (late.ok()) abort_or_keep(*late);
      });
  const std::string what = "cannot write " + shown(path);
  if (!opened) return late(what);
  if (!opened->ok()) return map(what, opened->status());
  stream = std::move(*opened).ValueUnsafe();
  return ok_status();
}

void ArrowStore::pace(uint64_t bytes) {
  if (options_.bandwidth == 0) return;
  Clock& clock = Clock::system();
  for (;;) {
    Nanos wait;
    {
      const std::lock_guard lock(pace_mutex_);
      wait = bucket_.wait(options_.bandwidth, clock.now());
      if (wait == Nanos::zero()) return bucket_.take(options_.bandwidth, bytes, clock.now());
    }
    clock.sleep_for(wait);
  }
}

Status ArrowStore::write(const std::string& path, const Stream& stream, Buffer bytes) {
  pace(static_cast<uint64_t>(bytes->size()));
  return run("cannot write " + shown(path),
             [stream, bytes = std::move(bytes)] { return stream->Write(bytes); });
}

Status ArrowStore::close(const std::string& path, const std::string& working,
                         const Stream& stream) {
  return run("cannot write " + shown(path),
             [fs = fs_, stream, working, to = full(path)]() -> arrow::Status {
               ARROW_RETURN_NOT_OK(stream->Close());
               return working == to ? arrow::Status::OK() : move_over(*fs, working, to);
             });
}

void ArrowStore::abort(const std::string& path, const std::string& working, const Stream& stream,
                       bool large) {
  const auto done =
      bounded_call<bool>(options_.timeout, [fs = fs_, stream, working, moves = traits_.moves] {
        // After a failure Arrow has closed the stream, but its upload stays.
        const bool closed = stream->closed();
        abort_or_keep(stream);
        if (moves) (void)fs->DeleteFile(working).ok();
        return !closed;
      });
  if (s3_ == nullptr || !large || (done && *done)) return;
  const Result<uint64_t> dropped =
      drop_uploads(key(path), [&](const std::string& p) { return p == path; });
  if (!dropped.ok()) {
    CONVOY_LOG(Warn) << "an unfinished upload may be left: " << dropped.status().message();
  }
}

Result<std::unique_ptr<StoreWriter>> ArrowStore::open_writer(const std::string& path) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  return std::unique_ptr<StoreWriter>(std::make_unique<ArrowWriter>(*this, path));
}

Status ArrowStore::put(const std::string& path, std::span<const std::byte> bytes) {
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<StoreWriter> writer, open_writer(path));
  CONVOY_RETURN_IF_ERROR(writer->append(bytes));
  return writer->finish();
}

Status ArrowStore::compare(const std::string& path, std::span<const std::byte> bytes) {
  const Result<std::vector<std::byte>> there = get(path, kRecordBytesMax);
  if (!there.ok()) return there.status();
  if (std::ranges::equal(*there, bytes)) return ok_status();
  return {Code::kAlreadyExists, shown(path) + " exists."};
}

Status ArrowStore::create_new(const std::string& path, std::span<const std::byte> bytes) {
  CONVOY_RETURN_IF_ERROR(check_path(path));
  if (s3_ != nullptr) {
    CONVOY_RETURN_IF_ERROR(probe_conditions());
    if (conditions_ == Conditions::kKept) return create_on_condition(path, bytes);
  }
  return traits_.move_refuses ? create_by_move(path, bytes) : create_and_settle(path, bytes);
}

// Some servers ignore the condition instead of refusing it, so it is tried out once.
Status ArrowStore::probe_conditions() {
  const std::lock_guard lock(conditions_mutex_);
  if (conditions_ != Conditions::kUnknown) return ok_status();
  const std::string probe = key(".convoy-probe-" + random_text());
  bool unsure = false;
  const std::optional<Status> first = s3_->put_new(probe, {}, unsure);
  if (first && !first->ok() && !unsure) return first->with_context(name_);
  bool ignored = !first;
  if (first) {
    const std::optional<Status> second = s3_->put_new(probe, {}, unsure);
    if (second && !second->ok() && second->code() != Code::kAlreadyExists) {
      return second->with_context(name_);
    }
    ignored = !second || second->ok();
    CONVOY_RETURN_IF_ERROR(s3_->remove(probe).with_context(name_));
  }
  conditions_ = ignored ? Conditions::kIgnored : Conditions::kKept;
  if (ignored) {
    CONVOY_LOG(Warn)
        << name_
        << ": this server ignores If-None-Match, so two jobs that take over the folder "
           "in the same moment are told apart by time only (docs/checkpoints.md)";
  }
  return ok_status();
}

Status ArrowStore::create_on_condition(const std::string& path, std::span<const std::byte> bytes) {
  bool unsure = false;
  const std::optional<Status> created = s3_->put_new(key(path), bytes, unsure);
  if (!created) return {Code::kUnavailable, shown(path) + ": the server refuses conditions now"};
  // Taken, perhaps by an earlier try of ours whose answer was lost.
  if (created->code() == Code::kAlreadyExists && unsure) return compare(path, bytes);
  if (created->code() == Code::kAlreadyExists) {
    return {Code::kAlreadyExists, shown(path) + " exists."};
  }
  return created->with_context(name_);
}

Status ArrowStore::create_and_settle(const std::string& path, std::span<const std::byte> bytes) {
  const std::lock_guard lock(settling_);
  const Status there = get(path, kRecordBytesMax).status();
  if (there.ok()) return {Code::kAlreadyExists, shown(path) + " exists."};
  if (there.code() != Code::kNotFound) return there;
  CONVOY_RETURN_IF_ERROR(put(path, bytes));
  std::this_thread::sleep_for(options_.settle);
  return compare(path, bytes);
}

Status ArrowStore::create_by_move(const std::string& path, std::span<const std::byte> bytes) {
  const std::string working = working_path(path);
  Stream stream;
  CONVOY_RETURN_IF_ERROR(open_stream(path, working, stream));
  std::shared_ptr<arrow::Buffer> buffer = arrow::Buffer::FromString(
      std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  Status status = write(path, stream, buffer);
  bool exists = false;
  if (status.ok()) {
    auto moved = bounded_call<std::pair<arrow::Status, bool>>(
        options_.timeout, [fs = fs_, stream, working, to = full(path)] {
          arrow::Status done = stream->Close();
          if (done.ok()) done = fs->Move(working, to);
          if (done.ok()) return std::pair(done, false);
          const auto there = fs->GetFileInfo(to);
          return std::pair(done, there.ok() && there->IsFile());
        });
    const std::string what = "cannot create " + shown(path);
    status = moved ? map(what, moved->first) : late(what);
    exists = moved && moved->second;
  }
  if (status.ok()) return status;
  abort(path, working, stream, false);
  return exists ? Status(Code::kAlreadyExists, shown(path) + " exists.") : status;
}

}  // namespace convoy::ckpt
