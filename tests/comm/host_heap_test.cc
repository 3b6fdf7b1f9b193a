// The shared heap under a random program: several threads allocate, fill, hand over and free blocks
// of all sizes; each block carries a pattern, so an overlap or a block handed out twice is seen.
// Also: alignment, exhaustion, reuse, what the pages of freed memory cost, and a forked child. Not
// checked: speed.
#include "src/comm/host/heap.h"

#include <catch2/catch.hpp>

#include <cstring>
#include <random>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace convoy;
using namespace convoy::host;

namespace {

struct Block {
  uint8_t* data;
  size_t bytes;
  uint8_t mark;
};

bool intact(const Block& b) {
  return b.data[0] == b.mark && b.data[b.bytes / 2] == b.mark && b.data[b.bytes - 1] == b.mark;
}

size_t random_size(std::mt19937& random) {
  switch (random() % 8) {
    case 0:
      return 1 + random() % 2000000;
    case 1:
      return 1 + random() % 70000;
    default:
      return 1 + random() % 3000;
  }
}

}  // namespace

TEST_CASE("threads allocate, hand over and free; nothing overlaps", "[host]") {
  auto heap = Heap::create(size_t{512} << 20).value();
  std::mutex mutex;
  std::vector<Block> handed_over;
  std::atomic<int> broken{0};
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(4711 + t);
      std::vector<Block> mine;
      for (int i = 0; i < 8000; ++i) {
        if (mine.size() < 40 || random() % 2 == 0) {
          const size_t bytes = random_size(random);
          auto* data = static_cast<uint8_t*>(heap->allocate(bytes));
          if (data == nullptr || reinterpret_cast<uintptr_t>(data) % 64 != 0 ||
              !heap->contains(data, bytes)) {
            ++broken;
            return;
          }
          const Block b{data, bytes, static_cast<uint8_t>(random())};
          data[0] = data[bytes / 2] = data[bytes - 1] = b.mark;
          mine.push_back(b);
        } else {
          const size_t at = random() % mine.size();
          if (!intact(mine[at])) ++broken;
          if (random() % 4 == 0) {
            const std::lock_guard lock(mutex);
            handed_over.push_back(mine[at]);
          } else {
            heap->deallocate(mine[at].data);
          }
          mine[at] = mine.back();
          mine.pop_back();
        }
        if (i % 64 == 0) {
          const std::lock_guard lock(mutex);
          for (const Block& b : handed_over) {
            if (!intact(b)) ++broken;
            heap->deallocate(b.data);
          }
          handed_over.clear();
        }
      }
      for (const Block& b : mine) {
        if (!intact(b)) ++broken;
        heap->deallocate(b.data);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const Block& b : handed_over) heap->deallocate(b.data);
  CHECK(broken == 0);
  CHECK(heap->bytes_in_use() == 0);
}

TEST_CASE("an exhausted heap says so and recovers", "[host]") {
  auto heap = Heap::create(size_t{4} << 20).value();
  CHECK(heap->allocate(0) == nullptr);
  CHECK(heap->allocate(size_t{5} << 20) == nullptr);
  void* most = heap->allocate(size_t{3} << 20);
  REQUIRE(most != nullptr);
  CHECK(heap->allocate(size_t{2} << 20) == nullptr);
  heap->deallocate(most);
  void* again = heap->allocate(size_t{4} << 20);
  CHECK(again == most);  // the free block and its neighbour are one again
  heap->deallocate(again);
  heap->deallocate(nullptr);
}

TEST_CASE("neighbours coalesce in any order of freeing", "[host]") {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    INFO("seed " << seed);
    auto heap = Heap::create(size_t{8} << 20).value();
    std::vector<void*> blocks;
    while (void* data = heap->allocate(100000)) blocks.push_back(data);
    CHECK(blocks.size() == (8 << 20) / 102400);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(seed));
    for (void* data : blocks) heap->deallocate(data);
    CHECK(heap->allocate(blocks.size() * 102400) != nullptr);
  }
}

TEST_CASE("much freed memory goes back to the system", "[host]") {
  auto heap = Heap::create(size_t{8} << 30).value();
  const size_t kept = size_t(sysconf(_SC_PHYS_PAGES)) * 4096 / 32;
  if (kept > (size_t{2} << 30)) return;  // would touch more than a test should
  std::vector<void*> blocks;
  const size_t bytes = 64 << 20;
  for (size_t total = 0; total < kept + 4 * bytes; total += bytes) {
    void* data = heap->allocate(bytes);
    if (data == nullptr) break;  // the machine is short of memory just now
    std::memset(data, 1, bytes);
    blocks.push_back(data);
  }
  for (void* data : blocks) heap->deallocate(data);
  struct stat info {};
  REQUIRE(fstat(heap->fd(), &info) == 0);
  CHECK(static_cast<size_t>(info.st_blocks) * 512 <= kept + bytes);
}

TEST_CASE("a forked child must not allocate, and hurts nobody", "[host]") {
  auto heap = Heap::create(size_t{4} << 20).value();
  void* data = heap->allocate(1000);
  const pid_t pid = fork();
  if (pid == 0) {
    heap->deallocate(data);
    _exit(heap->allocate(1000) == nullptr ? 0 : 1);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  CHECK(status == 0);
  CHECK(heap->bytes_in_use() == 1024);
  heap->deallocate(data);
}
