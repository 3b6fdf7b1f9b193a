// Arenas in one and in two processes: the same pages, sealed sizes, read-only maps, touched pages
// (asked of the kernel with mincore), refusals. Does not check that huge pages are used: that is
// the administrator's choice.
#include <convoy/ckpt/arena.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace convoy::ckpt {
namespace {

TEST_CASE("an arena is zeroed, page-aligned, at least as large as asked, and touched") {
  for (const size_t bytes : {size_t{1}, size_t{4096}, size_t{4097}, size_t{40} << 20}) {
    auto arena = Arena::create(bytes).value();
    REQUIRE(arena->wait_touched().ok());
    REQUIRE(arena->size() >= bytes);
    REQUIRE(reinterpret_cast<uintptr_t>(arena->bytes().data()) % 4096 == 0);
    std::vector<unsigned char> present((arena->size() + 4095) / 4096);
    REQUIRE(::mincore(arena->bytes().data(), arena->size(), present.data()) == 0);
    REQUIRE(std::all_of(present.begin(), present.end(), [](auto p) { return (p & 1) != 0; }));
    const auto all = arena->bytes();
    REQUIRE(std::all_of(all.begin(), all.end(), [](std::byte b) { return b == std::byte{0}; }));
  }
}

TEST_CASE("bytes written while the pages are being touched stay") {
  auto arena = Arena::create(size_t{32} << 20).value();
  const auto all = arena->bytes();
  for (size_t at = 0; at < all.size(); at += 512) all[at] = static_cast<std::byte>(at / 512);
  REQUIRE(arena->wait_touched().ok());
  size_t wrong = 0;
  for (size_t at = 0; at < all.size(); at += 512)
    wrong += all[at] != static_cast<std::byte>(at / 512);
  REQUIRE(wrong == 0);
}

TEST_CASE("another process maps the same pages, and they outlive the maker") {
  auto arena = Arena::create(1 << 20).value();
  std::memcpy(arena->bytes().data(), "hello", 6);
  const int fd = ::fcntl(arena->fd(), F_DUPFD_CLOEXEC, 0);
  arena.reset();
  const pid_t child = ::fork();
  if (child == 0) {
    auto mine = Arena::map(fd, 1 << 20, true, {.touch_threads = 0});
    if (!mine.ok() || std::memcmp(mine.value()->bytes().data(), "hello", 6) != 0) ::_exit(1);
    std::memcpy(mine.value()->bytes().data(), "world", 6);
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(status == 0);
  auto again = Arena::map(fd, 1 << 20, false).value();
  ::close(fd);
  REQUIRE_FALSE(again->writable());
  REQUIRE(std::memcmp(again->bytes().data(), "world", 6) == 0);
}

TEST_CASE("the size is sealed") {
  auto arena = Arena::create(1 << 20).value();
  REQUIRE(::ftruncate(arena->fd(), 4096) != 0);
  REQUIRE(::ftruncate(arena->fd(), 2 << 20) != 0);
}

TEST_CASE("what can't be an arena is refused") {
  REQUIRE(Arena::create(0).status().code() == Code::kInvalidArgument);
  REQUIRE(Arena::create(~size_t{0}).status().code() == Code::kInvalidArgument);
  REQUIRE(Arena::create(size_t{1} << 45).status().code() == Code::kResourceExhausted);
  auto arena = Arena::create(4096).value();
  const Status larger = Arena::map(arena->fd(), 1 << 20, true).status();
  REQUIRE(larger.code() == Code::kInvalidArgument);
  REQUIRE(larger.message().find("4096 bytes can't be mapped as 1048576") != std::string::npos);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  REQUIRE(Arena::map(ends[0], 4096, false).status().code() == Code::kInvalidArgument);
  ::close(ends[0]);
  ::close(ends[1]);
  const int unsealed = ::memfd_create("other", MFD_CLOEXEC);
  REQUIRE(::ftruncate(unsealed, 8192) == 0);
  REQUIRE(Arena::map(unsealed, 4096, false).status().code() == Code::kInvalidArgument);
  ::close(unsealed);
}

// Huge pages are tried first, and where none are reserved that mapping fails: what other threads
// map meanwhile must stay. (It didn't: their memory was unmapped, or became a part of the arena.)
TEST_CASE("making arenas leaves what other threads map alone") {
  std::atomic<bool> stop{false};
  std::atomic<int> lost{0};
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([&] {
      while (!stop) {
        constexpr size_t kBytes = size_t{4} << 20;
        void* at = ::mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        std::this_thread::yield();
        // A range with a hole is refused. Access rights are asked for instead of used: a lost page
        // would end the test.
        if (at == MAP_FAILED || ::mprotect(at, kBytes, PROT_READ) != 0) ++lost;
        ::munmap(at, kBytes);
      }
    });
  }
  for (int i = 0; i < 20000 && lost == 0; ++i) {
    REQUIRE(Arena::create(size_t{4} << 20, {.touch_threads = 0}).ok());
  }
  stop = true;
  for (std::thread& other : others) other.join();
  REQUIRE(lost == 0);
}

TEST_CASE("an arena may be dropped while its pages are being touched") {
  for (int i = 0; i < 5; ++i) REQUIRE(Arena::create(size_t{64} << 20).ok());
}

}  // namespace
}  // namespace convoy::ckpt
