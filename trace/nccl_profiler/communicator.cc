// Which calls make an operation, and when it has ended. What NCCL leaves open is decided here:
// - Collectives count when they are called, in the program's order: what NCCL starts at the launch
//   is in an order of its own, and its numbers count each function for itself. Messages count at
//   the launch, since the call tells no peer; the call's time comes along in its handle.
// - What a captured graph replays counts in a group of its own: replays are told by another thread.
// - An operation ends when the kernel has on all of its channels; without any kernel events, when
//   its proxies have. Operations that NCCL tells nothing further of (broadcasts, what the copy
//   engine does) end with their call, or when a later one has: kernels of one communicator run in
//   order.
// - GPU times that can't be are counted, and the host's take their place.
#include "trace/nccl_profiler/communicator.h"

#include <convoy/trace/recorder.h>

#include <algorithm>
#include <bit>

namespace convoy::trace::nccl {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr uint32_t kOperationsMin = 1024, kOperationsMax = 16384;  // under way at a time
constexpr uint32_t kMembersMax = 1 << 20;
constexpr int kCallShift = 6;  // of HandleKind::kMessageCall

bool is_rooted(Function f) {
  return f == Function::kBroadcast || f == Function::kReduce || f == Function::kGather ||
         f == Function::kScatter;
}

// The time that a call's handle carries: its low bits, and those of now. Right for a minute.
uint64_t called_at(uint32_t number) {
  const uint64_t now = ticks() >> kCallShift;
  const uint64_t ago = static_cast<uint32_t>(now - number);
  return ago < now ? (now - ago) << kCallShift : 0;
}

// One more in a counter that one thread at a time writes.
uint32_t next_of(std::atomic<uint32_t>& counter) {
  return counter.fetch_add(1, kRelaxed) + 1;
}

}  // namespace

void Communicator::attach(uint8_t place, const Names* names, const TickRate* rate, Losses* losses) {
  place_ = place;
  names_ = names;
  rate_ = rate;
  losses_ = losses;
}

void Communicator::open(const CommunicatorOptions& options) {
  const uint32_t size = std::min(std::max(options.size, 1U), kMembersMax);
  make_memory(size);
  Memory& memory = *memory_.load(kRelaxed);
  for (uint32_t i = 0; i <= memory.mask; ++i) memory.operations[i].tag.store(0, kRelaxed);
  for (size_t i = 0; i < size_t{4} * memory.members; ++i) memory.sequences[i].store(0, kRelaxed);
  const bool known = options.ranks.size() == size;
  for (uint32_t m = 0; m < size; ++m)
    memory.numbers[m].store(known ? options.ranks[m] : m, kRelaxed);
  knows_ranks_.store(known, kRelaxed);
  size_.store(size, kRelaxed);
  group_.store(options.group, kRelaxed);
  graph_group_.store(options.graph_group, kRelaxed);
  sequence_.store(0, kRelaxed);
  graph_sequence_.store(0, kRelaxed);
  settled_ = settles_to_ = next_.load(kRelaxed);
  last_ended_.store(settled_, kRelaxed);
  waits_for_kernels_.store(true, kRelaxed);
  has_seen_kernels_.store(false, kRelaxed);
  tells_broadcasts_.store(options.tells_broadcasts, kRelaxed);
  for (auto& time : last_start_) time.store(0, kRelaxed);
  clock_.reset();
  life_.fetch_add(1);
  open_.store(true, std::memory_order_release);
}

void Communicator::make_memory(uint32_t size) {
  const uint32_t wanted =
      std::clamp(std::bit_ceil(std::min(size, kOperationsMax) * 8), kOperationsMin, kOperationsMax);
  const Memory* old = memory_.load(kRelaxed);
  if (old != nullptr && old->mask + 1 >= wanted && old->members >= size) return;
  auto memory = std::make_unique<Memory>();
  memory->mask = wanted - 1;
  memory->members = size;
  memory->operations = std::make_unique<Operation[]>(wanted);
  memory->sequences = std::make_unique<std::atomic<uint32_t>[]>(size_t{4} * size);
  memory->numbers = std::make_unique<std::atomic<uint32_t>[]>(size);
  kept_.push_back(std::move(memory));
  memory_.store(kept_.back().get(), std::memory_order_release);
}

