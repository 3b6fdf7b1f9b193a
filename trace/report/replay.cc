#include <convoy/trace/replay.h>
#include <convoy/trace/stream.h>

#include <algorithm>

namespace convoy::trace {
namespace {

constexpr int64_t kLookEveryNs = 250'000'000;

class Driver : public Sink {
 public:
  Driver(Replay& replay, const ReplayOptions& options)
      : replay_(replay), at_end_(options.at_end), diagnoser_(replay.registry, options.diagnoser) {}

  void job(const JobInfo& job) override {
    diagnoser_.job(job);
    if (replay_.summary) replay_.summary->job(job);
  }

  void batch(const Batch& batch) override {
    ++replay_.batches;
    // By the order in which they came, as a running job's are.
    if (batch.received > 0) {
      now_ = std::max(now_, batch.received);
    } else if (batch.state) {
      now_ = std::max(now_, batch.state->time);
    } else {  // another program's
      for (const auto& o : batch.operations) now_ = std::max({now_, o.issued, o.completed});
      for (const auto& s : batch.spans) now_ = std::max(now_, s.end);
    }
    if (!at_end_ && now_ - looked_ >= kLookEveryNs) {
      diagnoser_.diagnose(now_);
      looked_ = now_;
    }
    diagnoser_.batch(batch);
    if (replay_.summary) replay_.summary->batch(batch);
  }

  void clock(const ClockSample& sample) override {
    diagnoser_.clock(sample);
    if (replay_.summary) replay_.summary->clock(sample);
  }

  void finish() {
    diagnoser_.diagnose(now_);
    replay_.end = now_;
    replay_.verdicts = diagnoser_.verdicts();
    replay_.hints = diagnoser_.hints();
    if (!replay_.summary) return;
    replay_.summary->finish();
    replay_.summary->set_verdicts(replay_.verdicts);
    replay_.summary->set_hints(replay_.hints);
  }

 private:
  Replay& replay_;
  bool at_end_;
  Diagnoser diagnoser_;
  int64_t now_ = 0, looked_ = 0;
};

}  // namespace

Result<std::unique_ptr<Replay>> replay_stream(const std::filesystem::path& path,
                                              const ReplayOptions& options) {
  auto replay = std::make_unique<Replay>();
  if (options.summary) replay->summary = std::make_unique<Summary>(replay->registry);
  Driver driver(*replay, options);
  CONVOY_RETURN_IF_ERROR(read_stream(path, replay->registry, driver, &replay->truncated));
  driver.finish();
  return replay;
}

}  // namespace convoy::trace
