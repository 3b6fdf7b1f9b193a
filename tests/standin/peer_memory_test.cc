// Device memory of another process: seen by both, still readable when its owner has died, refused
// when the handle's process has gone. Peers are forked processes. Not checked: other users, pid
// namespaces.
#include "src/standin/core/peer_memory.h"

#include "src/standin/core/memory.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

using namespace convoy::standin;

namespace {

constexpr size_t kMiB = size_t{1} << 20;

struct Offer {
  StandinPeerDevice device;
  uintptr_t address;
};

char* bytes_at(uintptr_t address) {
  return static_cast<char*>(alias_of(reinterpret_cast<void*>(address)));
}

// A process with one allocation that holds "from the peer"; lives until it is killed.
pid_t start_peer(int device, Offer& offer) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    DeviceMemory memory(device, 4 * kMiB);
    const Offer mine{memory.exported(), memory.allocate(64, "test")};
    std::strcpy(bytes_at(mine.address), "from the peer");
    if (::write(ends[1], &mine, sizeof mine) != sizeof mine) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  REQUIRE(::read(ends[0], &offer, sizeof offer) == sizeof offer);
  ::close(ends[0]);
  ::close(ends[1]);
  return pid;
}

void end_peer(pid_t pid) {
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

}  // namespace

TEST_CASE("a peer's memory is mapped once and stays readable after its death") {
  Offer offer{};
  const pid_t pid = start_peer(3, offer);
  std::string why;
  const uintptr_t begin = open_peer(offer.device, why);
  INFO(why);
  REQUIRE(begin >= kPeersBegin);
  const uintptr_t there = begin + (offer.address - (kDeviceBase + 3 * kDeviceStride));
  CHECK(std::string(bytes_at(there)) == "from the peer");
  CHECK(device_of(reinterpret_cast<void*>(there)) == 3);
  CHECK(open_peer(offer.device, why) == begin);
  end_peer(pid);
  CHECK(std::string(bytes_at(there)) == "from the peer");
  CHECK(device_of(reinterpret_cast<void*>(kPeersEnd - 1)) == -1);
}

TEST_CASE("a peer that has gone is refused with its name") {
  Offer offer{};
  const pid_t pid = start_peer(0, offer);
  end_peer(pid);
  std::string why;
  CHECK(open_peer(offer.device, why) == 0);
  CHECK(why.find(std::to_string(pid)) != std::string::npos);
}

TEST_CASE("one's own device is where it always is") {
  DeviceMemory memory(1, kMiB);
  std::string why;
  CHECK(open_peer(memory.exported(), why) == kDeviceBase + kDeviceStride);
}
