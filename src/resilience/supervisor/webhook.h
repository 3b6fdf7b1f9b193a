#pragma once

#include <convoy/base/clock.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

namespace convoy::resilience {

// Tells a URL of incidents, one after the other in their order, on a thread of its own: whoever
// answers slowly, or not at all, holds up nothing. What can't be told is dropped, which is logged
// once.
class Webhook {
 public:
  struct Options {
    std::string url;
    Nanos timeout = std::chrono::seconds(3);  // of one attempt
    int attempts = 4;
    Nanos first_retry = std::chrono::milliseconds(500);  // then twice as long each time
    Nanos farewell = std::chrono::seconds(2);            // for what is left at the end
    size_t queue_max = 256;                              // then the oldest is dropped
  };

  explicit Webhook(Options options);
  // Blocks for `farewell` at most.
  ~Webhook();
  void tell(std::string json);

 private:
  void work();
  // Whether it is settled: told, or given up.
  bool attempt(const std::string& json, int attempt);

  const Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> queue_;
  bool ends_ = false;
  Deadline last_ = Deadline::never();
  bool failure_is_told_ = false;
  std::thread thread_;
};

}  // namespace convoy::resilience