void Communicator::close() {
  if (!open_.exchange(false)) return;
  Memory& memory = *memory_.load(kRelaxed);
  const uint32_t last = next_.load(kRelaxed);
  const uint64_t now = ticks();
  for (uint32_t n = last - std::min(last - settled_, memory.mask); n - 1 != last; ++n) {
    Operation* op = find(n);
    if (op == nullptr) continue;
    const auto phase = static_cast<Phase>(op->tag.load(kRelaxed));
    if (phase == Phase::kCalled) {
      end_at(*op, n, now, 0);
    } else {
      op->tag.store(operation_tag(n, Phase::kFree), kRelaxed);
    }
  }
}

uint32_t Communicator::number_of(uint32_t member) const {
  const Memory& memory = *memory_.load(std::memory_order_acquire);
  return member < memory.members ? memory.numbers[member].load(kRelaxed) : member;
}

// --- Calls.

Communicator::Kind Communicator::kind_of(Function function, const char* dtype, size_t count,
                                         int root, bool in_graph) {
  const size_t type = dtype_of(dtype);
  Kind kind;
  kind.function = function;
  kind.bytes = count * dtype_bytes(type);
  if (function == Function::kReduceScatter) kind.bytes *= size_.load(kRelaxed);  // told of a part
  kind.name = names_->operations[static_cast<size_t>(function)][type];
  kind.group = (in_graph ? graph_group_ : group_).load(kRelaxed);
  if (is_rooted(function) && root >= 0) kind.extra = number_of(static_cast<uint32_t>(root)) + 1;
  return kind;
}

void* Communicator::call(const Description& d) {
  const auto& c = d.collective_call;
  if (c.graph_captured) return captured();
  const uint32_t sequence = next_of(sequence_);
  if (!records(Level::kCollectives)) return untracked();
  Kind kind = kind_of(function_of(c.function), c.dtype, c.count, c.root, false);
  kind.sequence = sequence;
  return begin(kind, Phase::kCalled, 0, HandleKind::kCall);
}

void Communicator::call_returned(const Handle& h) {
  Operation* op = find(h, HandleKind::kCall);
  if (op == nullptr) return stale();
  const bool is_last_word = op->function.load(kRelaxed) == Function::kBroadcast &&
                            !tells_broadcasts_.load(kRelaxed) &&
                            op->tag.load(kRelaxed) == operation_tag(h.number, Phase::kCalled);
  if (is_last_word) end_at(*op, h.number, ticks(), 0);
}

void* Communicator::collective(const Description& d) {
  const auto& c = d.collective;
  const Handle parent = Handle::unpack(d.parent);
  if (parent.kind == HandleKind::kUntracked) return nullptr;
  const Function function = function_of(c.function);
  if (function == Function::kBroadcast) tells_broadcasts_.store(true, kRelaxed);
  if (parent.kind == HandleKind::kCall) {
    Operation* op = find(parent, HandleKind::kCall);
    if (op == nullptr) {
      stale();
      return nullptr;
    }
    tell(*op, parent.number, c.channels);
    return Handle{HandleKind::kOperation, place_, parent.number}.pack();
  }
  const bool in_graph = parent.kind == HandleKind::kCaptured;
  if (!in_graph && d.parent != nullptr) {
    stale();
    return nullptr;
  }
  const uint32_t sequence = next_of(in_graph ? graph_sequence_ : sequence_);
  if (!records(Level::kCollectives)) return nullptr;
  Kind kind = kind_of(function, c.dtype, c.count, c.root, in_graph);
  kind.sequence = sequence;
  return begin(kind, Phase::kTold, c.channels, HandleKind::kOperation);
}

void* Communicator::message_call(const Description& d) {
  if (d.message_call.graph_captured) return captured();
  if (!records(Level::kCollectives)) return nullptr;
  const auto now = static_cast<uint32_t>(ticks() >> kCallShift);
  return Handle{HandleKind::kMessageCall, place_, now}.pack();
}

