#include "trace/nccl_profiler/publisher.h"

#include <convoy/trace/event.h>
#include <convoy/trace/nccl.h>
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <numeric>

namespace convoy::trace::nccl {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

void record_counter(uint16_t name, uint64_t value, uint16_t group = 0, uint32_t extra = 0) {
  record(Level::kCollectives,
         {.value = value, .extra = extra, .name = name, .group = group, .kind = Kind::kCounter});
}

// The share `quantile` of what was counted between two readings is at most so long, in ticks.
double quantile_of(const std::vector<uint32_t>& counts, uint64_t total, double quantile) {
  const auto wanted = static_cast<uint64_t>(quantile * static_cast<double>(total - 1)) + 1;
  uint64_t seen = 0;
  for (size_t bucket = 0; bucket < counts.size(); ++bucket) {
    seen += counts[bucket];
    if (seen >= wanted) return Sketch::value_of(bucket);
  }
  return Sketch::value_of(counts.size() - 1);
}

}  // namespace

void Publisher::intern_names() {
  send_names_ = {intern(names::kSentBytes), intern(names::kSourceWait), intern(names::kPeerWait),
                 intern(names::kSendWait)};
  receive_names_ = {intern(names::kReceivedBytes), intern(names::kReceiveWait),
                    intern(names::kDrainWait), 0};
  loss_names_ = {intern(kDropped), intern(kStale), intern(kBogusTimes), intern(kUntold)};
  send_step_names_ = {intern(kSendStepMedian), intern(kSendStepTail)};
  receive_step_names_ = {intern(kReceiveStepMedian), intern(kReceiveStepTail)};
}

void Publisher::Sums::add(const Link& link) {
  bytes += link.bytes.load(kRelaxed);
  steps += link.steps.load(kRelaxed);
  for (size_t i = 0; i < kWaits; ++i) waits[i] += link.waits[i].load(kRelaxed);
  step_times.resize(Sketch::kBuckets);
  for (size_t i = 0; i < Sketch::kBuckets; ++i) step_times[i] += link.step_time.count(i);
}

Publisher::Peer Publisher::peer_of(const Link& link) const {
  const LinkName name = link.name();
  const Communicator& c = communicators_[name.communicator % communicators_.size()];
  return {c.knows_ranks() ? uint16_t{0} : c.group(), c.number_of(name.peer), name.is_send};
}

void Publisher::keep_sums(uint8_t communicator) {
  for (uint32_t i = 0; i < Links::kLinksMax; ++i) {
    if (!links_.is_used(i) || links_.at(i).name().communicator != communicator) continue;
    published_[peer_of(links_.at(i))].kept.add(links_.at(i));
  }
}

void Publisher::publish(const TickRate& rate) {
  if (!records(Level::kCollectives)) return;
  publish_losses();
  std::map<Peer, Sums> sums;
  for (const auto& [peer, last] : published_) sums[peer] = last.kept;
  for (uint32_t i = 0; i < Links::kLinksMax; ++i) {
    if (links_.is_used(i)) sums[peer_of(links_.at(i))].add(links_.at(i));
  }
  for (const auto& [peer, now] : sums) publish_link(peer, now, published_[peer], rate);
}

void Publisher::publish_link(const Peer& peer, const Sums& sums, Published& last,
                             const TickRate& rate) {
  const auto ns = [&](Wait w) {
    return static_cast<uint64_t>(rate.ns(sums.waits[static_cast<size_t>(w)]));
  };
  const auto& names = peer.is_send ? send_names_ : receive_names_;
  const std::array<uint64_t, 4> values =
      peer.is_send ? std::array<uint64_t, 4>{sums.bytes, ns(Wait::kGpuData), ns(Wait::kPeer),
                                             ns(Wait::kWire)}
                   : std::array<uint64_t, 4>{sums.bytes, ns(Wait::kArrival),
                                             ns(Wait::kFlush) + ns(Wait::kGpuDrain), 0};
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == last.values[i]) continue;
    record_counter(names[i], values[i], peer.group, peer.number + 1);
    last.values[i] = values[i];
  }
  if (sums.steps != last.steps) publish_step_times(peer, sums, last, rate);
}

void Publisher::publish_step_times(const Peer& peer, const Sums& sums, Published& last,
                                   const TickRate& rate) {
  last.step_times.resize(Sketch::kBuckets);
  std::vector<uint32_t> since(Sketch::kBuckets);
  for (size_t i = 0; i < since.size(); ++i) since[i] = sums.step_times[i] - last.step_times[i];
  last.step_times = sums.step_times;
  last.steps = sums.steps;
  const uint64_t total = std::accumulate(since.begin(), since.end(), uint64_t{0});
  if (total == 0) return;
  const auto& names = peer.is_send ? send_step_names_ : receive_step_names_;
  for (const auto& [name, quantile] : {std::pair(names[0], 0.5), std::pair(names[1], 0.99)}) {
    const auto ticks = static_cast<uint64_t>(quantile_of(since, total, quantile));
    record_counter(name, static_cast<uint64_t>(rate.ns(ticks)), peer.group, peer.number + 1);
  }
}

void Publisher::publish_losses() {
  const std::array<uint64_t, 4> values = {
      losses_.dropped.load(kRelaxed), losses_.stale.load(kRelaxed),
      losses_.bogus_times.load(kRelaxed), losses_.untold.load(kRelaxed)};
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == published_losses_[i]) continue;
    record_counter(loss_names_[i], values[i]);
    published_losses_[i] = values[i];
  }
}

}  // namespace convoy::trace::nccl
