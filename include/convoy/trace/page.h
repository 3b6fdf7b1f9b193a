#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/event.h>
#include <convoy/trace/summary.h>
#include <convoy/trace/verdict.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace convoy::trace {

struct PageOptions {
  std::string address = "127.0.0.1";  // others need a token
  uint16_t port = 0;                  // 0: any
  std::string token;                  // empty: none
  uint32_t connections_max = 64;      // at a time; each is closed once it is answered
};

// A running job as a web page, as JSON (/api/…) and for Prometheus (/metrics); docs/trace_page.md
// describes all three. Reads only: nothing that a client sends changes anything.
//
// A Sink: one thread gives it the job's events, the aggregator's. That one waits for a client only
// while a view is being made, at most once a second for each view and some ms at 10,000 ranks.
class Page : public Sink {
 public:
  // Listens when it returns. `registry` outlives the page, and only the sink's thread changes it.
  // kAlreadyExists: somebody has the port; kInvalidArgument: an open address without a token.
  static Result<std::unique_ptr<Page>> start(const Registry& registry, const PageOptions& options,
                                             const SummaryOptions& summary = {});
  // Answers what has begun, and ends.
  ~Page() override;

  void job(const JobInfo& job) override;
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override;
  // All of them as they stand, on the sink's thread.
  void set_verdicts(const std::vector<Verdict>& verdicts);
  void set_hints(const std::vector<Hint>& hints);

  uint16_t port() const;
  std::string url() const;  // without the token

 private:
  struct Impl;
  explicit Page(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::trace
