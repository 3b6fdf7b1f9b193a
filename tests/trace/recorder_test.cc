// The recorder of a process. Method: threads and forked children record, and the segment is read as
// somebody else would. Each case is a process of its own, since a process has one recorder. A child
// that is killed by SIGKILL in the middle of its work must leave all that it had recorded.
#include <convoy/trace/recorder.h>

#include <catch2/catch.hpp>

#include <csignal>
#include <fcntl.h>
#include <functional>
#include <set>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::trace {
namespace {

// Runs `body` in a child; its exit code, or -N for signal N.
int in_child(const std::function<int()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// 0, or the line of the first expectation that does not hold.
#define EXPECT(condition) \
  if (!(condition)) return __LINE__ % 200 + 1

std::vector<Record> all_of(const std::shared_ptr<Segment>& segment, uint32_t ring) {
  std::vector<Record> got;
  RingReader(segment, ring).read(got);
  return got;
}

int records_as_told() {
  EXPECT(intern("early") == 0);  // no recorder yet
  record(Level::kCollectives, {.value = 1});
  const auto segment = open_recorder({.rings = 4, .rank = 1, .world_size = 2}, Level::kSpans);
  EXPECT(segment.ok());
  const uint16_t step = intern("step"), group = intern("tp[0]");
  EXPECT(step == 1 && group == 2 && intern("step") == 1);
  EXPECT((*segment)->name(step) == "step" && (*segment)->name(0).empty());
  EXPECT((*segment)->name(3) == "?");
  const uint64_t before = ticks();
  {
    const Span span(step);
    record(Level::kCollectives, {.value = 4096,
                                 .sequence = 7,
                                 .extra = 99,
                                 .name = step,
                                 .group = group,
                                 .kind = Kind::kIssued});
    instant(Level::kDetails, step);  // above the level
  }
  (*segment)->set_level(Level::kDetails);
  instant(Level::kDetails, step, 5);
  (*segment)->set_level(Level::kOff);
  instant(Level::kCollectives, step, 6);
  const std::vector<Record> got = all_of(*segment, 0);
  EXPECT(got.size() == 5);
  EXPECT(got[0].kind == Kind::kThread && got[0].value == static_cast<uint64_t>(::getpid()));
  EXPECT(got[1].kind == Kind::kBegin && got[1].name == step);
  EXPECT(got[2].kind == Kind::kIssued && got[2].sequence == 7 && got[2].group == group);
  EXPECT(got[3].kind == Kind::kEnd);
  EXPECT(got[4].value == 5);
  for (size_t i = 1; i < got.size(); ++i) EXPECT(got[i].time >= got[i - 1].time);
  EXPECT(got[1].time >= before && got[4].time <= ticks());
  // The clocks agree to within what it takes to read them.
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const int64_t off =
      (*segment)->time_scale().monotonic_ns(ticks()) - std::chrono::nanoseconds(now).count();
  EXPECT(off < 20000000 && off > -20000000);
  // Closed and opened again: the same segment goes on.
  close_recorder();
  instant(Level::kCollectives, step, 7);
  const auto again = open_recorder({.rings = 1}, Level::kCollectives);
  EXPECT(again.ok() && *again == *segment);
  instant(Level::kCollectives, step, 8);
  EXPECT(all_of(*segment, 0).back().value == 8 && all_of(*segment, 0).size() == 6);
  close_recorder();
  return 0;
}

int threads_share_rings() {
  const auto segment = open_recorder({.rings = 3, .ring_records = 64}, Level::kCollectives);
  EXPECT(segment.ok());
  instant(Level::kCollectives, 0, 1000);  // this thread has one for good
  // More threads than rings, one after the other: each gets one.
  for (uint64_t i = 0; i < 10; ++i) {
    std::thread([i] { instant(Level::kCollectives, 0, i); }).join();
  }
  EXPECT((*segment)->unplaced() == 0);
  std::set<uint64_t> values;
  for (const Record& r : all_of(*segment, 1)) {
    if (r.kind == Kind::kInstant) values.insert(r.value);
  }
  EXPECT(values.size() == 10);
  // And at the same time: two of four, and the others are counted.
  std::atomic<int> recorded{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      instant(Level::kCollectives, 0, 1);
      ++recorded;
      while (recorded < 4) std::this_thread::yield();
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT((*segment)->unplaced() == 2);
  return 0;
}

int names_run_out() {
  const auto segment = open_recorder({.rings = 1}, Level::kOff);
  EXPECT(segment.ok());
  const std::string longest(300, 'x');
  EXPECT((*segment)->name(intern(longest)) == longest.substr(0, 255));
  int given = 0;
  for (int i = 0; i < 5000; ++i) given += intern("name " + std::to_string(i)) != 0 ? 1 : 0;
  EXPECT(given == layout::kNamesMax - 1);
  EXPECT(intern("one more") == 0);
  EXPECT(intern("name 17") != 0);  // those that are there stay
  return 0;
}

int a_child_starts_anew() {
  const auto segment = open_recorder({.rings = 2}, Level::kCollectives);
  EXPECT(segment.ok());
  instant(Level::kCollectives, 0, 1);
  const int code = in_child([&]() -> int {
    instant(Level::kCollectives, 0, 2);  // goes nowhere
    const auto own = open_recorder({.rings = 2}, Level::kCollectives);
    EXPECT(own.ok() && *own != *segment && (*own)->pid() == ::getpid());
    instant(Level::kCollectives, 0, 3);
    EXPECT(all_of(*own, 0).size() == 2);
    close_recorder();
    return 0;
  });
  EXPECT(code == 0);
  EXPECT(all_of(*segment, 0).size() == 2);
  return 0;
}

}  // namespace

TEST_CASE("spans, operations and levels") {
  CHECK(in_child(records_as_told) == 0);
}
TEST_CASE("threads take rings and give them back") {
  CHECK(in_child(threads_share_rings) == 0);
}
TEST_CASE("a full table of names") {
  CHECK(in_child(names_run_out) == 0);
}
TEST_CASE("a forked child does not write into its parent's trace") {
  CHECK(in_child(a_child_starts_anew) == 0);
}

TEST_CASE("a killed process leaves its trace to whoever holds the descriptor") {
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const auto segment = open_recorder({.rings = 1, .rank = 6}, Level::kCollectives);
    const int fd = segment.ok() ? (*segment)->fd() : -1;
    const uint16_t name = intern("all_reduce");
    for (uint64_t i = 1; i <= 1000; ++i) {
      instant(Level::kCollectives, name, i);
      if (i == 1000) (void)!::write(pipe[1], &fd, sizeof fd);
    }
    ::pause();
  }
  int theirs = -1;
  REQUIRE(::read(pipe[0], &theirs, sizeof theirs) == sizeof theirs);
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(theirs);
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(fd);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  const auto segment = Segment::open(fd.get());
  REQUIRE(segment.ok());
  CHECK((*segment)->rank() == 6);
  const std::vector<Record> got = all_of(*segment, 0);
  REQUIRE(got.size() == 1001);
  CHECK(got.back().value == 1000);
  CHECK((*segment)->name(got.back().name) == "all_reduce");
  CHECK((*segment)->anchors().size() >= 2);
  CHECK((*segment)->time_scale().realtime_ns(got.back().time) > 0);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

}  // namespace convoy::trace
