// One thread a stream; waiting passes demands on to the streams that a task depends on.
#include "src/standin/core/stream.h"

#include <algorithm>
#include <utility>

namespace convoy::standin {
namespace {

// splitmix64: neighbouring inputs give unrelated outputs.
uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

bool Schedule::holds(int device, uint64_t stream, uint64_t number) const {
  if (seed == 0) return false;
  const uint64_t where = mixed(mixed(seed) ^ (static_cast<uint64_t>(device) << 32 ^ stream));
  return mixed(where ^ number) % Stream::kHoldOneIn == 0;
}

// One thread for all streams of the process: it costs one wake-up in a while, not one a task.
class Stream::Alarm {
 public:
  static Alarm& get() {
    static auto* alarm = new Alarm;  // never destroyed: streams are used until the very end
    return *alarm;
  }

  void add(std::weak_ptr<Stream> stream) {
    const std::lock_guard lock(mutex_);
    armed_.push_back(std::move(stream));
    if (asleep_) changed_.notify_one();
  }

 private:
  Alarm() {
    std::thread([this] { main(); }).detach();
  }

  void main() {
    std::unique_lock lock(mutex_);
    for (;;) {
      asleep_ = true;
      changed_.wait(lock, [&] { return !armed_.empty(); });
      asleep_ = false;
      lock.unlock();
      std::this_thread::sleep_for(kGather);
      lock.lock();
      const auto due = std::exchange(armed_, {});
      lock.unlock();
      for (const auto& weak : due) {
        if (const auto stream = weak.lock()) stream->wake();
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::weak_ptr<Stream>> armed_;
  bool asleep_ = false;
};

Stream::~Stream() {
  stop();
  if (!thread_.joinable()) return;
  if (thread_.get_id() == std::this_thread::get_id()) {
    thread_.detach();  // the last reference was a task's own
  } else {
    thread_.join();
  }
}

Ticket Stream::enqueue(Task task) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(task));
  ++enqueued_;
  if (!thread_.joinable() && !stopping_) thread_ = std::thread([this] { main(); });
  if (asleep_ && queue_.size() >= kBatch) {
    work_.notify_one();
  } else if (asleep_ && !armed_) {
    armed_ = true;
    Alarm::get().add(shared_from_this());
  }
  return {shared_from_this(), enqueued_};
}

Ticket Stream::last() {
  const std::lock_guard lock(mutex_);
  return {shared_from_this(), enqueued_};
}

bool Stream::is_done(uint64_t number) {
  const std::lock_guard lock(mutex_);
  return done_ >= number;
}

void Stream::wait(uint64_t number) {
  demand(number);
  await(number);
}

void Stream::await(uint64_t number) {
  std::unique_lock lock(mutex_);
  if (done_ < number) work_.notify_one();
  const auto mine = awaited_.insert(number);
  progress_.wait(lock, [&] { return done_ >= number || stopping_; });
  awaited_.erase(mine);
}

void Stream::wake() {
  const std::lock_guard lock(mutex_);
  armed_ = false;
  work_.notify_one();
}

// Somebody must have the first `number` tasks: nothing on the way to them is held any more.
void Stream::demand(uint64_t number) {
  std::vector<Ticket> needed;
  {
    const std::lock_guard lock(mutex_);
    if (demanded_ >= number) return;
    const uint64_t before = std::max(demanded_, done_);
    demanded_ = number;
    for (uint64_t n = before + 1; n <= number && n - done_ <= queue_.size(); ++n) {
      const Task& task = queue_[n - done_ - 1];
      needed.insert(needed.end(), task.after.begin(), task.after.end());
    }
  }
  work_.notify_one();
  for (const Ticket& ticket : needed) ticket.stream->demand(ticket.number);
}

void Stream::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  work_.notify_one();
  progress_.notify_all();
}

void Stream::main() {
  std::unique_lock lock(mutex_);
  while (true) {
    asleep_ = true;
    work_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    asleep_ = false;
    if (stopping_) return;
    // The front stays where it is: demand() looks for it there.
    const std::vector<Ticket> after = queue_.front().after;
    const uint64_t number = done_ + 1;
    lock.unlock();
    for (const Ticket& ticket : after) ticket.stream->await(ticket.number);
    lock.lock();
    if (schedule_.holds(device_, id_, number)) {
      work_.wait_for(lock, schedule_.hold_max, [&] { return stopping_ || demanded_ >= number; });
    }
    if (stopping_) return;
    std::function<void()> run = std::move(queue_.front().run);
    lock.unlock();
    if (run) run();
    run = nullptr;  // what it keeps goes before others see it done
    lock.lock();
    queue_.pop_front();
    done_ = number;
    if (!awaited_.empty() && *awaited_.begin() <= done_) progress_.notify_all();
  }
}

}  // namespace convoy::standin
