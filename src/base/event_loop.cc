// The epoll loop. Level-triggered, because callers may read only part of what is there.
#include <convoy/base/event_loop.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <sys/epoll.h>

namespace convoy {
namespace {

constexpr int kEventsMax = 64;  // collected by one epoll_wait; the rest waits for the next
constexpr int64_t kWaitMsMax = 60'000;

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return errno_status("creating an epoll descriptor", errno);
  return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll)));
}

Status EventLoop::watch(int fd, uint32_t events, Callback callback) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return errno_status("watching descriptor " + std::to_string(fd), errno);
  }
  watched_[fd] = std::make_shared<Callback>(std::move(callback));
  return ok_status();
}

void EventLoop::unwatch(int fd) {
  if (watched_.erase(fd) > 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::after(Nanos delay, std::function<void()> callback) {
  const TimerId id{Clock::system().now() + delay, next_timer_++};
  timers_.emplace(id, std::move(callback));
  return id;
}

int EventLoop::wait_ms() const {
  if (timers_.empty()) return -1;
  const Nanos left = timers_.begin()->first.first - Clock::system().now();
  const int64_t ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::clamp<int64_t>(ms, 0, kWaitMsMax));
}

void EventLoop::fire_timers() {
  while (!stopped_ && !timers_.empty() && timers_.begin()->first.first <= Clock::system().now()) {
    auto timer = timers_.extract(timers_.begin());
    timer.mapped()();
  }
}

Status EventLoop::run() {
  stopped_ = false;
  std::array<epoll_event, kEventsMax> events;
  while (!stopped_) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), kEventsMax, wait_ms());
    if (count < 0 && errno != EINTR) return errno_status("waiting for events", errno);
    for (int i = 0; i < count && !stopped_; ++i) {
      const auto found = watched_.find(events[i].data.fd);
      if (found == watched_.end()) continue;  // unwatched by a callback of this round
      const std::shared_ptr<Callback> callback = found->second;
      (*callback)(events[i].events);
    }
    fire_timers();
  }
  return ok_status();
}

}  // namespace convoy
