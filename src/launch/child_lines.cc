#include "src/launch/child_lines.h"

#include <array>
#include <cerrno>
#include <sys/epoll.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

constexpr size_t kReadBytes = 65536;

}  // namespace

ChildLines::~ChildLines() {
  for (const UniqueFd* fd : {&child_.out, &child_.err}) {
    if (*fd) loop_.unwatch(fd->get());
  }
}

Status ChildLines::watch() {
  CONVOY_RETURN_IF_ERROR(
      loop_.watch(child_.out.get(), EPOLLIN, [this](uint32_t) { read_once(false); }));
  return loop_.watch(child_.err.get(), EPOLLIN, [this](uint32_t) { read_once(true); });
}

// False when there is nothing more, now or ever.
bool ChildLines::read_once(bool is_error) {
  UniqueFd& fd = is_error ? child_.err : child_.out;
  if (!fd) return false;
  std::array<char, kReadBytes> bytes;
  const ssize_t count = ::read(fd.get(), bytes.data(), bytes.size());
  if (count < 0) return errno == EINTR;
  if (count == 0) {
    loop_.unwatch(fd.get());
    fd.reset();
    return false;
  }
  (is_error ? err_ : out_)
      .feed({bytes.data(), static_cast<size_t>(count)},
            [&](std::string_view line, bool) { take_(line, is_error); });
  return true;
}

void ChildLines::read() {
  while (read_once(false) || read_once(true)) {
  }
}

void ChildLines::finish() {
  read();
  for (const bool is_error : {false, true}) {
    (is_error ? err_ : out_).finish([&](std::string_view line, bool) { take_(line, is_error); });
    UniqueFd& fd = is_error ? child_.err : child_.out;
    if (fd) loop_.unwatch(fd.get());
    fd.reset();
  }
}

}  // namespace convoy::launch
