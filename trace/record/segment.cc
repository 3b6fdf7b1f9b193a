// The memory: made, mapped, and what others read of it. Nothing that stands in it is believed: a
// process that broke may have written it.
#include <convoy/base/check.h>
#include <convoy/base/units.h>
#include <convoy/trace/segment.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <fstream>
#include <new>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>

namespace convoy::trace {
namespace {

constexpr uint64_t kRecordsMin = 64, kRecordsMax = uint64_t{1} << 24;

uint64_t bytes_for(uint64_t rings, uint64_t records) {
  constexpr uint64_t kBegin = (sizeof(layout::Header) + 63) / 64 * 64;
  return kBegin + rings * records * sizeof(layout::Words);
}

int64_t now_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

Status check_options(const SegmentOptions& o) {
  if (o.rings >= 1 && o.rings <= layout::kRingsMax && std::has_single_bit(o.ring_records) &&
      o.ring_records >= kRecordsMin && o.ring_records <= kRecordsMax) {
    return ok_status();
  }
  return {Code::kInvalidArgument,
          "a trace segment of " + std::to_string(o.rings) + " rings of " +
              std::to_string(o.ring_records) +
              " records; between 1 and 256 rings of a power of two from 64 to 2^24 are possible"};
}

Status not_one(const std::string& why) {
  return {Code::kInvalidArgument, "this is no trace segment: " + why};
}

// Sizes only; contents are checked where they are read.
Status check_header(const layout::Header& h, uint64_t file_bytes) {
  if (file_bytes < sizeof(layout::Header)) return not_one("it is too short");
  if (h.magic != layout::kMagic) return not_one("it does not begin as one");
  if (h.version > layout::kVersion) {
    return {Code::kFailedPrecondition, "this trace segment was made by a newer Convoy (version " +
                                           std::to_string(h.version) + ")"};
  }
  const bool sane = h.ring_count >= 1 && h.ring_count <= layout::kRingsMax &&
                    std::has_single_bit(h.ring_records) && h.ring_records <= kRecordsMax &&
                    bytes_for(h.ring_count, h.ring_records) <= file_bytes;
  return sane ? ok_status() : not_one("its sizes don't fit together");
}

}  // namespace

const char* name_of(Level level) {
  constexpr const char* kNames[] = {"off", "collectives", "spans", "details"};
  return kNames[static_cast<size_t>(level)];
}

std::optional<Level> level_of(std::string_view name) {
  for (const Level level : {Level::kOff, Level::kCollectives, Level::kSpans, Level::kDetails}) {
    if (name == name_of(level)) return level;
  }
  return std::nullopt;
}

bool ticks_are_cycles() {
  static const bool even = [] {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);) {
      if (line.rfind("flags", 0) != 0) continue;
      return line.find(" constant_tsc") != std::string::npos &&
             line.find(" nonstop_tsc") != std::string::npos;
    }
    return false;
  }();
  return even;
}

Anchor take_anchor() {
  Anchor best;
  uint64_t shortest = UINT64_MAX;
  for (int i = 0; i < 5; ++i) {
    Anchor a;
    const int64_t before = now_ns(CLOCK_MONOTONIC);
    const uint64_t begin = ticks_are_cycles() ? __rdtsc() : static_cast<uint64_t>(before);
    a.monotonic_ns = now_ns(CLOCK_MONOTONIC);
    a.realtime_ns = now_ns(CLOCK_REALTIME);
    const int64_t after = now_ns(CLOCK_MONOTONIC);
    const uint64_t end = ticks_are_cycles() ? __rdtsc() : static_cast<uint64_t>(after);
    if (end - begin >= shortest) continue;
    shortest = end - begin;
    // The middle reading lies in the middle of the cycles.
    a.ticks =
        ticks_are_cycles() ? begin + (end - begin) / 2 : static_cast<uint64_t>(a.monotonic_ns);
    best = a;
  }
  return best;
}

