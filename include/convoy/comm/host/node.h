#pragma once

#include <convoy/base/status.h>

#include <cstddef>
#include <memory>
#include <string>

namespace convoy::host {

// Memory of this process that the other ranks of the machine can map: one sparse memfd, so nothing
// is left behind when a process dies and /dev/shm's size does not matter. Thread-safe.
class SharedHeap {
 public:
  virtual ~SharedHeap() = default;
  // 64-byte aligned. Null when the heap is exhausted or bytes is 0. Freed memory is kept for reuse.
  virtual void* allocate(size_t bytes) = 0;
  virtual void deallocate(void* data) = 0;
  // Whether [data, data + bytes) lies in this heap: such memory is moved without staging.
  virtual bool contains(const void* data, size_t bytes) const = 0;
  virtual size_t bytes_in_use() const = 0;
  virtual size_t bytes_reserved() const = 0;
};

struct NodeOptions {
  // Virtual size of the shared heap; pages are taken when touched. 0: the machine's memory.
  size_t heap_bytes = 0;
  // Address that peers on other machines connect to; empty: of the interface that reaches the
  // store's host (CONVOY_INTERFACE or CONVOY_ADDRESS override it).
  std::string address;
  // Connections for each pair of ranks in a group that spans machines; the group uses the smallest
  // number that one of its ranks wants. 0: one for every two cores, 1 to 4.
  int tcp_streams = 0;
  // Ranks with equal ids share memory, others are joined by TCP. Empty: CONVOY_HOST_ID, else found
  // from the machine's boot id and network namespace. Set it to treat one machine as several.
  std::string host_id;
};

// One process's end of the host backend: its heap, its maps of the peers' heaps, its connections,
// and one watcher thread that hands out the heap's descriptor and notices peers that die. All
// groups of the process share it. Ranks that are threads of one test each make their own.
class Node {
 public:
  static Result<std::shared_ptr<Node>> create(const NodeOptions& options);
  // The process-wide instance that c10d groups and the allocator use, made on first use.
  static Result<std::shared_ptr<Node>> process_wide();
  virtual ~Node() = default;
  virtual SharedHeap& heap() = 0;
};

}  // namespace convoy::host
