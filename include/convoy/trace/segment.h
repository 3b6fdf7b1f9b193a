#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What one process leaves behind for whoever explains it: a memfd with a ring of fixed records for
// each of its threads, interned names, and anchors between the clock of the records and others. The
// descriptor keeps it alive when the process has died. One process writes, any number read.
namespace convoy::trace {

// How much is recorded; each level has those below it. Switched at run time by anyone who has the
// segment writable.
enum class Level : uint8_t { kOff, kCollectives, kSpans, kDetails };

std::optional<Level> level_of(std::string_view name);  // off, collectives, spans, details
const char* name_of(Level level);

enum class Kind : uint8_t {
  kThread,   // first of a thread in its ring; value: its id in the kernel
  kBegin,    // a span of `name` begins on this thread; value: as the name says
  kEnd,      // the innermost span of `name` ends
  kInstant,  // value: as the name says
  kCounter,  // value: of the counter `name`
  // An operation of `group`: `sequence` counts them from 1 on each rank, `name` is the operation,
  // value: bytes that this rank gives, extra: hash of what all ranks must agree on.
  kIssued,
  kStarted,
  kCompleted,
};

// Times are ticks (ticks(), below); names and groups are interned, 0: none.
struct Record {
  uint64_t time = 0;
  uint64_t value = 0;
  uint32_t sequence = 0;
  uint32_t extra = 0;
  uint16_t name = 0;
  uint16_t group = 0;
  Kind kind = Kind::kInstant;

  bool operator==(const Record&) const = default;
};

// The same moment on three clocks, within the time that it took to read them.
struct Anchor {
  uint64_t ticks = 0;
  int64_t monotonic_ns = 0;  // CLOCK_MONOTONIC
  int64_t realtime_ns = 0;   // CLOCK_REALTIME
  bool operator==(const Anchor&) const = default;
};

// The processor's time stamp counter where it ticks evenly and for all cores, else CLOCK_MONOTONIC
// in ns: a system call then, still without entering the kernel.
bool ticks_are_cycles();
Anchor take_anchor();

namespace layout {

inline constexpr uint64_t kMagic = 0x3143415254564e43;  // "CNVTRAC1"
inline constexpr uint32_t kVersion = 2;
inline constexpr uint32_t kNamesMax = 4096;
inline constexpr uint32_t kNameBytesMax = 64 << 10;  // of all names
inline constexpr uint32_t kNameLengthMax = 255;
inline constexpr uint32_t kAnchors = 64;
inline constexpr uint32_t kRingsMax = 256;

// Written and read word by word, so that a reader who is overtaken reads a mixture, and finds out.
using Words = std::array<std::atomic<uint64_t>, 4>;

struct alignas(64) Ring {
  std::atomic<uint64_t> head{0};   // records written since the ring was made
  std::atomic<uint32_t> taken{0};  // by a thread that lives
};

struct Name {
  uint32_t at = 0, length = 0;
};

struct Header {
  uint64_t magic = 0;
  uint32_t version = 0;
  uint32_t ring_count = 0;
  uint64_t ring_records = 0;  // a power of two
  int32_t pid = 0;
  std::atomic<int32_t> rank{-1};  // in the generation, which is set behind it
  std::atomic<int32_t> world_size{0};
  std::atomic<uint64_t> generation{0};
  std::atomic<uint64_t> generation_since{0};  // ticks; what is older belongs to an earlier one
  std::atomic<uint8_t> level{0};
  std::atomic<uint64_t> unplaced{0};  // records of threads for which there was no ring
  std::atomic<uint32_t> name_count{0};
  std::atomic<uint32_t> name_bytes{0};
  std::atomic<uint64_t> anchor_count{0};  // taken since the beginning; the last kAnchors are there
  std::array<std::array<std::atomic<uint64_t>, 3>, kAnchors> anchors{};
  std::array<Name, kNamesMax> names{};
  std::array<char, kNameBytesMax> text{};
  std::array<Ring, kRingsMax> rings{};
};

inline Ring& ring_of(Header& header, uint32_t i) {
  return header.rings[i];
}
// Behind the header, 64-byte aligned.
inline Words* records_of(Header& header, uint32_t i) {
  constexpr uint64_t kBegin = (sizeof(Header) + 63) / 64 * 64;
  auto* base = reinterpret_cast<unsigned char*>(&header) + kBegin;
  return reinterpret_cast<Words*>(base) + i * header.ring_records;
}

}  // namespace layout

// From ticks to other clocks: by interpolation between anchors, and on from the nearest two; 0
// without an anchor.
class TimeScale {
 public:
  explicit TimeScale(std::vector<Anchor> anchors) : anchors_(std::move(anchors)) {}
  int64_t monotonic_ns(uint64_t ticks) const { return convert(ticks, &Anchor::monotonic_ns); }
  int64_t realtime_ns(uint64_t ticks) const { return convert(ticks, &Anchor::realtime_ns); }

