#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

namespace convoy::python {

// Process groups that Python made, so that they can be aborted by a thread that never takes the
// interpreter lock, and their operations, so that the page of vitals tells who waits for others.
// Thread safe.
class GroupWatch {
 public:
  // The TCP connections of this process, by inode.
  static std::set<uint64_t> sockets();

  // `group` has just been made; `before`: sockets() before that. Those that came with a group of
  // Gloo are its connections (and whatever another thread opened meanwhile): Gloo has no abort, so
  // they are cut instead.
  void add(const c10::intrusive_ptr<c10d::ProcessGroup>& group, const std::set<uint64_t>& before);
  // Ends whatever waits in one of the groups, here and on their other ranks. Blocks on GPUs only.
  void abort();
  // Forgets them; what they are doing is not counted any more.
  void clear();

 private:
  // Operations that are going on, of the groups since the last clear().
  struct Pending;
  static void count(c10d::ProcessGroup& group, const std::shared_ptr<Pending>& pending);

  std::mutex mutex_;
  std::vector<c10::intrusive_ptr<c10d::ProcessGroup>> groups_;
  std::set<uint64_t> connections_;  // of Gloo's groups
  std::shared_ptr<Pending> pending_;
};

}  // namespace convoy::python
