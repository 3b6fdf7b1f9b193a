#pragma once

#include <convoy/trace/clock_model.h>
#include <convoy/trace/event.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

namespace convoy::trace {

struct JoinOptions {
  // Instances that are kept of each group and channel, at first; powers of two. A ring grows when
  // somebody's operations come too late for it.
  uint32_t depth = 16;
  uint32_t depth_max = 4096;
  // Of all rings. Beyond it none grows, and new ones hold `depth_min`.
  size_t bytes_max = size_t{1} << 30;
  uint32_t depth_min = 8;
};

// One collective, or one message, as all ranks have told it. One cache line.
struct alignas(64) Instance {
  int64_t issued_min = INT64_MAX, issued_max = INT64_MIN;  // on the root's clock
  int64_t completed_min = INT64_MAX, completed_max = INT64_MIN;
  uint32_t issued_first = 0, issued_last = 0;  // ranks
  uint32_t completed_first = 0, completed_last = 0;
  uint32_t sequence = 0;   // 0: none
  uint32_t signature = 0;  // Registry::signatures; of who told first
  uint32_t count = 0;      // ranks that have told
  uint32_t dissents = 0;   // of these, how many told of another signature
};
static_assert(sizeof(Instance) == 64);

// Joins the operations of all ranks on (group, sequence), messages on (group, sender, receiver,
// sequence). They may come late, out of order, or not at all; an operation that is told twice
// counts twice, so give it no batch twice. Memory: `bytes_max` and what signatures, groups and
// channels need. Not thread-safe.
class Join {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Whose instances stand in a ring: a group's collectives, or the messages of a pair in it.
  struct Owner {
    uint32_t newest = 0;  // sequence
    uint32_t group = 0;
    uint32_t sender = kNone, receiver = kNone;  // kNone: collectives
  };
  // A rank told of another signature than the rest. Of an instance the first few.
  struct Dissent {
    uint32_t ring = 0, sequence = 0, rank = 0, signature = 0;
  };

  explicit Join(const Registry& registry, const JoinOptions& options = {});
  ~Join();

  // `finished(ring number, instance)` is called once all ranks of one have told.
  template <class Finished>
  void add(uint32_t rank, std::span<const Operation> operations, const ClockModel& clocks,
           Finished&& finished);
  void add(uint32_t rank, std::span<const Operation> operations, const ClockModel& clocks) {
    add(rank, operations, clocks, [](uint32_t, const Instance&) {});
  }

  // kNone where nothing has been told of it.
  uint32_t ring_of_group(uint32_t group) const {
    return group < ring_of_group_.size() ? ring_of_group_[group] : kNone;
  }
  const std::vector<Owner>& owners() const { return owners_; }  // of each ring
  // Null where it is not there, or not any more.
  const Instance* find(uint32_t ring, uint32_t sequence) const {
    if (ring >= rings_.size() || sequence == 0) return nullptr;
    const Instance& x = rings_[ring].slots[sequence & rings_[ring].mask];
    return x.sequence == sequence ? &x : nullptr;
  }
  // Two signatures with the same number here are those of one collective or message.
  uint32_t kind_of(uint32_t signature) const { return kinds_[signature].kind; }

  // Since the last call.
  std::vector<Dissent> take_dissents();
  uint64_t late() const { return late_; }  // operations for which no ring was deep enough
  size_t bytes() const { return bytes_; }

 private:
  struct Kind {
    uint32_t ring = kNone;  // kNone: a message's, which depends on the rank
    uint32_t kind = 0;
  };
  struct Ring {
    Instance* slots = nullptr;
    uint32_t mask = 0;
    uint32_t size = 0;  // ranks that take part; 0: not known
  };
  struct Channel {
    uint64_t key = 0;  // rank << 32 | signature, plus 1; 0: free
    uint32_t ring = 0;
  };
  struct KindNumbers;