 private:
  int64_t convert(uint64_t ticks, int64_t Anchor::*clock) const;
  std::vector<Anchor> anchors_;  // in order
};

struct SegmentOptions {
  uint32_t rings = 32;           // threads at a time, at most 256
  uint64_t ring_records = 8192;  // each, a power of two, 64 to 2^24; 32 bytes a record
  int32_t rank = -1, world_size = 0;
  uint64_t generation = 0;
};

// The mapped memory. Thread-safe where a method says nothing else.
class Segment {
 public:
  // Pages are made as they are used. kInvalidArgument (options), kResourceExhausted.
  static Result<std::shared_ptr<Segment>> create(const SegmentOptions& options);
  // Another process's; takes a duplicate of `fd`. `writable`: its level can be switched. Everything
  // in it is checked before it is used: kInvalidArgument if it is none, kFailedPrecondition.
  static Result<std::shared_ptr<Segment>> open(int fd, bool writable = false);

  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  int fd() const { return fd_.get(); }
  int32_t pid() const { return header_->pid; }
  int32_t rank() const { return header_->rank; }
  int32_t world_size() const { return header_->world_size; }
  uint64_t generation() const { return header_->generation.load(std::memory_order_acquire); }
  // When it began, in ticks; 0: with the segment.
  uint64_t generation_since() const { return header_->generation_since; }
  // What is recorded from then on belongs to another generation of the job. CHECKs that the segment
  // is this process's own.
  struct GenerationStart {
    uint64_t generation = 0, ticks = 0;
    int32_t rank = -1, world_size = 0;
  };
  void begin_generation(const GenerationStart& now);
  uint32_t rings() const { return ring_count_; }
  uint64_t ring_records() const { return ring_records_; }
  Level level() const;
  void set_level(Level level);  // CHECKs that it is writable
  // Records that no ring had room for, since the beginning.
  uint64_t unplaced() const;

  // Of an interned name; "" for 0, "?" for one that is not there.
  std::string name(uint16_t id) const;
  // Newest last; those that could be read whole.
  std::vector<Anchor> anchors() const;
  // Of the anchors until now: ask once for many records.
  TimeScale time_scale() const { return TimeScale(anchors()); }

  layout::Header& header() { return *header_; }

 private:
  friend class RingReader;
  Segment(UniqueFd fd, layout::Header* header, uint64_t bytes, bool writable);

  UniqueFd fd_;
  layout::Header* header_;
  uint64_t bytes_;
  bool writable_;
  uint32_t ring_count_;  // these: as they were when it was checked
  uint64_t ring_records_;
};

// Takes records out of one ring, oldest first, without the writer's knowing. One thread at a time.
class RingReader {
 public:
  RingReader(std::shared_ptr<Segment> segment, uint32_t ring);

  // Appends up to `most` records that were written since the last call. Those that were overwritten
  // before they were read count as lost: read + lost + waiting is what was written.
  size_t read(std::vector<Record>& to, size_t most = SIZE_MAX);
  uint64_t lost() const { return lost_; }
  uint64_t waiting() const;

 private:
  std::shared_ptr<Segment> segment_;
  uint32_t ring_;
  uint64_t next_ = 0;
  uint64_t lost_ = 0;
};

}  // namespace convoy::trace
