#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/trace/event.h>
#include <convoy/trace/verdict.h>

#include <cstdint>
#include <memory>
#include <string>

namespace convoy::trace {

struct AlertOptions {
  std::string url;  // http:// or https://, whose certificate is checked
  std::string job;
  double cost_min = 0;  // verdicts that cost less of the step are not told
  double confidence_min = 0.5;
  uint32_t attempts_max = 6;                    // for each
  Nanos first_retry = std::chrono::seconds(1);  // then twice as long each time, at most a minute
  Nanos timeout = std::chrono::seconds(5);      // of one attempt
  uint32_t queue_max = 64;                      // the oldest that waits makes room
};

// Tells verdicts to a webhook: POST of one JSON object (docs/trace_page.md), on a thread of its
// own. The same trouble is told once when it is found and once when it is over, however often its
// verdict changes meanwhile.
class Alerts {
 public:
  // kInvalidArgument: no such URL; kFailedPrecondition: no libcurl. Connects later. `registry`
  // outlives it and is read in tell() only.
  static Result<std::unique_ptr<Alerts>> start(const Registry& registry,
                                               const AlertOptions& options);
  // Tries each that waits once more, as far as one time-out allows.
  ~Alerts();
  // New and changed ones, as Diagnoser::diagnose() gives them; one thread calls it. Never waits for
  // the network.
  void tell(const Verdict& verdict);

  struct Counts {
    uint64_t sent = 0, failed = 0, retried = 0, dropped = 0;
  };
  Counts counts() const;  // from any thread

 private:
  struct Impl;
  explicit Alerts(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::trace
