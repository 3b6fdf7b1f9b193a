// Hostile clients send noise, giants, floods and other ranks' batches beside an honest one, whose
// batches must all arrive.
#include "tests/trace/aggregator_sides.h"

namespace convoy::trace {
namespace {

TEST_CASE("clients that break the rules are ended, and nobody else notices") {
  AggregatorOptions options;
  options.job = kJob;
  Server server(options);
  Sender honest(server.address());
  honest.operations(0, 1, 10);
  REQUIRE(honest.flush());
  Registry registry;
  wire::Upward one;
  one.set_number(1);
  const auto message = [&](uint32_t rank, const std::string& body) {
    wire::Upward up = one;
    up.add_rank(rank);
    up.add_bytes(static_cast<uint32_t>(body.size()));
    return up;
  };
  const std::string batch = encoded(registry, small(1));

  std::vector<std::pair<const char*, std::function<void(Raw&)>>> attacks = {
      {"no hello", [&](Raw& r) { r.send(message(1, batch), batch); }},
      {"noise as a header", [&](Raw& r) { r.stream->send({std::string(1000, '\xff')}); }},
      {"another version",
       [&](Raw& r) {
         wire::Upward up;
         up.mutable_hello()->set_version(99);
         up.mutable_hello()->set_client(1);
         r.send(up);
       }},
      {"another job",
       [&](Raw& r) {
         r.hello({"other", 3, 8, {}});
       }},
      {"an earlier generation",
       [&](Raw& r) {
         r.hello({"a job", 2, 8, {}});
       }},
      {"a generation from nowhere",
       [&](Raw& r) {
         r.hello({"a job", UINT64_MAX, 8, {}});
       }},
      {"an impossible job",
       [&](Raw& r) {
         r.hello({"a job", 4, 4000000000, {}});
       }},
      {"a mesh that overflows",
       [&](Raw& r) {
         r.hello({"a job", 4, 8, {{"a", 1u << 31}, {"b", 1u << 31}, {"c", 4}}});
       }},
      {"a rank beyond the world",
       [&](Raw& r) {
         r.hello();
         const std::string far = encoded(registry, small(8));
         r.send(message(8, far), far);
       }},
      {"another's rank",
       [&](Raw& r) {
         r.hello();
         const std::string his = encoded(registry, small(0));
         r.send(message(0, his), his);
       }},
      {"a rank that is not the batch's",
       [&](Raw& r) {
         r.hello();
         r.send(message(2, batch), batch);
       }},
      {"a generation that was not announced",
       [&](Raw& r) {
         r.hello();
         const std::string later = encoded(registry, small(1, 4));
         r.send(message(1, later), later);
       }},
      {"a body of noise",
       [&](Raw& r) {
         r.hello();
         r.send(message(1, std::string(5000, '\x9d')), std::string(5000, '\x9d'));
       }},
      {"a body that isn't zstd",
       [&](Raw& r) {
         r.hello();
         wire::Upward up = message(1, batch);
         up.set_raw_bytes(1000);
         r.send(up, batch);
       }},
      {"a bomb",
       [&](Raw& r) {
         r.hello();
         wire::Upward up = message(1, batch);
         up.set_raw_bytes(uint64_t{1} << 40);
         r.send(up, batch);
       }},
      {"lists that don't fit",
       [&](Raw& r) {
         r.hello();
         wire::Upward up = message(1, batch);
         up.add_rank(5);
         r.send(up, batch);
       }},
      {"a batch beyond the message",
       [&](Raw& r) {
         r.hello();
         wire::Upward up = one;
         up.add_rank(1);
         up.add_bytes(UINT32_MAX);
         r.send(up, batch);
       }},
      {"something behind the batches",
       [&](Raw& r) {
         r.hello();
         r.send(message(1, batch), batch + "more");
       }},
      {"the wrong turn",
       [&](Raw& r) {
         r.hello();
         wire::Upward up = message(1, batch);
         up.set_number(7);
         r.send(up, batch);
       }},
      {"a giant",
       [&](Raw& r) {
         r.hello();
         r.send(message(1, batch), std::string(20 << 20, 'x'));
       }},
      {"a clock that can't be",
       [&](Raw& r) {
         r.hello();
         wire::Upward up = one;
         up.add_clock()->set_error(UINT64_MAX);
         r.send(up);
       }},
  };
  for (const auto& [name, attack] : attacks) {
    INFO(name);
    Raw raw(server.address());
    attack(raw);
    const Status why = raw.wait_end();
    INFO(why.to_string());
    CHECK(why.code() != Code::kOk);
    CHECK(why.code() != Code::kUnavailable);
  }
  // Each byte of a good message is damaged in turn.
  std::mt19937_64 random(3);
  Batch rich = small(1);
  Signature barrier;
  barrier.group = registry.group({"g", {0, 1}});
  barrier.operation = "barrier";
  rich.operations.resize(20, {registry.signature(barrier), 1, 1, 0, 2});
  const std::string good = encoded(registry, rich);
  for (int i = 0; i < 60; ++i) {
    Raw raw(server.address());
    raw.hello();
    std::string bad = good;
    for (uint64_t n = 1 + random() % 4; n > 0; --n) {
      bad[random() % bad.size()] = static_cast<char>(random());
    }
    raw.send(message(1, bad), bad);
    REQUIRE(wait_for([&] {
      const std::lock_guard lock(raw.state->mutex);
      return raw.state->ended || raw.state->answers >= 2;
    }));
  }
  honest.operations(0, 11, 10);
  REQUIRE(honest.flush());
  check_all(server.notes, 0, 20);
  CHECK(server.aggregator->stats().refused >= attacks.size() - 1);
  CHECK(server.aggregator->stats().job == kJob);
  CHECK(honest.uplink->stats().connections == 1);
}

TEST_CASE("a flood is slowed down, those who don't read are ended, and places are limited") {
  AggregatorOptions options;
  options.job = kJob;
  options.client_messages_per_s = 50;
  options.clients_max = 40;
  Server server(options);
  Raw flood(server.address());
  flood.hello();
  for (uint64_t i = 1; i <= 300; ++i) {
    wire::Upward up;
    up.set_number(i);
    flood.send(up);
  }
  Sender honest(server.address());
  honest.operations(0, 1, 100);
  REQUIRE(honest.flush());
  check_all(server.notes, 0, 100);
  CHECK(flood.answers() <= 250);  // it had 100 at once, and 50 a second
  REQUIRE(wait_for([&] { return server.aggregator->stats().slowed > 0; }));
  std::vector<std::unique_ptr<Raw>> many;
  for (int i = 0; i < 38; ++i) {
    many.push_back(std::make_unique<Raw>(server.address()));
    many.back()->hello();
  }
  REQUIRE(wait_for([&] { return server.aggregator->stats().clients == 40; }));
  Raw late(server.address());
  late.hello();
  CHECK(late.wait_end().message().find("as many clients") != std::string::npos);
  many.clear();
  REQUIRE(wait_for([&] { return server.aggregator->stats().clients == 2; }));
  Raw again(server.address());
  again.hello();
  CHECK(wait_for([&] { return again.answers() == 1; }));
}

TEST_CASE("a rank moves to another client when its own has gone, or with the next generation") {
  Server server;
  auto first = std::make_unique<Sender>(server.address(), "node0");
  first->operations(0, 1, 10);
  REQUIRE(first->flush());
  first = nullptr;
  REQUIRE(wait_for([&] { return server.aggregator->stats().clients == 0; }));
  Sender second(server.address(), "node1");
  second.operations(0, 11, 10);
  REQUIRE(second.flush());
  check_all(server.notes, 0, 20);
  JobInfo next = kJob;
  next.generation = 4;
  Sender third(server.address(), "node2", {}, next);
  third.operations(0, 21, 10, 4);
  REQUIRE(third.flush());
  check_all(server.notes, 0, 30);
  second.operations(0, 99, 1);  // of a generation that is over
  REQUIRE(second.flush());
  CHECK(server.aggregator->stats().stale == 1);
  CHECK(server.aggregator->stats().job.generation == 4);
  const std::lock_guard lock(server.notes.mutex);
  CHECK(server.notes.jobs.size() == 2);
}

}  // namespace
}  // namespace convoy::trace
