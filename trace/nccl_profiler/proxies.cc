#include "trace/nccl_profiler/proxies.h"

#include <convoy/trace/recorder.h>

#include <algorithm>

namespace convoy::trace::nccl {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr uint32_t kTries = 8;   // for a place: some proxies stay long
constexpr int kRecordShift = 6;  // units of 64 ns
constexpr uint64_t kRecordMost = (1U << 21) - 1;

uint64_t tag_of(uint32_t number, uint8_t place) {
  return uint64_t{number} << 32 | uint64_t{place} << 1 | 1;
}

// One thread adds.
void add(std::atomic<uint64_t>& sum, uint64_t value) {
  sum.store(sum.load(kRelaxed) + value, kRelaxed);
}

// What a step waits for from this state on.
uint8_t wait_of(int state, bool is_send) {
  const auto wait = [](Wait w) { return static_cast<uint8_t>(w); };
  switch (state) {
    case event_state::kSendGpuWait:
      return is_send ? wait(Wait::kGpuData) : kWaits;
    case event_state::kSendPeerWait:
      return is_send ? wait(Wait::kPeer) : kWaits;
    case event_state::kSendWait:
      return is_send ? wait(Wait::kWire) : kWaits;
    case event_state::kReceiveWait:
      return is_send ? kWaits : wait(Wait::kArrival);
    case event_state::kReceiveFlushWait:
      return is_send ? kWaits : wait(Wait::kFlush);
    case event_state::kReceiveGpuWait:
      return is_send ? kWaits : wait(Wait::kGpuDrain);
    default:
      return kWaits;
  }
}

}  // namespace

Proxies::Proxy* Proxies::find(const Handle& h, HandleKind kind) const {
  if (h.kind != kind) return nullptr;
  Proxy& proxy = proxies_[h.number % kProxiesMax];
  return proxy.tag.load(std::memory_order_acquire) == tag_of(h.number, h.communicator) ? &proxy
                                                                                       : nullptr;
}

void* Proxies::start(uint8_t place, Communicator& communicator, const Description& d, bool is_own) {
  const auto& p = d.proxy_op;
  uint32_t number = 0;
  Proxy* proxy = nullptr;
  for (uint32_t i = 0; i < kTries && proxy == nullptr; ++i) {
    number = next_.fetch_add(1, kRelaxed) + 1;
    Proxy& candidate = proxies_[number % kProxiesMax];
    uint64_t tag = candidate.tag.load(kRelaxed);
    // Claimed under a number that no handle has, until it is filled in.
    const bool is_free = (tag & 1) == 0;
    if (is_free && candidate.tag.compare_exchange_strong(tag, tag_of(number, 0xff),
                                                         std::memory_order_acq_rel)) {
      proxy = &candidate;
    }
  }
  if (proxy == nullptr) {
    losses_.dropped.fetch_add(1, kRelaxed);
    return nullptr;
  }
  const uint32_t link =
      links_.find({place, static_cast<uint32_t>(p.peer), p.channel, p.is_send != 0});
  if (link == Links::kLinksMax) losses_.dropped.fetch_add(1, kRelaxed);
  proxy->link.store(link, kRelaxed);
  const Handle parent = Handle::unpack(is_own ? d.parent : nullptr);
  proxy->parent.store(communicator.proxy_started(parent) ? parent.number : 0, kRelaxed);
  for (Step& step : proxy->steps) step.step.store(0, kRelaxed);
  proxy->tag.store(tag_of(number, place), std::memory_order_release);
  return Handle{HandleKind::kProxyOp, place, number}.pack();
}

uint32_t Proxies::parent(const Handle& h) const {
  const Proxy* proxy = find(h, HandleKind::kProxyOp);
  return proxy == nullptr ? 0 : proxy->parent.load(kRelaxed);
}

uint32_t Proxies::stop(const Handle& h) {
  Proxy* proxy = find(h, HandleKind::kProxyOp);
  if (proxy == nullptr) {
    stale();
    return 0;
  }
  const uint32_t parent = proxy->parent.load(kRelaxed);
  proxy->tag.store(uint64_t{h.number} << 32, std::memory_order_release);
  return parent;
}

