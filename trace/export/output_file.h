#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <filesystem>
#include <string>
#include <string_view>

namespace convoy::trace {

// A file that is written from its beginning to its end, through a buffer. Keeps the first error and
// does nothing from then on. Not thread-safe.
class OutputFile {
 public:
  static Result<OutputFile> create(const std::filesystem::path& path);
  static Result<OutputFile> append(const std::filesystem::path& path);  // to one that is there
  OutputFile(OutputFile&&) = default;
  OutputFile& operator=(OutputFile&&) = default;

  // What is appended here is written when it has become long and flush_if_full() is called.
  std::string& text() { return text_; }
  void flush_if_full() {
    if (text_.size() >= kFull) flush();
  }
  void flush();
  void write(std::string_view bytes);  // past the buffer
  uint64_t bytes() const { return bytes_; }
  const Status& status() const { return status_; }
  // Flushes and closes; the first error of all.
  Status close();

 private:
  static constexpr size_t kFull = 256 << 10;
  OutputFile(std::filesystem::path path, UniqueFd fd)
      : path_(std::move(path)), fd_(std::move(fd)) {}

  std::filesystem::path path_;
  UniqueFd fd_;
  std::string text_;
  uint64_t bytes_ = 0;
  Status status_;
};

}  // namespace convoy::trace
