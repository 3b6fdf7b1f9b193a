#include "src/http/post.h"
#include "trace/summary/impl.h"
#include <convoy/base/log.h>
#include <convoy/trace/alerts.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

namespace convoy::trace {
namespace {

constexpr Nanos kRetryMax = std::chrono::minutes(1);
constexpr size_t kKnownMax = 4096;

// What makes two verdicts the same trouble.
std::string key_of(const Verdict& v) {
  std::string key = name_of(v.cls);
  for (const uint32_t rank : v.culprit.ranks) key += " r" + std::to_string(rank);
  for (const std::string& host : v.culprit.hosts) key += " h" + host;
  for (const auto& [from, to] : v.culprit.links) {
    key += " l" + std::to_string(from) + ">" + std::to_string(to);
  }
  for (const uint32_t group : v.culprit.groups) key += " g" + std::to_string(group);
  return key + " s" + std::to_string(v.culprit.stage);
}

}  // namespace

struct Alerts::Impl {
  struct Alert {
    std::string body;
    uint32_t attempts = 0;
    TimePoint due{};
  };

  Impl(const Registry& names, const AlertOptions& wanted) : registry(names), options(wanted) {}
  void work();
  void attempt(Alert alert);

  const Registry& registry;
  AlertOptions options;
  std::set<std::string> open;  // told, not over; of tell()'s thread
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<Alert> queue;
  Counts counts;
  bool ends = false;
  Deadline last = Deadline::never();
  std::thread thread;
};

void Alerts::Impl::attempt(Alert alert) {
  const Nanos left = std::min(options.timeout, last.left());
  const Status status = http::post_json(options.url, alert.body, left);
  const std::lock_guard lock(mutex);
  ++alert.attempts;
  if (status.ok()) {
    ++counts.sent;
    return;
  }
  if (status.code() != Code::kUnavailable || alert.attempts >= options.attempts_max || ends) {
    ++counts.failed;
    CONVOY_LOG(Warn) << "an alert was not told, after " << alert.attempts
                     << " attempts: " << status.message();
    return;
  }
  ++counts.retried;
  const Nanos wait =
      std::min(kRetryMax, options.first_retry * (int64_t{1} << std::min(alert.attempts - 1, 20U)));
  alert.due = Clock::system().now() + wait;
  queue.push_back(std::move(alert));
}

void Alerts::Impl::work() {
  std::unique_lock lock(mutex);
  for (;;) {
    if (queue.empty()) {
      if (ends) return;
      changed.wait(lock);
      continue;
    }
    const auto next = std::ranges::min_element(queue, {}, &Alert::due);
    if (ends && last.passed()) {
      counts.failed += queue.size();
      return;
    }
    if (const auto due = next->due; !ends && due > Clock::system().now()) {
      changed.wait_until(lock, due);  // by a copy: the queue changes meanwhile
      continue;
    }
    Alert alert = std::move(*next);
    queue.erase(next);
    lock.unlock();
    attempt(std::move(alert));
    lock.lock();
  }
}

Alerts::Alerts(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Alerts::~Alerts() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ends = true;
    impl_->last = Deadline::after(impl_->options.timeout);
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

Result<std::unique_ptr<Alerts>> Alerts::start(const Registry& registry,
                                              const AlertOptions& options) {
  if (!options.url.starts_with("http://") && !options.url.starts_with("https://")) {
    return Status(Code::kInvalidArgument, "a webhook's URL begins with http:// or https://");
  }
  CONVOY_RETURN_IF_ERROR(http::can_post());
  auto impl = std::make_unique<Impl>(registry, options);
  impl->thread = std::thread([raw = impl.get()] { raw->work(); });
  return std::unique_ptr<Alerts>(new Alerts(std::move(impl)));
}

void Alerts::tell(const Verdict& verdict) {
  Impl& s = *impl_;
  if (verdict.cls == Class::kWarmUp) return;  // passes by itself
  const std::string key = key_of(verdict);
  if (verdict.cleared == 0) {
    if (verdict.cost < s.options.cost_min || verdict.confidence < s.options.confidence_min) return;
    if (s.open.size() >= kKnownMax || !s.open.insert(key).second) return;
  } else if (s.open.erase(key) == 0) {
    return;  // was never told
  }
  const nlohmann::ordered_json body = {{"job", s.options.job},
                                       {"state", verdict.cleared == 0 ? "open" : "over"},
                                       {"verdict", verdict_json(verdict, s.registry)}};
  {
    const std::lock_guard lock(s.mutex);
    if (s.queue.size() >= std::max(1U, s.options.queue_max)) {
      s.queue.pop_front();
      ++s.counts.dropped;
    }
    s.queue.push_back({.body = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                       .due = Clock::system().now()});
  }
  s.changed.notify_all();
}

Alerts::Counts Alerts::counts() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->counts;
}

}  // namespace convoy::trace
