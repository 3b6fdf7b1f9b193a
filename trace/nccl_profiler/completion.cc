// When an operation begins and ends, and what to believe of the times that NCCL tells
// (communicator.cc says which of them count).
#include "trace/nccl_profiler/communicator.h"
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <bit>

namespace convoy::trace::nccl {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr int64_t kClockError = 1'000'000;  // ns; see GpuClock
// A kernel that never ends is passed over only when so many later ones have.
constexpr uint32_t kSurelyOver = 256;

}  // namespace

// --- Kernels.

uint64_t Communicator::on_host(uint64_t timer, uint64_t now) {
  const auto age = clock_.age(timer, rate_->ns(now));
  if (!age) return 0;
  const auto back = static_cast<uint64_t>(static_cast<double>(*age) / rate_->ns_per_tick);
  return back < now ? now - back : 0;
}

void* Communicator::kernel_started(const Handle& parent, uint32_t channel, uint64_t timer) {
  if (parent.kind == HandleKind::kUntracked || parent.kind == HandleKind::kNone) return nullptr;
  Operation* op = find(parent, HandleKind::kOperation);
  const uint64_t bit = uint64_t{1} << (channel & 63);
  if (op == nullptr || channel >= 64 ||
      ((op->running.load(kRelaxed) | op->done.load(kRelaxed)) & bit) != 0) {
    stale();
    return nullptr;
  }
  has_seen_kernels_.store(true, kRelaxed);
  waits_for_kernels_.store(true, kRelaxed);
  op->running.store(op->running.load(kRelaxed) | bit, kRelaxed);
  // A later kernel had an earlier time: the place of the one before had been written again.
  if (timer < last_start_[channel].load(kRelaxed)) bogus();
  last_start_[channel].store(timer, kRelaxed);
  const uint64_t first = op->begin_timer.load(kRelaxed);
  if (timer != 0 && (first == 0 || timer < first)) op->begin_timer.store(timer, kRelaxed);
  if (op->started.load(kRelaxed) == 0) record_start(*op, timer);
  return Handle{HandleKind::kKernel, place_, parent.number, channel}.pack();
}

void Communicator::record_start(Operation& op, uint64_t timer) {
  const uint64_t now = ticks(), issued = op.issued.load(kRelaxed);
  uint64_t at = timer == 0 ? now : on_host(timer, now);
  if (at == 0 || (at < issued && rate_->ns(issued - at) > kClockError)) {
    bogus();
    op.begin_timer.store(0, kRelaxed);
    at = now;
  }
  at = std::max(at, issued);
  op.started.store(at, kRelaxed);
  const uint64_t identity = op.identity.load(kRelaxed);
  record(Level::kCollectives, {.time = at,
                               .sequence = op.sequence.load(kRelaxed),
                               .extra = static_cast<uint32_t>(identity >> 32),
                               .name = static_cast<uint16_t>(identity >> 16),
                               .group = static_cast<uint16_t>(identity),
                               .kind = trace::Kind::kStarted});
}

void Communicator::kernel_time(const Handle& h, uint64_t timer) {
  Operation* op = find(h, HandleKind::kKernel);
  if (op == nullptr) return stale();
  if (timer > op->end_timer.load(kRelaxed)) op->end_timer.store(timer, kRelaxed);
}

void Communicator::kernel_stopped(const Handle& h) {
  Operation* op = find(h, HandleKind::kKernel);
  const uint64_t bit = uint64_t{1} << (h.detail & 63);
  if (op == nullptr || (op->running.load(kRelaxed) & bit) == 0) return stale();
  const uint64_t running = op->running.load(kRelaxed) & ~bit;
  const uint64_t done = op->done.load(kRelaxed) | bit;
  op->running.store(running, kRelaxed);
  op->done.store(done, kRelaxed);
  const int wanted = std::max<int>(op->channels.load(kRelaxed), 1);
  if (running == 0 && std::popcount(done) >= wanted) end(*op, h.number);
}

void Communicator::end(Operation& op, uint32_t number) {
  const uint64_t now = ticks();
  const uint64_t begin = op.begin_timer.load(kRelaxed), end = op.end_timer.load(kRelaxed);
  const uint64_t issued = std::min(op.issued.load(kRelaxed), now);
  const int64_t since = rate_->ns(now - issued);
  uint64_t at = 0;
  if (begin != 0 && end >= begin && end - begin <= static_cast<uint64_t>(since + kClockError)) {
    at = on_host(end, now);
  }
  if (at == 0) bogus();
  end_at(op, number, at == 0 ? now : at, at == 0 ? 0 : end - begin);
}

