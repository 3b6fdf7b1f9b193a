#include "trace/stream/items.h"
#include "trace/stream/json.h"
#include <convoy/base/checksum.h>
#include <convoy/base/fd.h>

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <unistd.h>
#include <zstd.h>

namespace convoy::trace {
namespace {

constexpr char kMagic[8] = {'C', 'N', 'V', 'S', 'T', 'R', 'M', '\n'};
constexpr uint32_t kVersion = 1;
constexpr size_t kFrameBytes = size_t{256} << 10;    // a writer's
constexpr size_t kFrameBytesMax = size_t{64} << 20;  // a reader's

struct FileHead {
  char magic[8];
  uint32_t version;
  uint32_t unit_ns;
};

struct FrameHead {
  uint32_t stored_bytes;
  uint32_t bytes;
  uint32_t checksum;  // the lower half of XXH3 of what is stored
};

uint32_t checksum_of(std::string_view stored) {
  return static_cast<uint32_t>(xxh3(std::as_bytes(std::span(stored))));
}

// Reads one frame. False: the file ends; `truncated` if in its middle.
Result<bool> read_frame(std::istream& in, std::string& stored, std::string& to, bool& truncated) {
  FrameHead head{};
  in.read(reinterpret_cast<char*>(&head), sizeof head);
  if (in.gcount() != sizeof head) {
    truncated = in.gcount() != 0;
    return false;
  }
  if (head.stored_bytes > kFrameBytesMax || head.bytes > kFrameBytesMax) {
    return Status(Code::kDataLoss, "a frame's size can't be");
  }
  stored.resize(head.stored_bytes);
  in.read(stored.data(), head.stored_bytes);
  if (in.gcount() != head.stored_bytes) {
    truncated = true;
    return false;
  }
  if (checksum_of(stored) != head.checksum) {
    return Status(Code::kDataLoss, "a frame's checksum does not match");
  }
  to.resize(head.bytes);
  const size_t size = ZSTD_decompress(to.data(), to.size(), stored.data(), stored.size());
  if (ZSTD_isError(size) != 0 || size != to.size()) {
    return Status(Code::kDataLoss, "a frame can't be decompressed");
  }
  return true;
}

Status read_frames(std::istream& in, const FileHead& head, Registry& registry, Sink& to,
                   bool& truncated) {
  if (head.version != kVersion || head.unit_ns != wire::kTimeUnit) {
    return Status(Code::kInvalidArgument, "is of format version " + std::to_string(head.version) +
                                              " in units of " + std::to_string(head.unit_ns) +
                                              " ns; this Convoy reads version 1 in 100 ns");
  }
  ItemReader reader(registry);
  std::string stored, frame;
  while (true) {
    const auto at = static_cast<uint64_t>(in.tellg());
    const auto is_there = read_frame(in, stored, frame, truncated);
    Status status = is_there.status();
    if (status.ok() && !*is_there) return Status();
    if (status.ok()) status = reader.read(std::as_bytes(std::span(frame)), to);
    if (!status.ok()) return status.with_context("at byte " + std::to_string(at));
  }
}

}  // namespace

struct StreamWriter::Impl {
  Impl(std::filesystem::path p, UniqueFd f, const Registry& registry)
      : path(std::move(p)), fd(std::move(f)), items(registry) {}

  std::filesystem::path path;
  UniqueFd fd;
  ItemWriter items;
  std::string frame, stored;
  uint64_t bytes = 0;
  Status status;

  void write(std::string_view what) {
    bytes += what.size();
    while (status.ok() && !what.empty()) {
      const ssize_t n = ::write(fd.get(), what.data(), what.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        status = errno_status("can't write " + path.string(), errno);
      } else {
        what.remove_prefix(static_cast<size_t>(n));
      }
    }
  }

  void flush() {
    if (frame.empty()) return;
    stored.resize(sizeof(FrameHead) + ZSTD_compressBound(frame.size()));
    const size_t size =
        ZSTD_compress(stored.data() + sizeof(FrameHead), stored.size() - sizeof(FrameHead),
                      frame.data(), frame.size(), 1);
    CONVOY_CHECK(ZSTD_isError(size) == 0, "zstd: " + std::string(ZSTD_getErrorName(size)));
    stored.resize(sizeof(FrameHead) + size);
    const FrameHead head{static_cast<uint32_t>(size), static_cast<uint32_t>(frame.size()),
                         checksum_of(std::string_view(stored).substr(sizeof(FrameHead)))};
    std::memcpy(stored.data(), &head, sizeof head);
    write(stored);
    frame.clear();
  }

  void flush_if_full() {
    if (frame.size() >= kFrameBytes) flush();
  }
};

StreamWriter::StreamWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<StreamWriter>> StreamWriter::create(const std::filesystem::path& path,
                                                           const Registry& registry) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) return errno_status("can't write " + path.string(), errno);
  auto impl = std::make_unique<Impl>(path, std::move(fd), registry);
  FileHead head{{}, kVersion, wire::kTimeUnit};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  impl->write({reinterpret_cast<const char*>(&head), sizeof head});
  if (!impl->status.ok()) return impl->status;
  return std::unique_ptr<StreamWriter>(new StreamWriter(std::move(impl)));
}

StreamWriter::~StreamWriter() {
  (void)close();
}

void StreamWriter::job(const JobInfo& job) {
  impl_->items.job(job, impl_->frame);
  impl_->flush_if_full();
}
void StreamWriter::batch(const Batch& batch) {
  impl_->items.batch(batch, impl_->frame);
  impl_->flush_if_full();
}
void StreamWriter::clock(const ClockSample& sample) {
  impl_->items.clock(sample, impl_->frame);
  impl_->flush_if_full();
}

uint64_t StreamWriter::bytes() const {
  return impl_->bytes;
}

Status StreamWriter::flush() {
  impl_->flush();
  return impl_->status;
}

Status StreamWriter::close() {
  impl_->flush();
  if (impl_->fd && ::close(impl_->fd.release()) != 0 && impl_->status.ok()) {
    impl_->status = errno_status("can't write " + impl_->path.string(), errno);
  }
  return impl_->status;
}

Status read_stream(const std::filesystem::path& path, Registry& registry, Sink& to,
                   bool* truncated) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return errno_status("can't read " + path.string(), errno);
  FileHead head{};
  in.read(reinterpret_cast<char*>(&head), sizeof head);
  const bool is_binary =
      in.gcount() == sizeof head && std::memcmp(head.magic, kMagic, sizeof kMagic) == 0;
  bool is_cut = false;
  Status status;
  if (is_binary) {
    status = read_frames(in, head, registry, to, is_cut);
  } else if (in.gcount() > 0 && head.magic[0] == '{') {
    in.clear();
    in.seekg(0);
    status = read_json_stream(in, registry, to, is_cut);
  } else {
    status = Status(Code::kInvalidArgument,
                    "is no trace stream: it begins neither as a binary one nor with a '{'");
  }
  if (truncated != nullptr) *truncated = is_cut;
  return status.with_context(path.string());
}

}  // namespace convoy::trace
