#pragma once

#include <convoy/trace/operation.h>
#include <convoy/trace/traced.h>

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

// One process's segment, turned into batches.
namespace convoy::trace {

// Not thread-safe.
class RankDrain {
 public:
  // `registry` outlives it and takes the names.
  RankDrain(std::shared_ptr<Segment> segment, Registry& registry);

  // Appends what was written since the last call to `batch`, whose rank and generation it sets.
  // True: there is more, for which this batch would become too large. `has_ended`: nobody writes
  // any more.
  bool drain(Batch& batch, bool has_ended = false);
  // Where the rank stands after the last drain(): all but time, life, exit_code and shed.
  void fill_state(RankState& state) const;
  // As of the last drain().
  uint64_t generation() const { return generation_; }
  uint32_t rank() const { return static_cast<uint32_t>(segment_->rank()); }  // in it
  uint32_t world_size() const { return static_cast<uint32_t>(segment_->world_size()); }

 private:
  struct Key {
    uint16_t group = 0, name = 0;
    uint32_t sequence = 0, extra = 0;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  struct Pending {
    Operation operation;
    bool is_issued = false, is_completed = false;
    uint64_t turn = 0;  // that saw its first record
  };
  // What the two interned texts of an operation's records say.
  struct Called {
    OperationKind kind;
    uint32_t group = 0;
    bool is_message = false;
  };
  struct OpenSpan {
    uint16_t id = 0;
    SpanEvent event;
  };

  void follow_generation();
  void take_operation(const Record& record, int64_t time);
  void take_completed(int64_t begin, Batch& batch);
  void advance(const Key& key, const Called& called, const Record& record);
  void take_end(const Record& record, int64_t time, uint32_t ring, Batch& batch);
  void forget_hopeless(uint64_t lost);
  const Called& called_by(uint16_t group, uint16_t name);
  uint32_t signature_of(const Called& called, const Record& record);
  uint32_t name_of(uint16_t id);
  uint64_t lost() const;

  std::shared_ptr<Segment> segment_;
  Registry& registry_;
  std::vector<RingReader> readers_;
  std::vector<Record> records_;
  std::vector<std::vector<OpenSpan>> open_;  // by ring
  std::unordered_map<Key, Pending, KeyHash> pending_;
  std::vector<Key> ready_;                                // issued and completed: to be told
  std::unordered_map<Key, uint32_t, KeyHash> completed_;  // by channel: the last number
  std::map<uint16_t, GroupProgress> progress_;
  std::unordered_map<uint32_t, Called> called_;   // by group << 16 | name
  std::unordered_map<uint16_t, uint32_t> names_;  // interned: Registry::names
  uint64_t generation_ = 0, since_ = 0;           // since_: in ticks
  uint64_t turn_ = 1;                         // turns that have read all there was, and this one
  uint64_t lost_before_ = 0, lost_turn_ = 0;  // the last turn that found records lost
  uint64_t dropped_ = 0;                      // here, for want of room
};

}  // namespace convoy::trace
