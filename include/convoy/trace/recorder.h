#pragma once

#include <convoy/trace/segment.h>

#include <ctime>
#include <memory>
#include <string_view>
#include <x86intrin.h>

// The writing side of a process's segment. Recording takes some 10 ns: a time stamp, four stores
// and an index; nothing is allocated, locked, or asked of the kernel, but for a thread's first
// record. Switched off it is a load and a compare.
namespace convoy::trace {

namespace detail {

// One thread's ring; only that thread writes.
class RingWriter {
 public:
  void aim(layout::Ring* ring, layout::Words* records, uint64_t mask) {
    ring_ = ring;
    records_ = records;
    mask_ = mask;
  }
  bool aimed() const { return ring_ != nullptr; }
  layout::Ring* ring() const { return ring_; }

  // Returns the record's place.
  uint64_t write(const Record& r) {
    const uint64_t at = ring_->head.load(std::memory_order_relaxed);
    layout::Words& to = records_[at & mask_];
    // Released one by one: whoever reads one of these words sees that the head has come this far.
    // (A fence would say it once, but the thread sanitizer knows none.)
    to[0].store(r.time, std::memory_order_release);
    to[1].store(r.value, std::memory_order_release);
    to[2].store(uint64_t{r.sequence} << 32 | r.extra, std::memory_order_release);
    to[3].store(uint64_t{r.name} << 48 | uint64_t{r.group} << 32 | static_cast<uint64_t>(r.kind),
                std::memory_order_release);
    ring_->head.store(at + 1, std::memory_order_release);
    return at;
  }

 private:
  layout::Ring* ring_ = nullptr;
  layout::Words* records_ = nullptr;
  uint64_t mask_ = 0;
};

// One in 1024 of a thread's records is timed, for the governor.
inline constexpr uint64_t kTimedMask = 1023;
void add_timed_record(uint64_t ticks);

// Set once a recorder is open; before, it points at a level that is off.
extern std::atomic<const std::atomic<uint8_t>*> level;
extern bool cycles;
extern thread_local constinit RingWriter writer;
// The thread's first record: finds it a ring. False: there is none.
bool take_ring();

}  // namespace detail

inline uint64_t ticks() {
  if (detail::cycles) return __rdtsc();
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

inline bool records(Level wanted) {
  const auto* level = detail::level.load(std::memory_order_relaxed);
  return level->load(std::memory_order_relaxed) >= static_cast<uint8_t>(wanted);
}

// Fills in the time if it is 0. Any thread; does nothing before open_recorder(), after
// close_recorder(), and at lower levels.
inline void record(Level level, Record r) {
  if (!records(level)) [[likely]]
    return;
  if (!detail::writer.aimed() && !detail::take_ring()) return;
  const bool stamped = r.time == 0;
  if (stamped) r.time = ticks();
  const uint64_t at = detail::writer.write(r);
  if ((at & detail::kTimedMask) == 0 && stamped) [[unlikely]] {
    detail::add_timed_record(ticks() - r.time);
  }
}

inline void instant(Level level, uint16_t name, uint64_t value = 0) {
  record(level, {.value = value, .name = name, .kind = Kind::kInstant});
}

// A span of this thread.
class Span {
 public:
  explicit Span(uint16_t name, uint64_t value = 0, Level level = Level::kSpans)
      : name_(records(level) ? name : uint16_t{0}) {
    if (name_ != 0) record(level, {.value = value, .name = name_, .kind = Kind::kBegin});
  }
  // Also where the level has fallen meanwhile: what was begun would seem to go on for ever.
  ~Span() {
    if (name_ != 0) record(Level::kCollectives, {.name = name_, .kind = Kind::kEnd});
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  const uint16_t name_;
};

// Tells the governor what the tracer's own code costs where it does more than record(): one kind of
// call, of which one in 1024 is timed. Lives for the whole process.
class CallMeter {
 public:
  CallMeter();
  CallMeter(const CallMeter&) = delete;
  CallMeter& operator=(const CallMeter&) = delete;

  // When a call that is timed begins; 0: this one is not. Calls of several threads at a time may be
  // counted as one.
  uint64_t begin() {
    const uint64_t call = calls_.load(std::memory_order_relaxed);
    calls_.store(call + 1, std::memory_order_relaxed);
    // The first are told from few, and never by the very first alone: that one is cold.
    const uint64_t mask = call <= detail::kTimedMask ? detail::kTimedMask >> 5 : detail::kTimedMask;
    return (call & mask) == mask ? ticks() : 0;
  }
  void end(uint64_t begin) {
    if (begin != 0) [[unlikely]]
      add(ticks() - begin);
  }

  uint64_t calls() const { return calls_.load(std::memory_order_relaxed); }
  // Of those that were timed.
  double mean_ticks() const;

 private:
  void add(uint64_t ticks);
  std::atomic<uint64_t> calls_{0}, timed_{0}, ticks_{0};
};

// The largest share of a thread's time that the tracer may cost; CONVOY_TRACE_BUDGET: "0.1%", "off"
// for no limit.
inline constexpr double kBudget = 0.001;
Result<double> parse_budget(std::string_view text);

// Makes the segment of this process, at `level`, and from then on an anchor a second. A process has
// one segment, and the first call's options count: later calls, also after close_recorder(), switch
// it to their level. A child of fork() records nothing until it calls this, and gets its own.
//
// Once a second it also records what the host does to this process (names::kRunQueue and those that
// follow it, and sockets.h), and governs itself: where tracing costs more than CONVOY_TRACE_BUDGET
// of a second, the level falls by one, though never below kCollectives; it rises again when some
// time has passed. A level that somebody else sets is the new limit.
Result<std::shared_ptr<Segment>> open_recorder(const SegmentOptions& options,
                                               Level level = Level::kSpans);
// The job goes on in another generation, in which this process may have other peers and another
// rank: what it records from now on belongs to that one. Operations that have not ended never will.
// Does nothing without a recorder.
void begin_generation(uint64_t generation, int rank, int world_size);
// This process's segment while a recorder is open; else null.
std::shared_ptr<Segment> recorder_segment();
// Recording ends, the segment stays. Threads may go on calling record(). Waits for the thread that
// makes anchors.
void close_recorder();

// The number of a name in this process's segment, the same each time. 0 if no recorder is open, the
// name is empty, or the table is full (which is told once in the log). Cut after 255 bytes. Takes a
// lock: ask once, keep it.
uint16_t intern(std::string_view name);

}  // namespace convoy::trace