  // These lie far apart: many groups, and many instances of each.
  void prefetch_ring(const Operation& o) const {
    if (o.signature >= kinds_.size() || kinds_[o.signature].ring == kNone) return;
    __builtin_prefetch(&rings_[kinds_[o.signature].ring]);
  }
  void prefetch_instance(const Operation& o) const {
    if (o.signature >= kinds_.size() || kinds_[o.signature].ring == kNone) return;
    const Ring& ring = rings_[kinds_[o.signature].ring];
    __builtin_prefetch(&ring.slots[o.sequence & ring.mask], 1);
  }

  void learn_signatures();
  uint32_t ring_for_group(uint32_t group);
  uint32_t add_ring(uint32_t group, uint32_t sender, uint32_t receiver, uint32_t size);
  uint32_t channel(uint32_t rank, uint32_t signature);
  uint32_t add_channel(uint32_t rank, uint32_t signature);
  void insert(const Channel& channel);
  // The place of an instance that is not in its slot; null: too old.
  Instance* place(uint32_t ring, uint32_t sequence, uint32_t signature);
  bool grow(uint32_t ring);
  void dissent(uint32_t ring, Instance& x, uint32_t rank, uint32_t signature);

  const Registry& registry_;
  JoinOptions options_;
  std::vector<Kind> kinds_;  // of each signature
  std::unique_ptr<KindNumbers> kind_numbers_;
  std::vector<Ring> rings_;
  std::vector<Owner> owners_;
  std::vector<uint32_t> ring_of_group_;
  std::vector<std::unique_ptr<Instance[]>> memory_;  // of each ring
  std::vector<Channel> channels_;
  size_t channels_used_ = 0;
  std::unordered_map<uint32_t, uint32_t> channel_of_pair_;
  std::vector<Dissent> dissents_;
  uint64_t late_ = 0;
  size_t bytes_ = 0;
};

template <class Finished>
void Join::add(uint32_t rank, std::span<const Operation> operations, const ClockModel& clocks,
               Finished&& finished) {
  constexpr size_t kAhead = 8;
  if (kinds_.size() < registry_.signatures().size()) learn_signatures();
  const uint32_t host = clocks.host_of(rank);
  const ClockModel::Line line = host == ClockModel::kNone ? ClockModel::Line{} : clocks.line(host);
  for (size_t i = 0; i < operations.size(); ++i) {
    if (i + 2 * kAhead < operations.size()) prefetch_ring(operations[i + 2 * kAhead]);
    if (i + kAhead < operations.size()) prefetch_instance(operations[i + kAhead]);
    const Operation& o = operations[i];
    if (o.signature >= kinds_.size() || o.sequence == 0) continue;
    const Kind kind = kinds_[o.signature];
    const uint32_t number = kind.ring != kNone ? kind.ring : channel(rank, o.signature);
    const Ring& ring = rings_[number];
    Instance* x = &ring.slots[o.sequence & ring.mask];
    if (x->sequence != o.sequence) {
      x = place(number, o.sequence, o.signature);
      if (x == nullptr) continue;
    }
    const bool is_newest = o.issued >= line.from;
    const int64_t issued = is_newest ? line.at(o.issued) : clocks.root_time(rank, o.issued);
    const int64_t completed =
        is_newest ? line.at(o.completed) : clocks.root_time(rank, o.completed);
    if (issued < x->issued_min) x->issued_min = issued, x->issued_first = rank;
    if (issued > x->issued_max) x->issued_max = issued, x->issued_last = rank;
    if (completed < x->completed_min) x->completed_min = completed, x->completed_first = rank;
    if (completed > x->completed_max) x->completed_max = completed, x->completed_last = rank;
    ++x->count;
    if (kinds_[x->signature].kind != kind.kind) dissent(number, *x, rank, o.signature);
    if (x->count == rings_[number].size) finished(number, *x);
  }
}

}  // namespace convoy::trace
