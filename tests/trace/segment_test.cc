// Rings and segments, without the process's recorder. Method: a writer that numbers its records
// runs against readers in other threads, with rings so small that it overtakes them again and
// again: what is read must be whole and in order, and read + lost must be what was written.
// Segments that were damaged in every field are opened and read: no crash (with the sanitizers: no
// access outside). Not checked: speed (tests/bench/trace_record.cc).
#include <convoy/trace/recorder.h>
#include <convoy/trace/segment.h>

#include <catch2/catch.hpp>

#include <cstring>
#include <fcntl.h>
#include <random>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace convoy::trace {
namespace {

std::shared_ptr<Segment> make(uint32_t rings = 2, uint64_t records = 64) {
  auto segment = Segment::create(
      {.rings = rings, .ring_records = records, .rank = 3, .world_size = 8, .generation = 5});
  REQUIRE(segment.ok());
  return *segment;
}

detail::RingWriter writer_of(Segment& segment, uint32_t ring) {
  detail::RingWriter writer;
  writer.aim(&layout::ring_of(segment.header(), ring), layout::records_of(segment.header(), ring),
             segment.ring_records() - 1);
  return writer;
}

// Every word follows from `i`, so that a mixture of two records shows.
Record numbered(uint64_t i) {
  return {i,
          i * 3,
          static_cast<uint32_t>(i),
          static_cast<uint32_t>(~i),
          static_cast<uint16_t>(i),
          static_cast<uint16_t>(i + 7),
          static_cast<Kind>(i % 8)};
}

}  // namespace

TEST_CASE("a record comes back as it was written") {
  const auto segment = make();
  detail::RingWriter writer = writer_of(*segment, 1);
  const Record all{UINT64_MAX, UINT64_MAX - 1, UINT32_MAX,      0x12345678,
                   0xfffe,     0x8001,         Kind::kCompleted};
  writer.write(all);
  writer.write(numbered(9));
  const auto other = Segment::open(segment->fd());
  REQUIRE(other.ok());
  CHECK((*other)->rank() == 3);
  CHECK((*other)->world_size() == 8);
  CHECK((*other)->generation() == 5);
  CHECK((*other)->pid() == ::getpid());
  RingReader reader(*other, 1);
  std::vector<Record> got;
  CHECK(reader.waiting() == 2);
  CHECK(reader.read(got, 1) == 1);
  CHECK(reader.read(got) == 1);
  CHECK(reader.read(got) == 0);
  CHECK(got == std::vector<Record>{all, numbered(9)});
  CHECK(RingReader(*other, 0).waiting() == 0);
}

TEST_CASE("the oldest are lost, and counted") {
  const auto segment = make(1, 64);
  detail::RingWriter writer = writer_of(*segment, 0);
  RingReader reader(segment, 0);
  for (uint64_t i = 0; i < 1000; ++i) writer.write(numbered(i));
  std::vector<Record> got;
  reader.read(got);
  // The place of the oldest may be written next at any moment: it is not believed.
  REQUIRE(got.size() == 63);
  for (uint64_t i = 0; i < 63; ++i) CHECK(got[i] == numbered(937 + i));
  CHECK(reader.lost() == 937);
}

TEST_CASE("whoever is overtaken reads whole records, in order, and knows what is missing") {
  const auto segment = make(1, 64);
  constexpr uint64_t kWritten = 3000000;
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  std::atomic<uint64_t> bad{0}, read{0}, lost{0};
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      RingReader reader(segment, 0);
      std::vector<Record> got;
      uint64_t last = 0, count = 0;
      for (bool last_turn = false; !last_turn;) {
        last_turn = done;
        got.clear();
        reader.read(got, 50);
        for (const Record& r : got) {
          if (!(r == numbered(r.time)) || (count > 0 && r.time <= last)) ++bad;
          last = r.time;
          ++count;
        }
        if (last_turn) last_turn = reader.waiting() == 0;
      }
      read += count;
      lost += reader.lost();
    });
  }
  detail::RingWriter writer = writer_of(*segment, 0);
  for (uint64_t i = 0; i < kWritten; ++i) writer.write(numbered(i));
  done = true;
  for (std::thread& t : threads) t.join();
  CHECK(bad == 0);
  CHECK(read + lost == 2 * kWritten);
  CHECK(read > 0);
  CHECK(lost > 0);  // else nobody was overtaken
}

