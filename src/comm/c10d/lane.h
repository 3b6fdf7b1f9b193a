#pragma once

#include <convoy/base/clock.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

namespace convoy::comm {

// One step of a lane. perform() does the work and must not throw; settle() then tells those who are
// interested (futures, hooks), with no lane lock held: it may run anything, also more steps.
class Step {
 public:
  virtual ~Step() = default;
  virtual void perform() = 0;
  virtual void settle() = 0;

 private:
  friend class Lane;
  bool done_ = false;  // guarded by the lane's mutex
  TimePoint queued_at_;
};

// The order of the collectives of one group. One step runs at a time, in the order in which they
// were given; on the thread that needs the result if there is one, so that the usual case has no
// hand-over between threads, else on a worker thread that is made on first use.
//
// Ownership: shared by the Backend, the Works that wait in it, and its worker. Threads: all methods
// from any thread. Ends: its owner calls close(), which performs what is queued and joins the
// worker; later steps still run for those who wait for them.
class Lane : public std::enable_shared_from_this<Lane> {
 public:
  Lane() = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Queues the step; the worker performs it if nobody comes to wait for it within kGrace.
  void start(std::shared_ptr<Step> step);
  // Queues the step and performs the queue up to it on this thread.
  void run(std::shared_ptr<Step> step);
  // Returns once `step` is done, performing the queue up to it on this thread where it can.
  void wait(const Step& step);
  // As wait(), but leaves the work to the worker; false when the time is up.
  bool wait_for(const Step& step, std::chrono::milliseconds timeout);
  bool is_done(const Step& step);
  void close();

  // The worker lets the caller come back and take a step itself before it does; waking it at once
  // would cost two context switches for each call that is soon waited for.
  static constexpr Nanos kGrace = std::chrono::microseconds(200);

 private:
  void worker_main();
  // Performs the first queued step. Needs the lock and an idle lane; returns with the lock held.
  void perform_front(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable done_;    // a step completed
  std::condition_variable queued_;  // for the worker
  std::deque<std::shared_ptr<Step>> queue_;
  bool busy_ = false;           // a step is being performed
  bool worker_asleep_ = false;  // has to be woken when something is queued
  bool worker_needed_ = false;  // somebody waits without performing
  bool closed_ = false;
  std::thread worker_;
};

}  // namespace convoy::comm
