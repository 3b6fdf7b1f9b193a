#include "tests/sim/baselines.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace convoy::sim {

void Baselines::job(const trace::JobInfo& job) {
  ranks_.assign(job.world_size, {});
  calls_.clear();
}

void Baselines::clock(const trace::ClockSample& sample) {
  offsets_.try_emplace(sample.host, sample.root_time - sample.host_time);
}

void Baselines::add_call(uint32_t rank, const trace::Operation& o) {
  const trace::Signature& s = registry_.signatures()[o.signature];
  if (s.is_message()) return;
  const uint64_t key = uint64_t{s.group} << 32 | o.sequence;
  Call& call = calls_[key];
  if (call.count == 0) call.signature = o.signature;
  ++call.count;
  if (o.signature == call.signature) {
    call.first.push_back(rank);
  } else {
    call.ranks[o.signature].push_back(rank);
  }
  // Only calls that somebody is missing in, or that disagree, are of use.
  if (call.count == registry_.groups()[s.group].ranks.size() && call.ranks.empty()) {
    calls_.erase(key);
  }
}

void Baselines::batch(const trace::Batch& batch) {
  if (batch.rank >= ranks_.size()) return;
  Rank& rank = ranks_[batch.rank];
  if (!batch.host.empty()) rank.host = batch.host;
  if (batch.state) rank.state = *batch.state;
  for (const trace::Operation& o : batch.operations) {
    add_call(batch.rank, o);
    if (registry_.signatures()[o.signature].is_message()) continue;
    rank.duration += static_cast<double>(o.completed - o.issued);
    rank.communication += static_cast<double>(o.completed - o.started);
    ++rank.operations;
  }
}

std::vector<uint32_t> Baselines::disagreeing() const {
  Baselines with_pending = *this;
  for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
    for (const trace::Operation& o : ranks_[rank].state.pending) with_pending.add_call(rank, o);
  }
  std::map<uint32_t, std::vector<uint32_t>> minorities;  // by sequence
  for (const auto& [key, call] : with_pending.calls_) {
    if (call.ranks.empty()) continue;
    const std::vector<uint32_t>* fewest = &call.first;
    for (const auto& [signature, ranks] : call.ranks) {
      if (ranks.size() < fewest->size()) fewest = &ranks;
    }
    minorities[static_cast<uint32_t>(key)] = *fewest;
  }
  return minorities.empty() ? std::vector<uint32_t>() : minorities.begin()->second;
}

// Of the group whose collective has been pending longest: who has not issued it.
std::vector<uint32_t> Baselines::missing() const {
  int64_t oldest = std::numeric_limits<int64_t>::max();
  uint32_t group = 0, sequence = 0;
  for (const Rank& r : ranks_) {
    const auto offset = offsets_.find(r.host);
    for (const trace::Operation& o : r.state.pending) {
      const trace::Signature& s = registry_.signatures()[o.signature];
      if (s.is_message() || offset == offsets_.end()) continue;
      if (o.issued + offset->second >= oldest) continue;
      oldest = o.issued + offset->second;
      group = s.group;
      sequence = o.sequence;
    }
  }
  std::vector<uint32_t> out;
  if (sequence == 0) return out;
  for (const uint32_t rank : registry_.groups()[group].ranks) {
    uint32_t issued = 0;
    for (const trace::GroupProgress& p : ranks_[rank].state.progress) {
      if (p.group == group) issued = p.issued;
    }
    if (issued < sequence) out.push_back(rank);
  }
  return out;
}

std::vector<uint32_t> Baselines::behind() const {
  std::map<uint32_t, uint32_t> most;  // by group
  for (const Rank& r : ranks_) {
    for (const trace::GroupProgress& p : r.state.progress) {
      most[p.group] = std::max(most[p.group], p.issued);
    }
  }
  std::vector<uint32_t> out;
  for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
    if (std::ranges::any_of(ranks_[rank].state.progress, [&](const trace::GroupProgress& p) {
          return p.issued < most[p.group];
        })) {
      out.push_back(rank);
    }
  }
  return out;
}

// A rank that stands out from the median by more than six times the median deviation.
std::vector<uint32_t> Baselines::outlier(double Rank::*what, bool most) const {
  std::vector<double> values;
  for (const Rank& r : ranks_) {
    values.push_back(r.operations == 0 ? 0 : r.*what / static_cast<double>(r.operations));
  }
  const auto median = [](std::vector<double> of) {
    std::ranges::nth_element(of, of.begin() + static_cast<ptrdiff_t>(of.size() / 2));
    return of[of.size() / 2];
  };
  if (values.empty()) return {};
  const double middle = median(values);
  std::vector<double> deviations;
  for (const double v : values) deviations.push_back(std::abs(v - middle));
  const double usual = 1.4826 * median(deviations);
  const auto at = most ? std::ranges::max_element(values) : std::ranges::min_element(values);
  if (std::abs(*at - middle) <= 6 * usual) return {};
  return {static_cast<uint32_t>(at - values.begin())};
}

std::vector<uint32_t> Baselines::blame(Baseline baseline, bool hung) const {
  switch (baseline) {
    case kFlightRecorder: {
      if (!hung) return {};
      const std::vector<uint32_t> wrong = disagreeing();
      return wrong.empty() ? missing() : wrong;
    }
    case kLaunchedCounts:
      return hung ? behind() : std::vector<uint32_t>();
    case kLongestDuration:
      return outlier(&Rank::duration, true);
    case kLeastCommunication:
      return outlier(&Rank::communication, false);
    default:
      return {};
  }
}

}  // namespace convoy::sim
