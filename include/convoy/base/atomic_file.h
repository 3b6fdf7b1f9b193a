#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace convoy {

// A file that appears under its name only when it is complete and on disk: readers see the old file
// or the new one, never a part, whatever dies when. Where the file system can (O_TMPFILE), the
// unfinished file has no name at all and vanishes with the process; elsewhere it is a hidden
// neighbour, which the destructor removes. One thread at a time; every call may block on the disk.
class AtomicFile {
 public:
  // `path`'s folder must exist; kNotFound names it otherwise.
  static Result<AtomicFile> create(std::string path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  // Drops the file if commit() has not succeeded.
  ~AtomicFile();

  // Writes at the end, or over what is there.
  Status append(std::span<const std::byte> bytes);
  Status write_at(uint64_t offset, std::span<const std::byte> bytes);
  uint64_t size() const { return size_; }
  // fsync, take the place of `path`, fsync the folder. On failure `path` is as it was.
  Status commit();

 private:
  AtomicFile(std::string path, std::string folder, UniqueFd fd, std::string temporary);
  Status name_it();

  std::string path_;
  std::string folder_;
  UniqueFd fd_;
  std::string temporary_;  // the hidden name; empty while the file has none
  uint64_t size_ = 0;
};

// A whole file in one go.
Status write_file(const std::string& path, std::string_view text);

}  // namespace convoy
