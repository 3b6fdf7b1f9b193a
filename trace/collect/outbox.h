#pragma once

#include <convoy/trace/event.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <unordered_map>

// Batches between their making and the receiver's word that it has them.
namespace convoy::trace {

// What is given up first when there is no room: the deepest level, then the next. States of ranks
// are never given up.
enum class Shed : uint8_t { kDetails, kSpans, kOperations };
inline constexpr size_t kShedLevels = 3;

// Bounded. Batches of one rank leave in the order in which they came; those that have not left yet
// become one where that is small. Not thread-safe.
class Outbox {
 public:
  Outbox(const Registry& registry, size_t bytes_max);

  // Takes what is in it. Numbers are given when it first leaves.
  void push(Batch batch);
  bool has_next() const { return sent_ < entries_.size(); }
  // The next to be sent, as part of message `message` (numbers only grow). Stays here until
  // acknowledge().
  Batch& next(uint64_t message);
  // Everything up to that message has arrived.
  void acknowledge(uint64_t message);
  // Nobody knows what has arrived: all that is not acknowledged leaves again, with its numbers.
  void restart() { sent_ = 0; }
  // Gives up what left with `message` or before, but not its states: the receiver refuses it.
  void give_up(uint64_t message);

  size_t bytes() const { return bytes_; }
  bool empty() const { return entries_.empty(); }
  // Events given up so far, by level.
  const std::array<uint64_t, kShedLevels>& shed() const { return shed_; }

 private:
  struct Entry {
    Batch batch;
    uint64_t message = 0;  // that it left with last; 0: it has not left
  };

  void count(const Batch& batch, bool in);
  bool merge(Batch& batch);
  void put(Batch batch, uint64_t message);
  void make_room();
  void merge_all();
  void drop(Batch& batch, Shed level);
  bool is_detail(const SpanEvent& span) const;

  const Registry& registry_;
  const size_t bytes_max_;
  std::deque<Entry> entries_;
  size_t sent_ = 0;                                // so many at the front are under way
  uint64_t popped_ = 0;                            // entries, since the beginning
  std::unordered_map<uint32_t, uint64_t> newest_;  // of each rank: popped_ + index
  size_t bytes_ = 0;
  std::unordered_map<uint32_t, uint64_t> numbers_;  // of each rank: the last one given
  std::unordered_map<uint32_t, uint64_t> shed_of_;  // of each rank: RankState::shed
  std::array<uint64_t, kShedLevels> shed_{};
};

}  // namespace convoy::trace
