// A peer's memfd is reached through /proc, so nothing needs to be sent and no peer has to answer.
// The inode tells a descriptor's number that has come to mean something else.
#include "src/standin/core/peer_memory.h"

#include "src/standin/core/memory.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <mutex>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::standin {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPeersMax = 256;

struct Window {
  uint64_t inode = 0;
  uintptr_t begin = 0, end = 0;
  int device = -1;
};

// Written under the lock, read without: the fault handler asks too.
std::array<Window, kPeersMax> windows;
std::atomic<size_t> opened{0};
std::mutex opening;

bool is_same(int fd, uint64_t inode) {
  struct stat found {};
  return ::fstat(fd, &found) == 0 && found.st_ino == inode;
}

// Both views of the descriptor's memory at `begin`.
bool map_views(int fd, uintptr_t begin, size_t bytes) {
  const int flags = MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
  for (const auto& [at, access] : {std::pair<uintptr_t, int>{begin, PROT_NONE},
                                   {begin + kAliasOffset, PROT_READ | PROT_WRITE}}) {
    void* const wanted = reinterpret_cast<void*>(at);
    if (::mmap(wanted, bytes, access, flags, fd, 0) != wanted) return false;
  }
  return true;
}

}  // namespace

int peer_device_of(uintptr_t address) {
  const size_t count = opened.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) {
    if (address >= windows[i].begin && address < windows[i].end) return windows[i].device;
  }
  return -1;
}

uintptr_t open_peer(const StandinPeerDevice& peer, std::string& why) {
  if (peer.pid == ::getpid()) {
    return kDeviceBase + static_cast<uintptr_t>(peer.device) * kDeviceStride;
  }
  const std::lock_guard lock(opening);
  const size_t count = opened.load();
  uintptr_t begin = kPeersBegin;
  for (size_t i = 0; i < count; ++i) {
    if (windows[i].inode == peer.inode) return windows[i].begin;
    begin = windows[i].end;
  }
  const std::string process = "process " + std::to_string(peer.pid);
  const size_t bytes = (peer.bytes + kPage - 1) / kPage * kPage;
  if (count == kPeersMax || begin + bytes > kPeersEnd) {
    why = "no addresses left for the device memory of " + process;
    return 0;
  }
  const std::string path = "/proc/" + std::to_string(peer.pid) + "/fd/" + std::to_string(peer.fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 || !is_same(fd, peer.inode)) {
    why = fd >= 0 ? process + " has gone, another has its number"
                  : "can't reach the device memory of " + process + ": " + std::strerror(errno) +
                        " (it must run on this machine, as this user, in this pid namespace)";
    if (fd >= 0) ::close(fd);
    return 0;
  }
  const bool mapped = map_views(fd, begin, bytes);
  if (!mapped) why = "can't map the device memory of " + process + ": " + std::strerror(errno);
  ::close(fd);
  if (!mapped) return 0;
  windows[count] = {peer.inode, begin, begin + bytes, peer.device};
  opened.store(count + 1, std::memory_order_release);
  return begin;
}

}  // namespace convoy::standin