TEST_CASE("anchors turn ticks into times") {
  const auto segment = make();
  CHECK(segment->time_scale().monotonic_ns(ticks()) == 0);
  auto& header = segment->header();
  const auto add = [&](const Anchor& a) {
    const uint64_t n = header.anchor_count;
    header.anchors[n % layout::kAnchors][0] = a.ticks;
    header.anchors[n % layout::kAnchors][1] = static_cast<uint64_t>(a.monotonic_ns);
    header.anchors[n % layout::kAnchors][2] = static_cast<uint64_t>(a.realtime_ns);
    header.anchor_count = n + 1;
  };
  add({1000, 50000, 900000});
  CHECK(segment->time_scale().monotonic_ns(77) == 50000);
  add({3000, 51000, 901000});  // 2 ticks a ns
  add({5000, 53000, 904000});  // 1 tick a ns; the real time goes faster
  CHECK(segment->time_scale().monotonic_ns(2000) == 50500);
  CHECK(segment->time_scale().monotonic_ns(4000) == 52000);
  CHECK(segment->time_scale().realtime_ns(4000) == 902500);
  CHECK(segment->time_scale().monotonic_ns(6000) == 54000);
  CHECK(segment->time_scale().monotonic_ns(0) == 49500);
  for (uint64_t i = 0; i < 200; ++i) add({6000 + i * 10, int64_t(54000 + i * 10), 0});
  CHECK(segment->anchors().size() == layout::kAnchors - 1);
  CHECK(segment->anchors().back().ticks == 7990);
  // Real ones, of this machine: two readings 20 ms apart agree with the clock.
  const Anchor a = take_anchor();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const Anchor b = take_anchor();
  CHECK(b.ticks > a.ticks);
  CHECK(b.monotonic_ns - a.monotonic_ns >= 20000000);
}

TEST_CASE("what can't be is refused") {
  CHECK(Segment::create({.rings = 0}).status().code() == Code::kInvalidArgument);
  CHECK(Segment::create({.rings = 257}).status().code() == Code::kInvalidArgument);
  CHECK(Segment::create({.ring_records = 100}).status().code() == Code::kInvalidArgument);
  CHECK(Segment::create({.ring_records = 32}).status().code() == Code::kInvalidArgument);
  const UniqueFd file(::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK(Segment::open(file.get()).status().message().find("no sealed memfd") != std::string::npos);
  REQUIRE(::ftruncate(file.get(), 1 << 20) == 0);
  REQUIRE(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
  CHECK(Segment::open(file.get()).status().message().find("does not begin as one") !=
        std::string::npos);
  CHECK(Segment::open(-1).status().code() != Code::kOk);
  const auto segment = make();
  segment->header().version = layout::kVersion + 1;
  CHECK(Segment::open(segment->fd()).status().code() == Code::kFailedPrecondition);
}

TEST_CASE("a segment that its process has damaged is read without harm") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const auto segment = make(2, 64);
    detail::RingWriter writer = writer_of(*segment, 0);
    for (uint64_t i = 0; i < 100; ++i) writer.write(numbered(i));
    auto* bytes = reinterpret_cast<unsigned char*>(&segment->header());
    // Everything but the magic number; half of the time in the first fields only.
    const size_t most = round % 2 == 0 ? 128 : sizeof(layout::Header);
    for (int i = 0; i < 20; ++i) bytes[8 + random() % (most - 8)] = random() & 0xff;
    const auto other = Segment::open(segment->fd());
    if (!other.ok()) continue;
    for (uint32_t ring = 0; ring < (*other)->rings(); ++ring) {
      RingReader reader(*other, ring);
      // After it was opened, too.
      segment->header().ring_records = random();
      segment->header().ring_count = static_cast<uint32_t>(random());
      std::vector<Record> got;
      reader.read(got, 1000);
      CHECK(got.size() <= 1000);
    }
    for (int i = 0; i < 100; ++i) (void)(*other)->name(static_cast<uint16_t>(random()));
    (void)(*other)->time_scale().monotonic_ns(random());
    (void)(*other)->level();
  }
}

}  // namespace convoy::trace
