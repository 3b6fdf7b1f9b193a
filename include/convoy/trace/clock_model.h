#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace convoy::trace {

// A host's clock was set, or jumped.
struct ClockStep {
  uint32_t host = 0;   // ClockModel::hosts
  int64_t time = 0;    // about when, on the root's clock
  int64_t amount = 0;  // ns that the host's clock went ahead
};

// What the root's clock shows at a moment of a host's clock, and to within what. Learns from round
// trips (sample), from when batches came (received), and from what must have happened before what
// (order). Pure: the same calls in the same order give the same model. Memory: some KiB for each
// host. Not thread-safe.
class ClockModel {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  // Of a host of which nothing is known.
  static constexpr int64_t kErrorUnknown = int64_t{1} << 40;

  // From `from` (host's clock) on, root time = host time + offset + drift × (host time − origin).
  struct Line {
    int64_t from = INT64_MIN;
    int64_t origin = 0;
    int64_t offset = 0;
    double drift = 0;
    int64_t at(int64_t host_time) const {
      return host_time + offset +
             static_cast<int64_t>(drift * static_cast<double>(host_time - origin));
    }
  };

  // The host's number, from 0 on.
  uint32_t host(std::string_view name);
  void place(uint32_t rank, std::string_view host);
  uint32_t host_of(uint32_t rank) const {  // kNone: not known
    return rank < host_of_.size() ? host_of_[rank] : kNone;
  }
  const std::deque<std::string>& hosts() const { return names_; }
  std::vector<uint32_t> ranks_of(uint32_t host) const;

  // Another generation of the job: ranks may be elsewhere, and hosts may have begun anew.
  void restart();

  void sample(const ClockSample& sample);
  // What happened on `rank` at `host_time` was told to the root at `root_time`.
  void received(uint32_t rank, int64_t host_time, int64_t root_time);
  // `earlier` happened on `first` no later than `later` on `second`: nobody leaves a collective
  // before the last has entered it. Times on the root's clock, as root_time() gave them.
  void order(uint32_t first, int64_t earlier, uint32_t second, int64_t later);

  // 0 stays 0: not known. A rank whose host is not known has the root's clock.
  int64_t root_time(uint32_t rank, int64_t host_time) const {
    if (host_time == 0 || rank >= host_of_.size() || host_of_[rank] == kNone) return host_time;
    return host_root_time(host_of_[rank], host_time);
  }
  int64_t host_root_time(uint32_t host, int64_t host_time) const {
    const Line& newest = lines_[host].back();
    return host_time >= newest.from ? newest.at(host_time) : earlier_line(host, host_time);
  }
  // root_time() is right to within ± so many ns; kErrorUnknown.
  int64_t error(uint32_t rank) const {
    return rank < host_of_.size() && host_of_[rank] != kNone ? host_error(host_of_[rank])
                                                             : kErrorUnknown;
  }
  int64_t host_error(uint32_t host) const { return clocks_[host].error; }
  // Of the host's newest times.
  const Line& line(uint32_t host) const { return lines_[host].back(); }
  // All that were found, oldest first.
  const std::vector<ClockStep>& steps() const { return steps_; }

 private:
  struct Interval {  // the offset at `time` was within [low, high]
    int64_t time = 0, low = 0, high = 0;
  };
  struct Clock {
    std::deque<Interval> samples;  // since the last step
    std::vector<Interval> odd;     // the newest ones, which don't fit
    int64_t error = kErrorUnknown;
    int64_t trim = 0;  // of the offset, by order()
    bool has_samples = false;
    uint32_t orders = 0;               // that held, one after the other
    int64_t received_low = INT64_MAX;  // smallest of root − host time
    // Of order(): how often it was broken in a row, by how much, against whom.
    int broken = 0;
    int64_t broken_since = 0, broken_by = 0;
    uint32_t broken_with = kNone;
    bool broken_with_many = false;
  };

  int64_t earlier_line(uint32_t host, int64_t host_time) const;
  void fit(uint32_t host);
  void step(uint32_t host, int64_t host_time, int64_t amount, int64_t error);
  void sample_odd(uint32_t host, const Interval& interval);
  void hold(uint32_t host);
  void trim(uint32_t host, int64_t by);
  void suspect(uint32_t host, uint32_t other, int64_t root_time, int64_t amount);

  std::deque<std::string> names_;
  std::unordered_map<std::string, uint32_t> number_of_;
  std::vector<uint32_t> host_of_;
  std::vector<Clock> clocks_;
  std::vector<std::vector<Line>> lines_;  // of each host, oldest first
  std::vector<ClockStep> steps_;
};

}  // namespace convoy::trace
