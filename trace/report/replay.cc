#include "trace/stream/by_time.h"
#include <convoy/trace/replay.h>
#include <convoy/trace/stream.h>

#include <algorithm>

namespace convoy::trace {
namespace {

constexpr int64_t kLookEveryNs = 250'000'000;

class Driver : public Sink {
 public:
  // `checks`: whether batches come as from a running job; those behind one that does not are left
  // out.
  Driver(Replay& replay, const ReplayOptions& options, bool checks)
      : replay_(replay),
        checks_(checks),
        diagnosing_(replay.registry, options.diagnoser, options.at_end) {}
  bool in_order() const { return in_order_; }

  void job(const JobInfo& job) override {
    diagnosing_.job(job);
    if (replay_.summary) replay_.summary->job(job);
  }

  void batch(const Batch& batch) override {
    in_order_ = in_order_ && (!checks_ || order_.is_next(batch));
    if (!in_order_) return;
    ++replay_.batches;
    diagnosing_.batch(batch);
    if (replay_.summary) replay_.summary->batch(batch);
  }

  void clock(const ClockSample& sample) override {
    diagnosing_.clock(sample);
    if (replay_.summary) replay_.summary->clock(sample);
  }

  void finish() {
    diagnosing_.finish();
    replay_.end = diagnosing_.now();
    replay_.verdicts = diagnosing_.diagnoser().verdicts();
    replay_.hints = diagnosing_.diagnoser().hints();
    if (!replay_.summary) return;
    replay_.summary->finish();
    replay_.summary->set_verdicts(replay_.verdicts);
    replay_.summary->set_hints(replay_.hints);
  }

 private:
  Replay& replay_;
  const bool checks_;
  OrderCheck order_;
  bool in_order_ = true;
  Diagnosing diagnosing_;
};

std::unique_ptr<Replay> make_replay(const ReplayOptions& options) {
  auto replay = std::make_unique<Replay>();
  if (options.summary) replay->summary = std::make_unique<Summary>(replay->registry);
  return replay;
}

// Once more from the beginning, put in order.
Result<std::unique_ptr<Replay>> replay_by_time(const std::filesystem::path& path,
                                               const ReplayOptions& options) {
  auto replay = make_replay(options);
  ByTime all;
  CONVOY_RETURN_IF_ERROR(read_stream(path, replay->registry, all, &replay->truncated));
  Driver driver(*replay, options, false);
  all.give(driver);
  driver.finish();
  return replay;
}

}  // namespace

void Diagnosing::batch(const Batch& batch) {
  now_ = std::max(now_, batch.received);
  if (!at_end_ && now_ - looked_ >= kLookEveryNs) {
    diagnoser_.diagnose(now_);
    looked_ = now_;
  }
  diagnoser_.batch(batch);
}

Result<std::unique_ptr<Replay>> replay_stream(const std::filesystem::path& path,
                                              const ReplayOptions& options) {
  auto replay = make_replay(options);
  Driver driver(*replay, options, true);
  CONVOY_RETURN_IF_ERROR(read_stream(path, replay->registry, driver, &replay->truncated));
  if (!driver.in_order()) return replay_by_time(path, options);
  driver.finish();
  return replay;
}

}  // namespace convoy::trace
