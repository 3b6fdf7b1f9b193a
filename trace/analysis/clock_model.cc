// Each round trip says that the offset was within an interval. The lines that go through all
// intervals of a window give drift and offset with hard bounds. Collectives move the offset within
// these bounds, and tell of a step before the next round trip does.
#include <convoy/trace/clock_model.h>

#include <algorithm>
#include <cmath>

namespace convoy::trace {
namespace {

constexpr size_t kSamples = 64;
// No oscillator in use drifts more.
constexpr double kDriftMax = 200e-6;
constexpr int64_t kErrorMin = 1'000;
// A smaller step is not told from an odd sample.
constexpr int64_t kStepMin = 1'000'000;
constexpr int64_t kStepSame = 3'000'000'000;  // two within so much are one
constexpr int64_t kStepLargest = 3'600'000'000'000;
// Where only the arrival of batches is known.
constexpr int64_t kErrorReceived = 10'000'000;
constexpr int kBrokenMin = 3;
constexpr int kBrokenAlone = 10;
constexpr uint32_t kOrdersBeforeStep = 20;
constexpr size_t kStepsMax = 256;
constexpr size_t kLinesMax = 16;

double seconds_between(int64_t from, int64_t to) {
  return static_cast<double>(to - from);
}

}  // namespace

uint32_t ClockModel::host(std::string_view name) {
  const auto [at, is_new] =
      number_of_.try_emplace(std::string(name), static_cast<uint32_t>(names_.size()));
  if (is_new) {
    names_.emplace_back(name);
    clocks_.emplace_back();
    lines_.push_back({Line{}});
  }
  return at->second;
}

void ClockModel::place(uint32_t rank, std::string_view name) {
  const uint32_t number = host(name);
  if (rank >= host_of_.size()) host_of_.resize(rank + 1, kNone);
  host_of_[rank] = number;
}

std::vector<uint32_t> ClockModel::ranks_of(uint32_t host) const {
  std::vector<uint32_t> ranks;
  for (uint32_t r = 0; r < host_of_.size(); ++r) {
    if (host_of_[r] == host) ranks.push_back(r);
  }
  return ranks;
}

int64_t ClockModel::earlier_line(uint32_t host, int64_t host_time) const {
  const std::vector<Line>& lines = lines_[host];
  for (size_t i = lines.size(); i-- > 1;) {
    if (host_time >= lines[i].from) return lines[i].at(host_time);
  }
  return lines.front().at(host_time);
}

void ClockModel::sample(const ClockSample& sample) {
  if (sample.host_time == 0) return;
  const uint32_t h = host(sample.host);
  Clock& clock = clocks_[h];
  const int64_t error = std::max(sample.error, kErrorMin);
  const int64_t offset = sample.root_time - sample.host_time;
  const Interval interval{sample.host_time, offset - error, offset + error};
  Line& line = lines_[h].back();
  if (sample.host_time < line.from) {
    // Late, or the last step was a little earlier than was thought.
    const int64_t told = line.at(sample.host_time) - sample.host_time;
    if (interval.low > told + clock.error || interval.high < told - clock.error) return;
    line.from = sample.host_time;
  } else if (!clock.has_samples) {
    clock.has_samples = true;
    clock.trim = 0;
    line.offset = offset;
  } else if (!clock.samples.empty()) {
    const int64_t since = std::abs(sample.host_time - clock.samples.back().time);
    const int64_t told = host_root_time(h, sample.host_time) - sample.host_time;
    const int64_t slack =
        clock.error + kStepMin / 2 + static_cast<int64_t>(kDriftMax * static_cast<double>(since));
    if (interval.low > told + slack || interval.high < told - slack) {
      sample_odd(h, interval);
      return;
    }
  }
  clock.odd.clear();
  clock.samples.push_back(interval);
  if (clock.samples.size() > kSamples) clock.samples.pop_front();
  fit(h);
}

// Two in a row that agree with each other are a step; one alone is a bad measurement.
void ClockModel::sample_odd(uint32_t host, const Interval& interval) {
  Clock& clock = clocks_[host];
  const auto agrees = [&](const Interval& o) {
    return interval.low <= o.high + kStepMin / 4 && o.low <= interval.high + kStepMin / 4;
  };
  if (!clock.odd.empty() && !agrees(clock.odd.back())) clock.odd.clear();
  clock.odd.push_back(interval);
  // Collectives that are out of order the same way count like a second one.
  const int64_t ahead =
      host_root_time(host, interval.time) - interval.time - (interval.low + interval.high) / 2;
  const bool is_backed = clock.broken >= kBrokenMin && (clock.broken_by > 0) == (ahead > 0);
  if (clock.odd.size() < 2 && !is_backed) return;
  const Interval first = clock.odd.front();
  const int64_t told = host_root_time(host, first.time) - first.time;
  const std::vector<Interval> odd = clock.odd;
  step(host, first.time, told - (first.low + first.high) / 2, (first.high - first.low) / 2);
  clock.samples.assign(odd.begin(), odd.end());
  fit(host);
}

void ClockModel::step(uint32_t host, int64_t host_time, int64_t amount, int64_t error) {
  Clock& clock = clocks_[host];
  // A clock that begins anew, with its host, has not been set.
  const bool is_jump = std::abs(amount) >= kStepMin && std::abs(amount) <= kStepLargest;
  Line line = lines_[host].back();
  // What a step was thought to be is put right.
  const auto last = std::find_if(steps_.rbegin(), steps_.rend(),
                                 [&](const ClockStep& s) { return s.host == host; });
  const bool is_same =
      last != steps_.rend() && lines_[host].size() > 1 && host_time - line.from < kStepSame;
  if (is_same) {
    last->amount += amount;
    host_time = std::min(host_time, line.from);
    lines_[host].pop_back();
  } else if (steps_.size() < kStepsMax && is_jump) {
    steps_.push_back({host, host_root_time(host, host_time), amount});
  }
  line.offset = line.at(host_time) - host_time - amount;
  line.origin = host_time;
  line.from = host_time;
  if (lines_[host].size() == kLinesMax) lines_[host].erase(lines_[host].begin() + 1);
  lines_[host].push_back(line);
  clock.samples.clear();
  clock.odd.clear();
  clock.trim = 0;
  clock.error = std::max(error, kErrorMin);
  clock.broken = 0;
  for (Clock& other : clocks_) {
    if (other.broken_with == host) other.broken = 0;
  }
}

void ClockModel::fit(uint32_t host) {
  Clock& clock = clocks_[host];
  Line& line = lines_[host].back();
  const std::deque<Interval>& samples = clock.samples;
  double low = -kDriftMax, high = kDriftMax;
  for (size_t j = 1; j < samples.size(); ++j) {
    for (size_t i = 0; i < j; ++i) {
      const double between = seconds_between(samples[i].time, samples[j].time);
      if (between <= 0) continue;
      low = std::max(low, static_cast<double>(samples[j].low - samples[i].high) / between);
      high = std::min(high, static_cast<double>(samples[j].high - samples[i].low) / between);
    }
  }
  const bool fits = low <= high;
  if (!fits) std::swap(low, high);  // the samples' errors are told too small
  // One or two samples say little of the drift: what it was before is the better guess.
  const double drift = std::clamp(samples.size() < 3 ? line.drift : (low + high) / 2, low, high);
  const int64_t now = samples.back().time;
  int64_t offset_low = INT64_MIN, offset_high = INT64_MAX;
  for (const Interval& s : samples) {
    const double since = seconds_between(s.time, now);
    offset_low = std::max(offset_low, s.low + static_cast<int64_t>(low * since));
    offset_high = std::min(offset_high, s.high + static_cast<int64_t>(high * since));
  }
  const int64_t half = std::abs(offset_high / 2 - offset_low / 2);
  line.origin = now;
  line.drift = drift;
  clock.trim = std::clamp(clock.trim, -half, half);
  line.offset = offset_low + (offset_high - offset_low) / 2 + clock.trim;
  // Until the next sample the drift's own error adds up.
  const int64_t between = samples.size() > 1 ? now - samples[samples.size() - 2].time : 0;
  clock.error = std::max(
      half + static_cast<int64_t>(std::min(high - low, 50e-6) / 2 * static_cast<double>(between)),
      kErrorMin);
}

void ClockModel::restart() {
  host_of_.clear();
  for (size_t h = 0; h < clocks_.size(); ++h) {
    clocks_[h] = Clock{};
    lines_[h] = {Line{}};
  }
}

void ClockModel::received(uint32_t rank, int64_t host_time, int64_t root_time) {
  const uint32_t h = host_of(rank);
  if (h == kNone || host_time == 0 || root_time == 0) return;
  Clock& clock = clocks_[h];
  if (clock.has_samples) return;
  // It came no earlier than it was sent.
  if (root_time - host_time >= clock.received_low) return;
  const bool is_first = clock.received_low == INT64_MAX;
  clock.received_low = root_time - host_time;
  Line& line = lines_[h].back();
  const int64_t told = line.at(host_time) - host_time;
  if (is_first || told > clock.received_low) line.offset += clock.received_low - told;
  if (is_first) clock.error = kErrorReceived;
}

void ClockModel::order(uint32_t first, int64_t earlier, uint32_t second, int64_t later) {
  const uint32_t a = host_of(first), b = host_of(second);
  if (a == kNone || b == kNone || a == b || earlier == 0 || later == 0) return;
  const int64_t by = earlier - later;
  if (by <= 0) {
    hold(a);
    hold(b);
    return;
  }
  const int64_t error_a = clocks_[a].error, error_b = clocks_[b].error;
  const bool are_bound = clocks_[a].has_samples && clocks_[b].has_samples;
  const bool are_settled = are_bound || (clocks_[a].orders >= kOrdersBeforeStep &&
                                         clocks_[b].orders >= kOrdersBeforeStep);
  if (by > error_a + error_b + kStepMin && are_settled) {
    suspect(a, b, earlier, by);
    suspect(b, a, later, -by);
    return;
  }
  const double share = static_cast<double>(error_a) / static_cast<double>(error_a + error_b);
  const auto part = static_cast<int64_t>(static_cast<double>(by) * share);
  trim(a, -part);
  trim(b, by - part);
}

void ClockModel::hold(uint32_t host) {
  Clock& clock = clocks_[host];
  clock.broken = 0;
  if (clock.orders < kOrdersBeforeStep) ++clock.orders;
}

void ClockModel::trim(uint32_t host, int64_t by) {
  Clock& clock = clocks_[host];
  const int64_t before = clock.trim;
  clock.trim += by;
  if (clock.has_samples) clock.trim = std::clamp(clock.trim, -clock.error, clock.error);
  lines_[host].back().offset += clock.trim - before;
}

// The host that is at odds with several others has stepped. Two hosts alone can't tell which: then
// only their errors grow, until a round trip decides.
void ClockModel::suspect(uint32_t host, uint32_t other, int64_t root_time, int64_t amount) {
  Clock& clock = clocks_[host];
  if (clock.broken == 0 || (amount > 0) != (clock.broken_by > 0)) {
    clock.broken = 0;
    clock.broken_since = root_time;
    clock.broken_by = amount;
    clock.broken_with = other;
    clock.broken_with_many = false;
  }
  ++clock.broken;
  if (std::abs(amount) > std::abs(clock.broken_by)) clock.broken_by = amount;
  if (other != clock.broken_with) clock.broken_with_many = true;
  if (clock.broken < kBrokenMin) return;
  if (!clock.broken_with_many) {
    if (clock.broken < kBrokenAlone) return;
    clock.error = std::max(clock.error, std::abs(clock.broken_by));
    return;
  }
  if (!clock.odd.empty()) {
    const Interval odd = clock.odd.front();
    const int64_t ahead = host_root_time(host, odd.time) - odd.time - (odd.low + odd.high) / 2;
    if ((ahead > 0) == (amount > 0)) {
      step(host, odd.time, ahead, (odd.high - odd.low) / 2);
      clock.samples.push_back(odd);
      fit(host);
      return;
    }
  }
  const Line& line = lines_[host].back();
  int64_t host_time = clock.broken_since - line.offset;
  host_time -= static_cast<int64_t>(line.drift * static_cast<double>(host_time - line.origin));
  const int64_t by = clock.broken_by;
  step(host, host_time, by, std::abs(by) / 10);
}

}  // namespace convoy::trace
