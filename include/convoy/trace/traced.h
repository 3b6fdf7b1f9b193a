#pragma once

#include <convoy/base/fd.h>
#include <convoy/trace/event.h>
#include <convoy/trace/segment.h>

#include <memory>
#include <string>
#include <vector>

// The processes of this machine that record, seen from outside through /proc.
namespace convoy::trace {

struct Traced {
  int pid = 0;
  std::shared_ptr<Segment> segment;
};

// The segment that the process made; null: it has none (yet), has gone, or is another user's.
std::shared_ptr<Segment> segment_of(int pid, bool writable = false);
// All processes that /proc shows to this user.
std::vector<int> all_processes();
// Those that its threads have started and that live.
std::vector<int> children_of(int pid);
// A variable of the environment that the process began with; "": none, or not to be read.
std::string environment_of(int pid, const std::string& variable);

// What wait() says: kKilled with the signal, or kExited with the code.
Life life_of_wait_status(int status, int32_t& exit_code);

// Follows the life of a process that is not a child of the caller's. One thread at a time.
class ProcessWatch {
 public:
  explicit ProcessWatch(int pid);

  // How it is now. Of a process that has ended: kKilled with the signal, or kExited with the code,
  // -1 where nobody could see it (the kernel tells since Linux 6.15; before, only as long as its
  // parent has not waited for it).
  Life look(int32_t& exit_code);
  // Readable when the process has ended; -1: it could not be opened.
  int fd() const { return pidfd_.get(); }

 private:
  Life ended(int32_t& exit_code) const;

  int pid_;
  UniqueFd pidfd_;
  // Of the last look, for one that has ended since.
  Life last_ = Life::kUnknown;
  int32_t last_code_ = -1;
};

}  // namespace convoy::trace
