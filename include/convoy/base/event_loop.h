#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>

namespace convoy {

// A small epoll loop: callbacks for descriptors and timers, all on the thread that calls run().
//
// Threads: one thread owns a loop and makes every call. Descriptors stay the caller's and must be
// unwatched before they are closed. Callbacks may watch, unwatch (themselves too), set and cancel
// timers, and stop. Descriptors that became ready at different moments are served in that order:
// of two processes watched by pidfd, the one that died first is reported first.
class EventLoop {
 public:
  // `events` are epoll's bits (EPOLLIN, ...).
  using Callback = std::function<void(uint32_t events)>;
  using TimerId = std::pair<TimePoint, uint64_t>;

  static Result<std::unique_ptr<EventLoop>> create();

  // Calls `callback` whenever one of `events` (or an error, or hang-up) holds for `fd`.
  Status watch(int fd, uint32_t events, Callback callback);
  // Forgets `fd`; its callback is not called again, not even for events already collected.
  void unwatch(int fd);
  // Calls `callback` once, `delay` from now.
  TimerId after(Nanos delay, std::function<void()> callback);
  // Forgets a timer; one that has fired or was cancelled is fine.
  void cancel(TimerId timer) { timers_.erase(timer); }

  // Serves events until stop() is called from a callback.
  Status run();
  void stop() { stopped_ = true; }

 private:
  explicit EventLoop(UniqueFd epoll) : epoll_(std::move(epoll)) {}
  int wait_ms() const;
  void fire_timers();

  UniqueFd epoll_;
  std::map<int, std::shared_ptr<Callback>> watched_;  // shared with the call in progress, so that
                                                      // a callback may unwatch itself
  std::map<TimerId, std::function<void()>> timers_;
  uint64_t next_timer_ = 0;
  bool stopped_ = false;
};

}  // namespace convoy