void* Communicator::message(const Description& d) {
  const auto& m = d.message;
  const Function function = function_of(m.function);
  if (function != Function::kSend && function != Function::kReceive) {
    lose();
    return nullptr;
  }
  const Memory& memory = *memory_.load(std::memory_order_acquire);
  const auto peer = static_cast<uint32_t>(m.peer);
  if (peer >= std::min(size_.load(kRelaxed), memory.members)) {
    lose();
    return nullptr;
  }
  const Handle parent = Handle::unpack(d.parent);
  const bool in_graph = parent.kind == HandleKind::kCaptured;
  const uint32_t which = (in_graph ? 2U : 0U) + (function == Function::kSend ? 0U : 1U);
  const uint32_t sequence = next_of(memory.sequences[size_t{4} * peer + which]);
  if (!records(Level::kCollectives)) return nullptr;
  Kind kind = kind_of(function, m.dtype, m.count, -1, in_graph);
  kind.extra = number_of(peer) + 1;
  kind.sequence = sequence;
  if (parent.kind == HandleKind::kMessageCall) kind.issued = called_at(parent.number);
  return begin(kind, Phase::kTold, m.channels, HandleKind::kOperation);
}

void* Communicator::begin(const Kind& kind, Phase phase, uint8_t channels, HandleKind handle) {
  Memory& memory = *memory_.load(std::memory_order_acquire);
  const uint32_t number = next_of(next_);
  Operation& op = memory.operations[number & memory.mask];
  const auto before = static_cast<Phase>(op.tag.load(std::memory_order_acquire) & UINT32_MAX);
  if (before == Phase::kCalled || before == Phase::kTold) {
    lose();
    return untracked();
  }
  const uint64_t issued = kind.issued == 0 ? ticks() : kind.issued;
  op.issued.store(issued, kRelaxed);
  op.started.store(0, kRelaxed);
  op.begin_timer.store(0, kRelaxed);
  op.end_timer.store(0, kRelaxed);
  op.running.store(0, kRelaxed);
  op.done.store(0, kRelaxed);
  op.identity.store(uint64_t{kind.extra} << 32 | uint64_t{kind.name} << 16 | kind.group, kRelaxed);
  op.sequence.store(kind.sequence, kRelaxed);
  op.proxies.store(0, kRelaxed);
  op.channels.store(channels, kRelaxed);
  op.function.store(kind.function, kRelaxed);
  op.had_proxies.store(false, kRelaxed);
  op.enqueued.store(false, kRelaxed);
  op.idle.store(false, kRelaxed);
  op.tag.store(operation_tag(number, phase), std::memory_order_release);
  record(Level::kCollectives, {.time = issued,
                               .value = kind.bytes,
                               .sequence = kind.sequence,
                               .extra = kind.extra,
                               .name = kind.name,
                               .group = kind.group,
                               .kind = trace::Kind::kIssued});
  return Handle{handle, place_, number}.pack();
}

Communicator::Operation* Communicator::find(uint32_t number) {
  Memory* memory = memory_.load(std::memory_order_acquire);
  if (memory == nullptr) return nullptr;
  Operation& op = memory->operations[number & memory->mask];
  const uint64_t tag = op.tag.load(std::memory_order_acquire);
  const auto phase = static_cast<Phase>(tag & UINT32_MAX);
  const bool is_under_way = phase == Phase::kCalled || phase == Phase::kTold;
  return tag >> 32 == number && is_under_way ? &op : nullptr;
}

Communicator::Operation* Communicator::find(const Handle& h, HandleKind kind) {
  return h.kind == kind && h.communicator == place_ ? find(h.number) : nullptr;
}

void Communicator::tell(Operation& op, uint32_t number, uint8_t channels) {
  op.channels.store(channels, kRelaxed);
  uint64_t expected = operation_tag(number, Phase::kCalled);
  op.tag.compare_exchange_strong(expected, operation_tag(number, Phase::kTold),
                                 std::memory_order_acq_rel);
}

void Communicator::enqueued(const Handle& h) {
  Operation* op = find(h, HandleKind::kOperation);
  // The end of a short one may have come first.
  if (op != nullptr) op->enqueued.store(true, kRelaxed);
}

void* Communicator::copy_engine(const Description& d) {
  const Handle parent = Handle::unpack(d.parent);
  if (find(parent, HandleKind::kCall) == nullptr) return nullptr;
  return Handle{HandleKind::kCopyEngine, place_, parent.number}.pack();
}

void Communicator::copy_enqueued(const Handle& h) {
  Operation* op = find(h, HandleKind::kCopyEngine);
  if (op == nullptr) return stale();
  end_at(*op, h.number, ticks(), 0);
}

}  // namespace convoy::trace::nccl
