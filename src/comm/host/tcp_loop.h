#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

namespace convoy::host {

// One thread and one epoll: calls a handler when its descriptor is ready, and posted functions in
// order. Owned by a TcpEndpoint. add/remove/modify and timers are for the loop's own thread; post()
// and run_now() may be called from any thread.
class TcpLoop {
 public:
  using Handler = std::function<void(uint32_t events)>;
  TcpLoop() = default;
  ~TcpLoop();  // stops
  TcpLoop(const TcpLoop&) = delete;
  TcpLoop& operator=(const TcpLoop&) = delete;

  Status start();
  // Joins the thread; what was posted before has run. Not from the loop's thread.
  void stop();
  bool on_loop() const { return std::this_thread::get_id() == thread_id_.load(); }

  // Runs `task` on the loop soon; dropped once the loop has stopped.
  void post(std::function<void()> task);
  // Runs `task` on the loop and returns after it. On the loop's own thread: at once.
  void run_now(const std::function<void()>& task);

  Status add(int fd, uint32_t events, Handler handler);
  Status modify(int fd, uint32_t events);
  // After this the handler is not called again, not even for an event already reported.
  void remove(int fd);
  void run_after(Nanos delay, std::function<void()> task);

 private:
  void main();
  void run_posted();
  int run_timers();  // ms until the next one, -1: none

  UniqueFd epoll_;
  UniqueFd wake_;
  std::thread thread_;
  std::atomic<std::thread::id> thread_id_{};
  std::mutex mutex_;  // guards posted_ and stopping_
  std::vector<std::function<void()>> posted_;
  bool stopping_ = true;
  std::unordered_map<int, std::shared_ptr<Handler>> handlers_;  // loop only
  std::multimap<TimePoint, std::function<void()>> timers_;      // loop only
};

}  // namespace convoy::host
