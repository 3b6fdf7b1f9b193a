// The governor alone, told what tracing costs; and within a recorder whose budget is nothing.
#include "trace/record/governor.h"

#include <convoy/trace/event.h>
#include <convoy/trace/recorder.h>
#include <convoy/trace/sockets.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <arpa/inet.h>
#include <chrono>
#include <cstdlib>
#include <map>
#include <netinet/in.h>
#include <sys/socket.h>
#include <thread>

namespace convoy::trace {
namespace {

// The last value of each counter of this process: by name and peer (-1: none).
std::map<std::pair<std::string, int>, uint64_t> counters(const std::shared_ptr<Segment>& segment) {
  std::vector<Record> all;
  for (uint32_t i = 0; i < segment->rings(); ++i) RingReader(segment, i).read(all);
  std::map<std::pair<std::string, int>, uint64_t> last;
  for (const Record& r : all) {
    if (r.kind != Kind::kCounter) continue;
    last[{segment->name(r.name), static_cast<int>(r.extra) - 1}] = r.value;
  }
  return last;
}

template <class Condition>
bool comes_true(Condition condition) {
  for (int i = 0; i < 200; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return false;
}

// Two ends of a TCP connection within this process.
std::pair<UniqueFd, UniqueFd> connection() {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* const name = reinterpret_cast<sockaddr*>(&address);
  REQUIRE(::bind(listener.get(), name, length) == 0);
  REQUIRE(::listen(listener.get(), 1) == 0);
  REQUIRE(::getsockname(listener.get(), name, &length) == 0);
  UniqueFd caller(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(::connect(caller.get(), name, length) == 0);
  return {std::move(caller), UniqueFd(::accept(listener.get(), nullptr, nullptr))};
}

}  // namespace

TEST_CASE("the level falls while tracing is too expensive, to collectives at most") {
  Governor governor(0.001);
  CHECK(governor.decide(Level::kDetails, 0.0005, 1) == Level::kDetails);
  CHECK(governor.decide(Level::kDetails, 0.002, 1) == Level::kSpans);
  CHECK(governor.decide(Level::kSpans, 0.002, 1) == Level::kCollectives);
  CHECK(governor.decide(Level::kCollectives, 0.5, 1) == Level::kCollectives);
}

TEST_CASE("the level rises again after a pause that grows with every mistake") {
  Governor governor(0.001);
  const auto seconds_until = [&](Level from, Level to) {
    for (int s = 1; s < 1000; ++s) {
      if (governor.decide(from, 0.0001, 1) == to) return s;
    }
    return 1000;
  };
  REQUIRE(governor.decide(Level::kSpans, 0.01, 1) == Level::kCollectives);
  CHECK(seconds_until(Level::kCollectives, Level::kSpans) == 10);
  REQUIRE(governor.decide(Level::kSpans, 0.01, 1) == Level::kCollectives);
  CHECK(seconds_until(Level::kCollectives, Level::kSpans) == 20);
  // It goes well for some time.
  for (int s = 0; s < 60; ++s) CHECK(governor.decide(Level::kSpans, 0.0001, 1) == Level::kSpans);
  REQUIRE(governor.decide(Level::kSpans, 0.01, 1) == Level::kCollectives);
  CHECK(seconds_until(Level::kCollectives, Level::kSpans) == 10);
}

TEST_CASE("it does not rise above what others have set") {
  Governor governor(0.001);
  REQUIRE(governor.decide(Level::kDetails, 0.01, 1) == Level::kSpans);
  CHECK(governor.decide(Level::kCollectives, 0, 1) == Level::kCollectives);
  for (int s = 0; s < 100; ++s) {
    CHECK(governor.decide(Level::kCollectives, 0, 1) == Level::kCollectives);
  }
  CHECK(governor.decide(Level::kOff, 0.5, 1) == Level::kOff);
}

TEST_CASE("budgets are percentages") {
  CHECK(parse_budget("0.1%").value() == Approx(0.001));
  CHECK(parse_budget("2").value() == Approx(0.02));
  CHECK(parse_budget("off").value() == 1.0);
  for (const char* text : {"", "%", "-1", "101", "much", "1%%", "nan"}) {
    CHECK(parse_budget(text).status().code() == Code::kInvalidArgument);
  }
}

TEST_CASE("a recorder over its budget tells its cost and records less") {
  ::setenv("CONVOY_TRACE_BUDGET", "0.0001%", 1);
  const auto segment = open_recorder({.rank = 0, .world_size = 1}, Level::kDetails).value();
  ::unsetenv("CONVOY_TRACE_BUDGET");
  const uint16_t name = intern("work");
  const bool has_fallen = comes_true([&] {
    for (int i = 0; i < 20000; ++i) instant(Level::kCollectives, name);
    return segment->level() == Level::kCollectives;
  });
  CHECK(has_fallen);
  // This thread's ring has overwritten nothing of the keeper's.
  const auto last = counters(segment);
  CHECK(last.at({names::kTracerCost, -1}) > 0);
  CHECK(last.at({names::kTracerShare, -1}) > 0);
  CHECK(last.contains({names::kTracerLevel, -1}));
  CHECK(last.at({names::kProcessor, -1}) > 0);
  CHECK(last.contains({names::kRunQueue, -1}));
  CHECK(last.contains({names::kPageFaults, -1}));
}

TEST_CASE("calls are metered") {
  static CallMeter meter;
  for (int i = 0; i < 5000; ++i) {
    const uint64_t begin = meter.begin();
    for (const uint64_t until = ticks() + 500; ticks() < until;) {
    }
    meter.end(begin);
  }
  CHECK(meter.calls() == 5000);
  CHECK(meter.mean_ticks() >= 500);
}

TEST_CASE("a program's first, cold call is not taken for what all calls cost") {
  static CallMeter meter;
  CHECK(meter.begin() == 0);
  int timed = 0;
  for (int i = 1; i < 4096; ++i) timed += meter.begin() != 0 ? 1 : 0;
  CHECK(timed == 32 + 3);
}

TEST_CASE("a span that has begun is ended though the level has fallen meanwhile") {
  const auto segment = open_recorder({.rank = 0, .world_size = 1}, Level::kSpans).value();
  const uint16_t name = intern("a long span");
  {
    const Span span(name);
    segment->set_level(Level::kCollectives);
  }
  std::vector<Record> all;
  for (uint32_t i = 0; i < segment->rings(); ++i) RingReader(segment, i).read(all);
  CHECK(std::ranges::count_if(
            all, [&](const Record& r) { return r.name == name && r.kind == Kind::kEnd; }) == 1);
}

TEST_CASE("a rank's connections are counted for each peer") {
  const auto segment = open_recorder({.rank = 0, .world_size = 8}, Level::kCollectives).value();
  auto [mine, theirs] = connection();
  auto [other, others] = connection();
  std::vector<char> data(100000);
  {
    const WatchedSocket first(mine.get(), 5), second(other.get(), 5), none(0, 6);
    REQUIRE(::send(mine.get(), data.data(), 1000, 0) == 1000);
    REQUIRE(::send(other.get(), data.data(), 500, 0) == 500);
    const auto sent = [&] {
      const auto all = counters(segment);
      const auto at = all.find({names::kSentBytes, 5});
      return at == all.end() ? 0 : at->second;
    };
    CHECK(comes_true([&] { return sent() == 1500; }));
    CHECK(counters(segment).at({names::kRoundTrip, 5}) > 0);
    CHECK(counters(segment).at({names::kRetransmits, 5}) == 0);
    CHECK_FALSE(counters(segment).contains({names::kSentBytes, 6}));
    REQUIRE(::send(theirs.get(), data.data(), 100, 0) == 100);
  }
  // What a connection has carried stays with its peer.
  const auto received = [&] { return counters(segment).at({names::kReceivedBytes, 5}); };
  CHECK(comes_true([&] { return received() == 100; }));
  close_recorder();
}

}  // namespace convoy::trace
