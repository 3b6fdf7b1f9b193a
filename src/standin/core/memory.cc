// First fit in address order, with red zones: what a program does wrong should be found near where
// it did it, speed comes second (torch's caching allocator asks rarely).
#include "src/standin/core/memory.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::standin {
namespace {

[[noreturn]] void give_up(const char* what, int device, int error) {
  std::fprintf(stderr, "convoy stand-in: %s for simulated device %d: %s\n", what, device,
               std::strerror(error));
  std::abort();
}

size_t rounded(size_t bytes) {
  const size_t grain = DeviceMemory::kAlign;
  return std::max(grain, (bytes + grain - 1) / grain * grain) + 2 * DeviceMemory::kRedZone;
}

unsigned char* bytes_at(uintptr_t address) {
  return reinterpret_cast<unsigned char*>(address + kAliasOffset);
}

}  // namespace

DeviceMemory::DeviceMemory(int device, size_t capacity)
    : device_(device),
      capacity_(capacity / kAlign * kAlign),
      // Red zones and rounding are not the program's: its capacity is what it may ask for.
      mapped_(std::min<size_t>(capacity_ + capacity_ / 2 + (size_t{64} << 20), kDeviceStride)),
      begin_(kDeviceBase + static_cast<uintptr_t>(device) * kDeviceStride) {
  fd_ = ::memfd_create("convoy-device", MFD_CLOEXEC);
  if (fd_ < 0 || ::ftruncate(fd_, static_cast<off_t>(mapped_)) != 0) {
    give_up("no memory", device, errno);
  }
  const int flags = MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_NORESERVE;
  for (const auto& [address, access] : {std::pair<uintptr_t, int>{begin_, PROT_NONE},
                                        {begin_ + kAliasOffset, PROT_READ | PROT_WRITE}}) {
    void* at = ::mmap(reinterpret_cast<void*>(address), mapped_, access, flags, fd_, 0);
    if (at != reinterpret_cast<void*>(address)) give_up("no addresses", device, errno);
  }
  free_[begin_] = mapped_;
}

DeviceMemory::~DeviceMemory() {
  ::munmap(reinterpret_cast<void*>(begin_), mapped_);
  ::munmap(reinterpret_cast<void*>(begin_ + kAliasOffset), mapped_);
  ::close(fd_);
}

StandinPeerDevice DeviceMemory::exported() const {
  struct stat file {};
  if (::fstat(fd_, &file) != 0) give_up("no file status", device_, errno);
  return {static_cast<int>(::getpid()), fd_, device_, file.st_ino, mapped_};
}

uintptr_t DeviceMemory::allocate(size_t bytes, std::string owner) {
  const std::lock_guard lock(mutex_);
  const size_t wanted = rounded(bytes);
  if (used_ + bytes > capacity_) return 0;
  const auto fits = std::find_if(free_.begin(), free_.end(),
                                 [&](const auto& hole) { return hole.second >= wanted; });
  if (fits == free_.end()) return 0;
  const auto [at, hole] = *fits;
  free_.erase(fits);
  if (hole > wanted) free_[at + wanted] = hole - wanted;
  Allocation allocation{at + kRedZone, bytes, ++numbers_, std::move(owner)};
  std::memset(bytes_at(at), kRedByte, wanted);
  std::memset(bytes_at(allocation.begin), kFreshByte, bytes);
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  allocations_[allocation.begin] = allocation;
  return allocation.begin;
}

std::string DeviceMemory::damage_of(const Allocation& allocation) const {
  const unsigned char* begin = bytes_at(allocation.begin);
  const unsigned char* end = begin + allocation.bytes;
  const unsigned char* limit = begin - kRedZone + rounded(allocation.bytes);
  const auto hurt = [](unsigned char byte) { return byte != kRedByte; };
  const unsigned char* after = std::find_if(end, limit, hurt);
  const unsigned char* before = std::find_if(begin - kRedZone, begin, hurt);
  if (after == limit && before == begin) return "";
  const bool past = after != limit;
  char text[240];
  std::snprintf(text, sizeof text,
                "device %d: something wrote %zd bytes %s allocation #%llu of %zu bytes (%s)",
                device_, past ? after - end + 1 : begin - before,
                past ? "past the end of" : "before the beginning of",
                static_cast<unsigned long long>(allocation.number), allocation.bytes,
                allocation.owner.c_str());
  return text;
}

bool DeviceMemory::release(uintptr_t address, std::string& damage) {
  const std::lock_guard lock(mutex_);
  const auto found = allocations_.find(address);
  if (found == allocations_.end()) return false;
  damage = damage_of(found->second);
  const size_t bytes = rounded(found->second.bytes);
  uintptr_t begin = address - kRedZone;
  size_t length = bytes;
  std::memset(bytes_at(begin), kFreedByte, bytes);
  used_ -= found->second.bytes;
  allocations_.erase(found);
  auto next = free_.lower_bound(begin);
  if (next != free_.end() && next->first == begin + length) {
    length += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == begin) {
      previous->second += length;
      return true;
    }
  }
  free_[begin] = length;
  return true;
}

bool DeviceMemory::find(uintptr_t address, Allocation& found, bool& inside) const {
  const std::lock_guard lock(mutex_);
  auto at = allocations_.upper_bound(address + kRedZone);
  if (at == allocations_.begin()) return false;
  --at;
  const Allocation& candidate = at->second;
  const uintptr_t end = candidate.begin - kRedZone + rounded(candidate.bytes);
  if (address >= end) return false;
  found = candidate;
  inside = address >= candidate.begin && address < candidate.begin + candidate.bytes;
  return true;
}

size_t DeviceMemory::used() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

size_t DeviceMemory::peak() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

std::vector<Allocation> DeviceMemory::alive() const {
  const std::lock_guard lock(mutex_);
  std::vector<Allocation> all;
  for (const auto& [address, allocation] : allocations_) all.push_back(allocation);
  return all;
}

std::vector<std::string> DeviceMemory::check() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> texts;
  for (const auto& [address, allocation] : allocations_) {
    if (std::string text = damage_of(allocation); !text.empty()) texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace convoy::standin
