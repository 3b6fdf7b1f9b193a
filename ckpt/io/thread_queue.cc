// The queue where there is no io_uring: each thread performs one request at a time.
#include "ckpt/io/io_queue.h"

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <fcntl.h>
#include <mutex>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

constexpr mode_t kMode = 0644;

class ThreadQueue final : public IoQueue {
 public:
  ThreadQueue(unsigned threads, std::function<void()> on_done) : on_done_(std::move(on_done)) {
    for (unsigned i = 0; i < threads; ++i) add_thread();
  }

  ~ThreadQueue() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  void start(IoRequest* request) override {
    {
      const std::lock_guard lock(mutex_);
      todo_.push_back(request);
    }
    work_.notify_one();
  }

  void wait(std::vector<IoRequest*>& done, Nanos timeout) override {
    std::unique_lock lock(mutex_);
    if (timeout > Nanos::zero()) {
      ended_.wait_for(lock, timeout, [&] { return woken_ || !done_.empty(); });
    }
    woken_ = false;
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
  }

  void wake() override {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    ended_.notify_one();
  }

  void replace_lost() override { add_thread(); }

 private:
  void add_thread() {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      // One thread less is slower; none at all is what the stall limit reports.
    }
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return stop_ || !todo_.empty(); });
      if (todo_.empty()) return;
      IoRequest* request = todo_.front();
      todo_.pop_front();
      lock.unlock();
      request->result = perform(*request);
      lock.lock();
      done_.push_back(request);
      ended_.notify_one();
      if (on_done_) on_done_();
    }
  }

  std::function<void()> on_done_;
  std::mutex mutex_;
  std::condition_variable work_, ended_;
  std::deque<IoRequest*> todo_;
  std::vector<IoRequest*> done_;
  bool stop_ = false;
  bool woken_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

int64_t perform(const IoRequest& r) {
  const auto offset = static_cast<off_t>(r.offset);
  int64_t n = 0;
  switch (r.op) {
    case IoOp::kOpen:
      n = ::open(r.path, r.flags, kMode);
      break;
    case IoOp::kRead:
      n = ::pread(r.fd, r.data, r.bytes, offset);
      break;
    case IoOp::kWrite:
      n = ::pwrite(r.fd, r.data, r.bytes, offset);
      break;
    case IoOp::kAllocate:
      n = ::fallocate(r.fd, 0, 0, offset);
      break;
    case IoOp::kTruncate:
      n = ::ftruncate(r.fd, offset);
      break;
    case IoOp::kSync:
      n = ::fsync(r.fd);
      break;
  }
  return n < 0 ? -errno : n;
}

std::unique_ptr<IoQueue> make_thread_queue(unsigned threads, std::function<void()> on_done) {
  return std::make_unique<ThreadQueue>(threads, std::move(on_done));
}

}  // namespace convoy::ckpt
