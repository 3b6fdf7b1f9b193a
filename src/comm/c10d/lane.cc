// Decides which thread performs a group's next collective: the one that waits for it, else the
// worker.
#include "src/comm/c10d/lane.h"

#include <convoy/base/vitals.h>

#include <utility>

namespace convoy::comm {
namespace {

// After its last step the worker looks at the queue this often, this many times, before it sleeps
// for good: while a backward pass queues bucket after bucket, nobody pays for waking it.
constexpr Nanos kNap = std::chrono::microseconds(500);
constexpr int kNapsMax = 20;

}  // namespace

void Lane::perform_front(std::unique_lock<std::mutex>& lock) {
  const std::shared_ptr<Step> step = std::move(queue_.front());
  queue_.pop_front();
  busy_ = true;
  lock.unlock();
  {
    const WaitingForOthers waiting;
    step->perform();
  }
  lock.lock();
  busy_ = false;
  step->done_ = true;
  lock.unlock();
  done_.notify_all();
  step->settle();
  lock.lock();
}

void Lane::start(std::shared_ptr<Step> step) {
  std::lock_guard lock(mutex_);
  step->queued_at_ = Clock::system().now();
  queue_.push_back(std::move(step));
  if (closed_) return;  // whoever waits performs it
  if (!worker_.joinable()) {
    worker_ = std::thread([self = shared_from_this()] { self->worker_main(); });
  } else if (worker_asleep_) {
    queued_.notify_one();
  }
}

void Lane::run(std::shared_ptr<Step> step) {
  const Step& mine = *step;
  std::unique_lock lock(mutex_);
  step->queued_at_ = Clock::system().now();
  queue_.push_back(step);
  while (!mine.done_) {
    if (busy_) {
      done_.wait(lock);
    } else {
      perform_front(lock);
    }
  }
}

void Lane::wait(const Step& step) {
  std::unique_lock lock(mutex_);
  while (!step.done_) {
    if (busy_) {
      done_.wait(lock);
    } else {
      perform_front(lock);
    }
  }
}

bool Lane::wait_for(const Step& step, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (step.done_) return true;
  worker_needed_ = true;
  queued_.notify_one();
  return done_.wait_for(lock, timeout, [&] { return step.done_; });
}

bool Lane::is_done(const Step& step) {
  std::lock_guard lock(mutex_);
  return step.done_;
}

void Lane::worker_main() {
  std::unique_lock lock(mutex_);
  int naps = 0;
  while (true) {
    if (queue_.empty() || busy_) {
      if (closed_ && queue_.empty()) return;
      if (busy_) {
        done_.wait(lock);
      } else if (closed_ || naps++ < kNapsMax) {
        queued_.wait_for(lock, kNap);
      } else {
        worker_asleep_ = true;
        queued_.wait(lock);
        worker_asleep_ = false;
        naps = 0;
      }
      continue;
    }
    const Nanos age = Clock::system().now() - queue_.front()->queued_at_;
    if (age < kGrace && !worker_needed_ && !closed_) {
      queued_.wait_for(lock, kGrace - age);
      continue;
    }
    worker_needed_ = false;
    naps = 0;
    perform_front(lock);
  }
}

void Lane::close() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  queued_.notify_all();
  std::thread worker = std::move(worker_);
  lock.unlock();
  if (!worker.joinable()) return;
  if (worker.get_id() == std::this_thread::get_id()) {
    worker.detach();  // closed from a step's settle(); the worker ends by itself
  } else {
    worker.join();
  }
}

}  // namespace convoy::comm