bool Communicator::end_at(Operation& op, uint32_t number, uint64_t at, uint64_t ran_ns) {
  at = std::max({at, op.started.load(kRelaxed), op.issued.load(kRelaxed)});
  op.ended.store(at, kRelaxed);
  const uint64_t identity = op.identity.load(kRelaxed);
  const uint32_t sequence = op.sequence.load(kRelaxed);
  // Only one of settle() and callbacks ends it.
  uint64_t tag = op.tag.load(std::memory_order_acquire);
  if (tag >> 32 != number || static_cast<Phase>(tag & UINT32_MAX) == Phase::kEnded ||
      !op.tag.compare_exchange_strong(tag, operation_tag(number, Phase::kEnded),
                                      std::memory_order_acq_rel)) {
    return false;
  }
  if (static_cast<int32_t>(number - last_ended_.load(kRelaxed)) > 0 &&
      op.done.load(kRelaxed) != 0) {
    last_ended_.store(number, kRelaxed);
  }
  record(Level::kCollectives, {.time = at,
                               .value = ran_ns,
                               .sequence = sequence,
                               .extra = static_cast<uint32_t>(identity >> 32),
                               .name = static_cast<uint16_t>(identity >> 16),
                               .group = static_cast<uint16_t>(identity),
                               .kind = trace::Kind::kCompleted});
  return true;
}

// --- Proxies.

bool Communicator::proxy_started(const Handle& parent) {
  Operation* op = find(parent, HandleKind::kOperation);
  if (op == nullptr) return false;
  op->proxies.fetch_add(1, kRelaxed);
  op->had_proxies.store(true, kRelaxed);
  return true;
}

void Communicator::proxy_moves(uint32_t number) {
  if (waits_for_kernels_.load(kRelaxed)) return;
  Operation* op = find(number);
  if (op != nullptr && op->started.load(kRelaxed) == 0) {
    op->begin_timer.store(0, kRelaxed);
    record_start(*op, 0);
  }
}

void Communicator::proxy_ended(uint32_t number) {
  Operation* op = find(number);
  if (op == nullptr || op->proxies.load(kRelaxed) == 0) return;
  const bool last = op->proxies.fetch_sub(1, kRelaxed) == 1;
  if (!last || waits_for_kernels_.load(kRelaxed) || !op->enqueued.load(kRelaxed)) return;
  if (end_at(*op, number, ticks(), 0)) last_ended_.store(number, kRelaxed);
}

// --- Ends that nobody tells.

// When the first operation after `number` ended.
uint64_t Communicator::end_of_later(uint32_t number, uint32_t last) const {
  const Memory& memory = *memory_.load(kRelaxed);
  for (uint32_t n = number + 1; static_cast<int32_t>(last - n) >= 0; ++n) {
    const Operation& op = memory.operations[n & memory.mask];
    if (op.tag.load(kRelaxed) == operation_tag(n, Phase::kEnded) && op.done.load(kRelaxed) != 0) {
      return op.ended.load(kRelaxed);
    }
  }
  return ticks();
}

void Communicator::settle() {
  if (!is_open()) return;
  const Memory& memory = *memory_.load(kRelaxed);
  // What ended last time: its predecessors have had a while to tell their own ends.
  const uint32_t to = settles_to_;
  settles_to_ = last_ended_.load(kRelaxed);
  if (to - settled_ > memory.mask) settled_ = to - memory.mask;
  bool has_gap = false;
  for (uint32_t n = settled_; static_cast<int32_t>(to - n) > 0; ++n) {
    Operation* op = find(n);
    if (op == nullptr) {
      if (!has_gap) settled_ = n;
      continue;
    }
    if (op->running.load(kRelaxed) != 0 && to - n < kSurelyOver) {
      has_gap = true;
    } else if (end_at(*op, n, end_of_later(n, to), 0)) {
      losses_->untold.fetch_add(1, kRelaxed);
    }
  }
  if (!has_seen_kernels_.load(kRelaxed)) settle_without_kernels();
}

// Proxies of one have all ended, twice in a row, and still no kernel's event has come: none will.
void Communicator::settle_without_kernels() {
  const uint32_t last = next_.load(kRelaxed);
  for (uint32_t n = settled_; static_cast<int32_t>(last - n) >= 0; ++n) {
    Operation* op = find(n);
    if (op == nullptr || !op->had_proxies.load(kRelaxed) || op->proxies.load(kRelaxed) != 0 ||
        !op->enqueued.load(kRelaxed)) {
      continue;
    }
    if (!op->idle.exchange(true, kRelaxed)) continue;
    waits_for_kernels_.store(false, kRelaxed);
    if (end_at(*op, n, ticks(), 0)) losses_->untold.fetch_add(1, kRelaxed);
  }
}

}  // namespace convoy::trace::nccl
