#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <cstddef>
#include <memory>
#include <span>

namespace convoy::ckpt {

// Shared memory that snapshots are copied into: a memfd, so it has no name, needs no room in
// /dev/shm and vanishes with its last holder. It is made once and used for every save, because the
// first touch of a page costs about ten times its copy. Whoever has the descriptor maps the same
// pages in another process (pass it over a unix socket or by fork); the memory lives for as long as
// anyone holds descriptor or mapping.
//
// The size is sealed: nobody, hostile or mistaken, can shrink it under another's mapping. Huge
// pages are used where they can be had: reserved ones, else transparent ones, which are made while
// the pages are touched (MADV_COLLAPSE, Linux 6.1). Disk requests from them are about twice as
// fast, since a block is a few pieces of memory and not a thousand. Where there are none, one log
// line says so and ordinary pages do.
//
// Thread-safe, but for what the bytes themselves demand. Shared ownership: an asynchronous reader
// or writer of the memory holds the pointer.
class Arena {
 public:
  struct Options {
    // Threads that touch the pages in the background; 0: pages are made when first used. At
    // most 64.
    int touch_threads = 2;
    bool huge_pages = true;
  };

  // A new arena, zeroed, of at least `bytes` (rounded up to whole pages). Returns at once; the
  // pages are touched in the background and may be used meanwhile. kInvalidArgument for 0 bytes or
  // above 2^46; kResourceExhausted if the machine or the control group has less memory left than
  // that (checked because a page that can't be made is fatal later).
  static Result<std::shared_ptr<Arena>> create(size_t bytes, const Options& options);
  static Result<std::shared_ptr<Arena>> create(size_t bytes) { return create(bytes, Options()); }

  // Maps the first `bytes` of another process's arena; takes a duplicate of `fd`. A writable map is
  // touched in the background as well, so that its first use is as fast as later ones.
  // kInvalidArgument if `fd` is not a sealed arena or is smaller.
  static Result<std::shared_ptr<Arena>> map(int fd, size_t bytes, bool writable,
                                            const Options& options);
  static Result<std::shared_ptr<Arena>> map(int fd, size_t bytes, bool writable) {
    return map(fd, bytes, writable, Options());
  }

  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  // Ends the touching, unmaps. Waits for the threads for the page that each of them is at.
  ~Arena();

  // Page-aligned. Writing to a read-only map is a fault of the program (SIGSEGV).
  std::span<std::byte> bytes() const;
  size_t size() const { return bytes().size(); }
  // Owned by the arena; for passing on.
  int fd() const;
  bool writable() const;
  // Whether reserved huge pages back it. (Transparent ones come and go with the system's mood.)
  bool reserved_huge_pages() const;

  // Blocks until all pages have been touched. kResourceExhausted if memory ran out on the way.
  Status wait_touched();

 private:
  struct Impl;
  explicit Arena(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::ckpt
