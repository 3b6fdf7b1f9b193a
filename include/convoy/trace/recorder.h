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

  void write(const Record& r) {
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
  }

 private:
  layout::Ring* ring_ = nullptr;
  layout::Words* records_ = nullptr;
  uint64_t mask_ = 0;
};

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
  if (r.time == 0) r.time = ticks();
  detail::writer.write(r);
}

inline void instant(Level level, uint16_t name, uint64_t value = 0) {
  record(level, {.value = value, .name = name, .kind = Kind::kInstant});
}

// A span of this thread.
class Span {
 public:
  explicit Span(uint16_t name, uint64_t value = 0, Level level = Level::kSpans)
      : name_(records(level) ? name : uint16_t{0}), level_(level) {
    if (name_ != 0) record(level_, {.value = value, .name = name_, .kind = Kind::kBegin});
  }
  ~Span() {
    if (name_ != 0) record(level_, {.name = name_, .kind = Kind::kEnd});
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  const uint16_t name_;
  const Level level_;
};

// Makes the segment of this process, at `level`, and from then on an anchor a second. A process has
// one segment, and the first call's options count: later calls, also after close_recorder(), switch
// it to their level. A child of fork() records nothing until it calls this, and gets its own.
Result<std::shared_ptr<Segment>> open_recorder(const SegmentOptions& options,
                                               Level level = Level::kSpans);
// Recording ends, the segment stays. Threads may go on calling record(). Waits for the thread that
// makes anchors.
void close_recorder();

// The number of a name in this process's segment, the same each time. 0 if no recorder is open, the
// name is empty, or the table is full (which is told once in the log). Cut after 255 bytes. Takes a
// lock: ask once, keep it.
uint16_t intern(std::string_view name);

}  // namespace convoy::trace