void Proxies::release(uint8_t place) {
  for (Proxy& proxy : proxies_) {
    const uint64_t tag = proxy.tag.load(kRelaxed);
    if ((tag & 1) != 0 && static_cast<uint8_t>(tag >> 1) == place) {
      proxy.tag.store(tag >> 32 << 32, std::memory_order_release);
    }
  }
}

// --- Steps.

void* Proxies::start_step(const Handle& h, int number) {
  Proxy* proxy = find(h, HandleKind::kProxyOp);
  if (proxy == nullptr) {
    stale();
    return nullptr;
  }
  const uint32_t detail = static_cast<uint32_t>(number) & Handle::kDetailMask;
  Step& step = proxy->steps[detail % kStepsMax];
  step.wait.store(kNoWait, kRelaxed);
  step.begin.store(ticks(), kRelaxed);
  for (auto& waited : step.waited) waited.store(0, kRelaxed);
  step.step.store(detail + 1, kRelaxed);
  return Handle{HandleKind::kProxyStep, h.communicator, h.number, detail}.pack();
}

Proxies::Step* Proxies::find_step(const Handle& h, Proxy*& proxy) const {
  if (h.kind != HandleKind::kProxyStep) return nullptr;
  proxy = find(h, HandleKind::kProxyStep);
  if (proxy == nullptr) return nullptr;
  Step& step = proxy->steps[h.detail % kStepsMax];
  return step.step.load(kRelaxed) == h.detail + 1 ? &step : nullptr;
}

void Proxies::leave(Proxy& proxy, Step& step, uint64_t now) {
  const uint8_t wait = step.wait.load(kRelaxed);
  const uint32_t place = proxy.link.load(kRelaxed);
  if (wait >= kWaits || place >= Links::kLinksMax) return;
  const uint64_t since = step.since.load(kRelaxed), took = now > since ? now - since : 0;
  add(links_.at(place).waits[wait], took);
  auto& waited = step.waited[wait % 3];
  waited.store(
      static_cast<uint32_t>(std::min<uint64_t>(waited.load(kRelaxed) + (took >> 4), UINT32_MAX)),
      kRelaxed);
}

void Proxies::step_state(const Handle& h, int state, const StateArguments* arguments) {
  Proxy* proxy = nullptr;
  Step* step = find_step(h, proxy);
  if (step == nullptr) return stale();
  const uint32_t place = proxy->link.load(kRelaxed);
  if (place >= Links::kLinksMax) return;
  Link& link = links_.at(place);
  const uint8_t wait = wait_of(state, link.name().is_send);
  if (wait == kWaits) return;
  const uint64_t now = ticks();
  leave(*proxy, *step, now);
  step->wait.store(wait, kRelaxed);
  step->since.store(now, kRelaxed);
  const bool has_size = state == event_state::kSendWait || state == event_state::kReceiveFlushWait;
  if (has_size && arguments != nullptr) add(link.bytes, arguments->proxy_step.bytes);
}

void Proxies::stop_step(const Handle& h, const Names& names, const Communicator& communicator) {
  Proxy* proxy = nullptr;
  Step* step = find_step(h, proxy);
  if (step == nullptr) return stale();
  step->step.store(0, kRelaxed);
  const uint32_t place = proxy->link.load(kRelaxed);
  if (place >= Links::kLinksMax) return;
  const uint64_t now = ticks(), begin = step->begin.load(kRelaxed);
  leave(*proxy, *step, now);
  Link& link = links_.at(place);
  add(link.steps, 1);
  link.step_time.add(now > begin ? now - begin : 0);
  if (!records(Level::kDetails)) return;
  const LinkName name = link.name();
  uint64_t value = 0;
  for (const auto& waited : step->waited) {
    const auto units =
        static_cast<uint64_t>(communicator.rate().ns(uint64_t{16} * waited.load(kRelaxed))) >>
        kRecordShift;
    value = value << 21 | std::min(units, kRecordMost);
  }
  record(Level::kDetails, {.time = now,
                           .value = value,
                           .sequence = h.detail,
                           .extra = uint32_t{name.channel} << 24 |
                                    ((communicator.number_of(name.peer) + 1) & 0xffffff),
                           .name = name.is_send ? names.send_step : names.receive_step,
                           .group = communicator.group()});
}

}  // namespace convoy::trace::nccl
