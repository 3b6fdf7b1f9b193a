#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

// Slices in rows as viewers draw them. A viewer needs that the slices of one row nest; events come
// in no strict order, collectives of one group overlap, and a step is told after all that is within
// it. So each track (a thread, a group) is a pile of lanes, and slices go where they fit.
namespace convoy::trace {

enum class TrackKind : uint8_t { kThread, kGroup, kSend, kReceive };

struct Track {
  uint32_t rank = 0;
  TrackKind kind = TrackKind::kThread;
  uint32_t id = 0;  // of the thread; Registry::groups
};

// A stretch on a track, on the root's clock.
struct Slice {
  static constexpr int64_t kUnfinished = INT64_MAX;
  int64_t begin = 0, end = 0;
  int64_t issued = 0;     // operations; 0: not known
  uint64_t value = 0;     // spans
  uint32_t what = 0;      // Registry::signatures of an operation, Registry::names of a span
  uint32_t sequence = 0;  // 0: a span
};
Slice slice_of(const Operation& operation);
Slice slice_of(const SpanEvent& span);
TrackKind track_of(const Signature& signature);

struct Lane {
  Track track;
  uint32_t number = 0;  // from 0 on, of all lanes
  uint32_t row = 0;     // from 0 on, of its track
};

class LaneWriter {
 public:
  virtual ~LaneWriter() = default;
  virtual void open(const Lane& lane) = 0;
  // In each lane times never go back, and begin and end nest. An empty slice has no end.
  virtual void begin(const Lane& lane, const Slice& slice) = 0;
  virtual void end(const Lane& lane, int64_t time) = 0;
};

// Not thread-safe.
class Tracks {
 public:
  // Up to `waiting_max` slices wait until it is known in which order they stand.
  explicit Tracks(LaneWriter& to, size_t waiting_max = size_t{1} << 20);
  void add(const Track& track, const Slice& slice);
  void finish();
  uint64_t slices() const { return slices_; }

 private:
  struct Row {
    Lane lane;
    int64_t at = INT64_MIN;     // nothing may begin before
    std::vector<int64_t> ends;  // of open slices, outermost first
  };
  struct Pile {
    Track track;
    std::vector<Slice> waiting;
    std::vector<Row> rows;
  };
  Pile& pile(const Track& track);
  void flush(Pile& pile, bool all);
  void place(Pile& pile, const Slice& slice);
  void close(Row& row, int64_t until);
  static bool fits(const Row& row, const Slice& slice);

  LaneWriter& to_;
  const size_t waiting_max_;
  size_t waiting_ = 0;
  uint64_t slices_ = 0;
  uint32_t lanes_ = 0;
  std::unordered_map<uint64_t, uint32_t> pile_of_;
  std::vector<Pile> piles_;
  uint64_t last_key_ = UINT64_MAX;
  uint32_t last_pile_ = 0;
};

}  // namespace convoy::trace
