#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

// Streams that run for real beside the program, and are sometimes late on purpose.
//
// A stream performs its tasks in order on a thread of its own; a task may also wait for tasks of
// other streams. What CUDA leaves open (when a task runs between its launch and the moment somebody
// must have it) is decided by the seed: a held task runs only when the host waits for it, or for
// something that depends on it, or after Schedule::hold_max. Anything that reads its result without
// such a dependency therefore reads too early, in the same place for the same seed.
//
// Ranks outnumber cores, so threads change places as seldom as possible: a stream that has run out
// of tasks is not woken for each new one, but when somebody waits, when kBatch have gathered, or
// after kGather.
namespace convoy::standin {

class Stream;

// A point in a stream: its first `number` tasks.
struct Ticket {
  std::shared_ptr<Stream> stream;
  uint64_t number = 0;
};

struct Task {
  std::function<void()> run;
  std::vector<Ticket> after;
};

// Which tasks are held back, from (seed, device, stream, number). Seed 0: none.
struct Schedule {
  uint64_t seed = 0;
  std::chrono::nanoseconds hold_max = std::chrono::milliseconds(10);
  bool holds(int device, uint64_t stream, uint64_t number) const;
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  static constexpr uint64_t kHoldOneIn = 16;
  static constexpr size_t kBatch = 64;  // tasks
  static constexpr std::chrono::microseconds kGather{500};

  Stream(int device, uint64_t id, bool blocking, int priority, const Schedule& schedule)
      : device_(device), id_(id), blocking_(blocking), priority_(priority), schedule_(schedule) {}
  // Waits for the running task; what has not begun is dropped.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Never blocks. The thread is made at the first task.
  Ticket enqueue(Task task);
  // All that has been enqueued so far.
  Ticket last();
  bool is_done(uint64_t number);
  // Blocks until the first `number` tasks are done, and lets held ones run that stand in the way.
  // Not on a stream's thread.
  void wait(uint64_t number);
  // Ends the thread after the task that it is at. Later tasks are dropped.
  void stop();

  int device() const { return device_; }
  uint64_t id() const { return id_; }
  bool blocking() const { return blocking_; }  // takes part in the null stream's order
  int priority() const { return priority_; }

 private:
  void main();
  void demand(uint64_t number);
  void await(uint64_t number);
  class Alarm;
  void wake();  // what has gathered runs now

  const int device_;
  const uint64_t id_;
  const bool blocking_;
  const int priority_;
  const Schedule schedule_;
  std::mutex mutex_;
  std::condition_variable work_, progress_;  // for the thread; for who waits for it
  std::deque<Task> queue_;                   // front: task number done_ + 1
  uint64_t enqueued_ = 0, done_ = 0;
  uint64_t demanded_ = 0;            // tasks up to this one are not held any more
  std::multiset<uint64_t> awaited_;  // numbers of tasks
  bool stopping_ = false;
  bool asleep_ = false;  // the thread, for lack of tasks
  bool armed_ = false;   // the alarm will wake it
  std::thread thread_;
};

}  // namespace convoy::standin
