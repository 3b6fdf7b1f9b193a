#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

// Streams that other programs have written: whose batches hold minutes, or stand rank by rank, or
// don't say when they came. The analysis wants them as they come from a running job.
namespace convoy::trace {

// Looks at batches in a file's order.
class OrderCheck {
 public:
  // Whether it could have come next from a running job.
  bool is_next(const Batch& batch);

 private:
  int64_t newest_ = 0;
};

// Keeps everything, in memory, and gives it out again cut into seconds, all ranks' first second
// first. A batch's `received` is the end of its second, on the root's clock as far as it is known.
class ByTime : public Sink {
 public:
  void job(const JobInfo& job) override;
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override { clocks_.push_back(sample); }
  void give(Sink& to);

 private:
  struct Rank {
    std::string host;
    uint64_t last = 0;  // number of its last batch
  };
  struct Key {
    uint64_t generation = 0;
    int64_t second = 0;
    uint32_t rank = 0;
    auto operator<=>(const Key&) const = default;
  };
  // `time` is on the rank's host's clock.
  Batch& slice(const Batch& whole, int64_t time);

  std::map<uint64_t, JobInfo> jobs_;  // by generation
  std::vector<ClockSample> clocks_;
  std::vector<Batch> whole_;
  std::map<std::string, int64_t> offsets_;  // of hosts' clocks to the root's, as first told
  std::map<uint32_t, Rank> ranks_;
  std::map<Key, Batch> slices_;
};

}  // namespace convoy::trace
