#include "src/resilience/supervisor/webhook.h"

#include "src/http/post.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <utility>

namespace convoy::resilience {

Webhook::Webhook(Options options) : options_(std::move(options)), thread_([this] { work(); }) {}

Webhook::~Webhook() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    last_ = Deadline::after(options_.farewell);
  }
  changed_.notify_all();
  thread_.join();
}

void Webhook::tell(std::string json) {
  {
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= options_.queue_max) queue_.pop_front();
    queue_.push_back(std::move(json));
  }
  changed_.notify_all();
}

void Webhook::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ends_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const std::string json = std::move(queue_.front());
    queue_.pop_front();
    for (int i = 1;; ++i) {
      lock.unlock();
      const bool is_settled = attempt(json, i);
      lock.lock();
      if (is_settled) break;
      const Nanos pause = options_.first_retry * (int64_t{1} << (i - 1));
      changed_.wait_for(lock, std::min(pause, last_.left()), [this] { return ends_; });
    }
    if (ends_ && last_.passed()) return;
  }
}

bool Webhook::attempt(const std::string& json, int attempt) {
  Nanos left = options_.timeout;
  {
    const std::lock_guard lock(mutex_);
    left = std::min(left, last_.left());
  }
  // libcurl takes 0 for "without a limit".
  const Status told = left < std::chrono::milliseconds(1)
                          ? Status(Code::kDeadlineExceeded, "the job has ended")
                          : http::post_json(options_.url, json, left);
  const std::lock_guard lock(mutex_);
  if (told.ok()) {
    failure_is_told_ = false;
    return true;
  }
  const bool may_mend = told.code() == Code::kUnavailable && attempt < options_.attempts;
  if (may_mend && !last_.passed()) return false;
  if (!std::exchange(failure_is_told_, true)) {
    CONVOY_LOG(Warn) << "--webhook was not told of an incident or the job's end: "
                     << told.message();
  }
  return true;
}

}  // namespace convoy::resilience
