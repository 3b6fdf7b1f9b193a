// The join of all ranks' operations: late and lost ones, rings that grow, messages, dissent.
#include <convoy/trace/join.h>

#include <catch2/catch.hpp>

#include <vector>

using namespace convoy::trace;

namespace {

struct Fixture {
  Registry registry;
  ClockModel clocks;
  uint32_t group = registry.group({"tp[0]", {0, 1, 2}});
  uint32_t signature(const char* operation, uint64_t bytes, int32_t peer = -1) {
    Signature s;
    s.group = group;
    s.operation = operation;
    s.dtype = "float32";
    s.bytes = bytes;
    s.peer = peer;
    return registry.signature(s);
  }
};

Operation operation(uint32_t signature, uint32_t sequence, int64_t issued, int64_t completed) {
  return {signature, sequence, issued, issued, completed};
}

}  // namespace

TEST_CASE("the first and the last to come and to leave are known once all have told") {
  Fixture f;
  const uint32_t reduce = f.signature("all_reduce", 64);
  f.clocks.place(0, "a");
  f.clocks.place(1, "b");
  f.clocks.sample({"b", 1'000, 1'501'000, 100});  // b is 1.5 ms behind
  Join join(f.registry);
  int finished = 0;
  const auto count = [&](uint32_t, const Instance& x) {
    ++finished;
    CHECK(x.sequence == 1);
  };
  for (const auto& [rank, issued, completed] :
       {std::tuple(2U, 300, 900), std::tuple(0U, 200, 800), std::tuple(1U, 100, 700)}) {
    join.add(rank, std::vector{operation(reduce, 1, issued, completed)}, f.clocks, count);
  }
  CHECK(finished == 1);
  const Instance* x = join.find(join.ring_of_group(f.group), 1);
  REQUIRE(x != nullptr);
  CHECK(x->count == 3);
  CHECK(x->issued_first == 0);
  CHECK(x->issued_last == 1);
  CHECK(x->completed_first == 0);
  CHECK(x->completed_last == 1);
  CHECK(x->issued_max == 1'500'100);
  CHECK(x->dissents == 0);
}

TEST_CASE("a ring grows for who comes late, within its limit") {
  Fixture f;
  const uint32_t reduce = f.signature("all_reduce", 64);
  JoinOptions options;
  options.depth = options.depth_min = 8;
  options.depth_max = 32;
  Join join(f.registry, options);
  for (uint32_t s = 1; s <= 100; ++s) {
    join.add(0, std::vector{operation(reduce, s, s, s + 1)}, f.clocks);
    if (s > 20) join.add(1, std::vector{operation(reduce, s - 20, s, s + 1)}, f.clocks);
  }
  const uint32_t ring = join.ring_of_group(f.group);
  CHECK(join.bytes() == 32 * sizeof(Instance));
  CHECK(join.late() > 0);
  CHECK(join.late() < 40);
  REQUIRE(join.find(ring, 78) != nullptr);
  CHECK(join.find(ring, 78)->count == 2);
  CHECK(join.find(ring, 5) == nullptr);
  // A damaged number takes one place for a while, no more.
  join.add(2, std::vector{operation(reduce, 4'000'000'000, 1, 2)}, f.clocks);
  join.add(2, std::vector{operation(reduce, 100, 1, 2)}, f.clocks);
  CHECK(join.find(ring, 100)->count == 2);
}

TEST_CASE("both sides of a message are joined, also where the group has many") {
  Fixture f;
  const uint32_t send = f.signature("send", 64, 1), recv = f.signature("recv", 64, 0);
  const uint32_t other = f.signature("send", 64, 2);
  Join join(f.registry);
  join.add(0, std::vector{operation(send, 1, 10, 20), operation(other, 1, 11, 21)}, f.clocks);
  join.add(1, std::vector{operation(recv, 1, 5, 22)}, f.clocks);
  REQUIRE(join.owners().size() == 2);
  CHECK(join.owners()[0].sender == 0);
  CHECK(join.owners()[0].receiver == 1);
  CHECK(join.find(0, 1)->count == 2);
  CHECK(join.find(0, 1)->dissents == 0);
  CHECK(join.find(1, 1)->count == 1);
}

TEST_CASE("who differs is told, and who told first too") {
  Fixture f;
  const uint32_t right = f.signature("all_reduce", 64), wrong = f.signature("all_reduce", 32);
  Join join(f.registry);
  join.add(1, std::vector{operation(wrong, 1, 1, 2)}, f.clocks);
  join.add(0, std::vector{operation(right, 1, 1, 2)}, f.clocks);
  join.add(2, std::vector{operation(right, 1, 1, 2)}, f.clocks);
  const auto dissents = join.take_dissents();
  REQUIRE(dissents.size() == 3);
  CHECK(dissents[0].rank == 1);
  CHECK(dissents[0].signature == wrong);
  CHECK(dissents[1].rank == 0);
  CHECK(join.take_dissents().empty());
}