Result<std::shared_ptr<Segment>> Segment::create(const SegmentOptions& options) {
  CONVOY_RETURN_IF_ERROR(check_options(options));
  const uint64_t bytes = bytes_for(options.rings, options.ring_records);
  // Beyond it the kernel would end the process.
  rlimit most{};
  if (::getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur < bytes) {
    return Status(Code::kResourceExhausted, "a trace segment of " + format_bytes(bytes) +
                                                " is larger than `ulimit -f` allows");
  }
  UniqueFd fd(::memfd_create("convoy-trace", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return errno_status("cannot make a trace segment of " + format_bytes(bytes), errno);
  }
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return errno_status("cannot map a trace segment", errno);
  auto* header = new (at) layout::Header;
  header->version = layout::kVersion;
  header->ring_count = options.rings;
  header->ring_records = options.ring_records;
  header->pid = ::getpid();
  header->rank = options.rank;
  header->world_size = options.world_size;
  header->generation = options.generation;
  header->magic = layout::kMagic;
  return std::shared_ptr<Segment>(new Segment(std::move(fd), header, bytes, true));
}

void Segment::begin_generation(const GenerationStart& now) {
  CONVOY_CHECK(pid() == ::getpid(), "a generation begins in a process's own segment");
  header_->rank = now.rank;
  header_->world_size = now.world_size;
  header_->generation_since = now.ticks;
  header_->generation.store(now.generation, std::memory_order_release);
}

Result<std::shared_ptr<Segment>> Segment::open(int fd, bool writable) {
  UniqueFd own(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  struct stat info {};
  if (!own || ::fstat(own.get(), &info) != 0) return errno_status("a trace segment", errno);
  const int seals = ::fcntl(own.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return not_one("it is no sealed memfd");
  const auto bytes = static_cast<uint64_t>(info.st_size);
  if (bytes < sizeof(layout::Header)) return not_one("it is too short");
  void* at =
      ::mmap(nullptr, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, own.get(), 0);
  if (at == MAP_FAILED) return errno_status("cannot map a trace segment", errno);
  auto* header = static_cast<layout::Header*>(at);
  const Status status = check_header(*header, bytes);
  if (!status.ok()) {
    ::munmap(at, bytes);
    return status;
  }
  return std::shared_ptr<Segment>(new Segment(std::move(own), header, bytes, writable));
}

Segment::Segment(UniqueFd fd, layout::Header* header, uint64_t bytes, bool writable)
    : fd_(std::move(fd)),
      header_(header),
      bytes_(bytes),
      writable_(writable),
      ring_count_(std::min(header->ring_count, layout::kRingsMax)),
      ring_records_(header->ring_records) {}

Segment::~Segment() {
  ::munmap(header_, bytes_);
}

Level Segment::level() const {
  return static_cast<Level>(std::min(header_->level.load(), static_cast<uint8_t>(Level::kDetails)));
}

void Segment::set_level(Level level) {
  CONVOY_CHECK(writable_, "this trace segment was opened for reading");
  header_->level = static_cast<uint8_t>(level);
}

uint64_t Segment::unplaced() const {
  return header_->unplaced;
}

std::string Segment::name(uint16_t id) const {
  if (id == 0) return "";
  if (id > header_->name_count.load(std::memory_order_acquire) || id > layout::kNamesMax) {
    return "?";
  }
  const layout::Name name = header_->names[id - 1U];
  if (name.at > layout::kNameBytesMax || name.length > layout::kNameBytesMax - name.at) return "?";
  return {header_->text.data() + name.at, name.length};
}

std::vector<Anchor> Segment::anchors() const {
  std::vector<Anchor> out;
  const uint64_t count = header_->anchor_count.load(std::memory_order_acquire);
  // The oldest is the next one to be written.
  for (uint64_t i = count < layout::kAnchors ? 0 : count - layout::kAnchors + 1; i < count; ++i) {
    const auto& words = header_->anchors[i % layout::kAnchors];
    const Anchor a{words[0].load(), static_cast<int64_t>(words[1].load()),
                   static_cast<int64_t>(words[2].load())};
    if (i + layout::kAnchors > header_->anchor_count.load()) out.push_back(a);
  }
  return out;
}

int64_t TimeScale::convert(uint64_t ticks, int64_t Anchor::*clock) const {
  if (anchors_.empty()) return 0;
  if (anchors_.size() == 1) return anchors_[0].*clock;
  const auto after = std::ranges::lower_bound(anchors_, ticks, {}, &Anchor::ticks);
  const auto second = std::clamp(after, anchors_.begin() + 1, anchors_.end() - 1);
  const Anchor &a = *(second - 1), &b = *second;
  if (b.ticks <= a.ticks) return a.*clock;
  // Without overflow, whatever a broken process has left there.
  const auto minus = [](auto x, auto y) {
    return static_cast<double>(
        static_cast<int64_t>(static_cast<uint64_t>(x) - static_cast<uint64_t>(y)));
  };
  const double offset = minus(b.*clock, a.*clock) / minus(b.ticks, a.ticks) * minus(ticks, a.ticks);
  if (!(std::abs(offset) < 9e18)) return a.*clock;
  return static_cast<int64_t>(static_cast<uint64_t>(a.*clock) +
                              static_cast<uint64_t>(static_cast<int64_t>(offset)));
}

// --- Reading a ring.

RingReader::RingReader(std::shared_ptr<Segment> segment, uint32_t ring)
    : segment_(std::move(segment)), ring_(ring) {
  CONVOY_CHECK(ring < segment_->ring_count_, "a ring that the segment has not");
}

size_t RingReader::read(std::vector<Record>& to, size_t most) {
  layout::Header& header = *segment_->header_;
  const layout::Ring& ring = layout::ring_of(header, ring_);
  // Sizes as they were when the segment was opened.
  const uint64_t capacity = segment_->ring_records_;
  layout::Words* records = layout::records_of(header, 0) + ring_ * capacity;
  size_t count = 0;
  while (count < most) {
    const uint64_t head = ring.head.load(std::memory_order_acquire);
    if (next_ >= head) break;
    if (head - next_ > capacity) {
      lost_ += head - capacity - next_;
      next_ = head - capacity;
    }
    const layout::Words& words = records[next_ & (capacity - 1)];
    std::array<uint64_t, 4> w{};
    for (size_t i = 0; i < 4; ++i) w[i] = words[i].load(std::memory_order_acquire);
    // The writer may be at the record that is `capacity` later, in the same place.
    if (ring.head.load(std::memory_order_relaxed) - next_ >= capacity) {
      ++next_;
      ++lost_;
      continue;
    }
    ++next_;
    ++count;
    to.push_back({w[0], w[1], static_cast<uint32_t>(w[2] >> 32), static_cast<uint32_t>(w[2]),
                  static_cast<uint16_t>(w[3] >> 48), static_cast<uint16_t>(w[3] >> 32),
                  static_cast<Kind>(w[3] & 0xff)});
  }
  return count;
}

uint64_t RingReader::waiting() const {
  const uint64_t head = layout::ring_of(*segment_->header_, ring_).head.load();
  return head > next_ ? head - next_ : 0;
}

}  // namespace convoy::trace
