#pragma once

#include "src/standin/standin.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

// Memory of the simulated devices.
//
// Each device is one memfd of its capacity, mapped twice: at its device addresses without any
// access, so that a program that dereferences a device pointer faults, and a fixed distance further
// on for the stand-in's own work. The addresses are the same in all processes, so pointers in a
// peer's messages can be read.
namespace convoy::standin {

// Devices and their aliases end below 0x500000000000: clear of programs and their heaps
// (from 0x555555554000 on, wherever the kernel's randomness puts them), libraries and the address
// sanitizer.
constexpr uintptr_t kDeviceBase = 0x400000000000;
constexpr uintptr_t kDeviceStride = 0x4000000000;  // 256 GiB for each device
constexpr uintptr_t kAliasOffset = 0x80000000000;  // from a device address to its alias
constexpr int kDevicesMax = 16;
// Devices of other processes (peer_memory.h): clear of the above, its aliases and
// position-independent programs at 0x55... and 0x56...
constexpr uintptr_t kPeersBegin = 0x680000000000;
constexpr uintptr_t kPeersEnd = 0x6c0000000000;
int peer_device_of(uintptr_t address);  // -1: none is mapped there

struct Allocation {
  uintptr_t begin = 0;  // device address
  size_t bytes = 0;     // as asked for
  uint64_t number = 0;  // counts up, for messages
  std::string owner;    // who asked: "cudaMalloc on device 0"
};

class DeviceMemory {
 public:
  // Reserves the addresses; pages are taken when touched. Aborts with a message when the system
  // refuses, since nothing can go on without.
  DeviceMemory(int device, size_t capacity);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // 512-byte aligned, filled with kFreshByte, between two red zones; 0: out of memory.
  uintptr_t allocate(size_t bytes, std::string owner);
  // False when `address` is not the beginning of an allocation. `damage` gets a text when a red
  // zone was written to.
  bool release(uintptr_t address, std::string& damage);
  // The allocation that an address lies in, or the one whose red zone it touches (`inside` false).
  bool find(uintptr_t address, Allocation& found, bool& inside) const;

  // How other processes reach it.
  StandinPeerDevice exported() const;

  size_t capacity() const { return capacity_; }
  size_t used() const;
  size_t peak() const;
  std::vector<Allocation> alive() const;
  // Damaged red zones of all living allocations, as texts.
  std::vector<std::string> check() const;

  static constexpr unsigned char kFreshByte = 0xa5;  // as float: -2.9e-16, as index: out of bounds
  static constexpr unsigned char kFreedByte = 0xdb;
  static constexpr unsigned char kRedByte = 0x9e;
  static constexpr size_t kAlign = 512;
  static constexpr size_t kRedZone = 512;

 private:
  std::string damage_of(const Allocation& allocation) const;

  const int device_;
  const size_t capacity_;
  const size_t mapped_;
  const uintptr_t begin_;
  int fd_ = -1;
  mutable std::mutex mutex_;
  std::map<uintptr_t, Allocation> allocations_;  // by device address
  std::map<uintptr_t, size_t> free_;             // by device address, merged
  size_t used_ = 0, peak_ = 0;
  uint64_t numbers_ = 0;
};

inline bool is_device_address(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return (at >= kDeviceBase && at < kDeviceBase + kDevicesMax * kDeviceStride) ||
         (at >= kPeersBegin && at < kPeersEnd);
}

inline int device_of(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  if (!is_device_address(address)) return -1;
  if (at >= kPeersBegin) return peer_device_of(at);
  return static_cast<int>((at - kDeviceBase) / kDeviceStride);
}

// Where the stand-in may touch what a device address names; host addresses come back unchanged.
inline void* alias_of(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return reinterpret_cast<void*>(is_device_address(address) ? at + kAliasOffset : at);
}

}  // namespace convoy::standin
