// The simulated devices' memory: addresses, red zones, capacity, and that the program itself can't
// touch it. Random allocations are compared with a plain list of intervals. Not checked: what
// libcudart makes of it.
#include "src/standin/core/memory.h"

#include <catch2/catch.hpp>

#include <csetjmp>
#include <csignal>
#include <cstring>
#include <map>
#include <random>

using namespace convoy::standin;

namespace {

constexpr size_t kMiB = size_t{1} << 20;

sigjmp_buf back;

void jump_back(int) {
  siglongjmp(back, 1);
}

// Whether reading the byte ends in a fault.
bool faults(const void* address) {
  struct sigaction action {
  }, before{};
  action.sa_handler = jump_back;
  ::sigaction(SIGSEGV, &action, &before);
  volatile bool fault = true;
  if (sigsetjmp(back, 1) == 0) {
    [[maybe_unused]] const volatile char byte = *static_cast<const volatile char*>(address);
    fault = false;
  }
  ::sigaction(SIGSEGV, &before, nullptr);
  return fault;
}

}  // namespace

TEST_CASE("device addresses fault, their aliases don't") {
  DeviceMemory memory(3, 4 * kMiB);
  const uintptr_t at = memory.allocate(1000, "test");
  REQUIRE(at != 0);
  const auto* device = reinterpret_cast<const char*>(at);
  CHECK(device_of(device) == 3);
  CHECK(faults(device));
  auto* alias = static_cast<unsigned char*>(alias_of(device));
  CHECK_FALSE(faults(alias));
  CHECK(alias[0] == DeviceMemory::kFreshByte);
  int host = 0;
  CHECK(device_of(&host) == -1);
  CHECK(alias_of(&host) == &host);
}

TEST_CASE("a write past either end is told at free, with the allocation") {
  DeviceMemory memory(0, kMiB);
  for (const int where : {-1, 1000}) {
    const uintptr_t at = memory.allocate(1000, "somebody");
    static_cast<unsigned char*>(alias_of(reinterpret_cast<void*>(at)))[where] = 0;
    CHECK(memory.check().size() == 1);
    std::string damage;
    REQUIRE(memory.release(at, damage));
    CHECK_THAT(damage, Catch::Contains(where < 0 ? "1 bytes before the beginning"
                                                 : "1 bytes past the end"));
    CHECK_THAT(damage, Catch::Contains("1000 bytes (somebody)"));
  }
  const uintptr_t at = memory.allocate(1000, "somebody");
  std::string damage;
  REQUIRE(memory.release(at, damage));
  CHECK(damage.empty());
  CHECK_FALSE(memory.release(at, damage));
}

TEST_CASE("capacity is what the program asks for, and out of memory is an answer") {
  DeviceMemory memory(0, 8 * kMiB);
  const uintptr_t a = memory.allocate(5 * kMiB, "a");
  REQUIRE(a != 0);
  CHECK(memory.allocate(4 * kMiB, "b") == 0);
  const uintptr_t c = memory.allocate(3 * kMiB, "c");
  CHECK(c != 0);
  CHECK(memory.used() == 8 * kMiB);
  std::string damage;
  memory.release(a, damage);
  CHECK(memory.used() == 3 * kMiB);
  CHECK(memory.peak() == 8 * kMiB);
  CHECK(memory.alive().size() == 1);
  CHECK(memory.alive()[0].owner == "c");
}

TEST_CASE("random allocations never overlap, keep their bytes, and all space comes back") {
  const auto seed = GENERATE(1U, 2U, 3U, 4U);
  INFO("seed " << seed);
  std::mt19937 random(seed);
  DeviceMemory memory(1, 16 * kMiB);
  std::map<uintptr_t, std::pair<size_t, unsigned char>> alive;
  for (int i = 0; i < 2000; ++i) {
    if (random() % 5 < 3) {
      const size_t bytes = random() % (random() % 8 == 0 ? 2 * kMiB : 5000);
      const uintptr_t at = memory.allocate(bytes, "random");
      if (at == 0) continue;
      REQUIRE(at % DeviceMemory::kAlign == 0);
      const auto next = alive.lower_bound(at);
      if (next != alive.end()) REQUIRE(at + bytes <= next->first);
      if (next != alive.begin())
        REQUIRE(std::prev(next)->first + std::prev(next)->second.first <= at);
      const auto fill = static_cast<unsigned char>(random());
      std::memset(alias_of(reinterpret_cast<void*>(at)), fill, bytes);
      alive[at] = {bytes, fill};
      Allocation found;
      bool inside = false;
      REQUIRE(memory.find(at + bytes / 2, found, inside));
      CHECK(found.begin == at);
    } else if (!alive.empty()) {
      auto victim = alive.begin();
      std::advance(victim, random() % alive.size());
      const auto& [bytes, fill] = victim->second;
      const auto* data =
          static_cast<unsigned char*>(alias_of(reinterpret_cast<void*>(victim->first)));
      for (size_t k = 0; k < bytes; k += 97) REQUIRE(data[k] == fill);
      std::string damage;
      REQUIRE(memory.release(victim->first, damage));
      REQUIRE(damage.empty());
      alive.erase(victim);
    }
  }
  std::string damage;
  for (const auto& [at, what] : alive) memory.release(at, damage);
  CHECK(memory.used() == 0);
  CHECK(memory.allocate(16 * kMiB, "all of it") != 0);
}
