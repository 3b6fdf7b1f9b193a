#include "trace/export/output_file.h"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

namespace convoy::trace {

Result<OutputFile> OutputFile::create(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd) return errno_status("cannot write " + path.string(), errno);
  return OutputFile(path, std::move(fd));
}

Result<OutputFile> OutputFile::append(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (!fd) return errno_status("cannot write " + path.string(), errno);
  return OutputFile(path, std::move(fd));
}

void OutputFile::flush() {
  write(text_);
  text_.clear();
}

void OutputFile::write(std::string_view bytes) {
  while (status_.ok() && !bytes.empty()) {
    const ssize_t wrote = ::write(fd_.get(), bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      status_ = errno_status("cannot write " + path_.string(), errno);
      return;
    }
    bytes.remove_prefix(static_cast<size_t>(wrote));
    bytes_ += static_cast<uint64_t>(wrote);
  }
}

Status OutputFile::close() {
  flush();
  fd_.reset();
  return status_;
}

}  // namespace convoy::trace
