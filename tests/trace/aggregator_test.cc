// A collector and aggregators over loopback. Method: a client of the uplink's or raw streams sends
// known batches; a sink writes down what arrives. Servers end and begin anew under way; what was
// sent must arrive once. Not checked: hostile clients (aggregator_hostile_test.cc), speed
// (tests/bench/trace_aggregator.cc), processes (collector_test.cc).
#include "tests/trace/aggregator_sides.h"

namespace convoy::trace {
namespace {

TEST_CASE("batches of all kinds arrive as they were sent") {
  Server server;
  Sender sender(server.address());
  RandomBatches random(sender.registry, 5);
  std::vector<Batch> sent;
  for (int i = 0; i < 200; ++i) {
    sent.push_back(random.next(static_cast<uint32_t>(i % 8)));
    sender.uplink->add(sent.back());
    if (i % 20 == 0) sender.uplink->turn();
  }
  REQUIRE(sender.flush());
  REQUIRE(wait_for([&] { return server.aggregator->stats().clients == 1; }));
  REQUIRE(wait_for([&] {
    sender.uplink->turn();
    const std::lock_guard lock(server.notes.mutex);
    return !server.notes.clocks.empty();
  }));
  const std::lock_guard lock(server.notes.mutex);
  CHECK(server.notes.jobs == std::vector<JobInfo>{kJob});
  size_t operations = 0, spans = 0, counters = 0, got = 0;
  for (const Batch& b : sent) {
    operations += b.operations.size();
    spans += b.spans.size();
    counters += b.counters.size();
  }
  for (const auto& [rank, batches] : server.notes.batches) {
    CHECK(batches.front().host == "node" + std::to_string(rank / 2));
    for (const Batch& b : batches) {
      operations -= b.operations.size();
      spans -= b.spans.size();
      counters -= b.counters.size();
      ++got;
    }
  }
  CHECK(operations + spans + counters == 0);
  CHECK(got >= 8);
  const ClockSample& clock = server.notes.clocks.front();
  CHECK(clock.host == "node0");
  // Both clocks are this machine's: the truth is known, but for what passes between two readings.
  const int64_t truth = now_on(CLOCK_REALTIME) - now_on(CLOCK_MONOTONIC);
  CHECK(std::abs(clock.root_time - clock.host_time - truth) <= clock.error + 50000000);
  CHECK(clock.error > 0);
}

TEST_CASE("a server that ends and comes again gets all of it, each operation once") {
  auto server = std::make_unique<Server>();
  const uint16_t port = server->aggregator->port();
  Sender sender(server->address());
  uint32_t next = 1;
  const auto some = [&] {
    for (int i = 0; i < 10; ++i, next += 50) {
      for (uint32_t rank = 0; rank < 8; ++rank) sender.operations(rank, next, 50);
    }
  };
  some();
  REQUIRE(sender.flush());
  for (uint32_t rank = 0; rank < 8; ++rank) check_all(server->notes, rank, next - 1);
  // Gone while it is being sent to: what it has not acknowledged comes to the next one.
  const uint32_t before = next;
  server->aggregator = nullptr;
  some();
  for (int i = 0; i < 50; ++i) {
    sender.uplink->turn();
    std::this_thread::sleep_for(2ms);
  }
  AggregatorOptions options;
  options.port = port;
  Server second(options);
  some();
  REQUIRE(sender.flush());
  CHECK(sender.uplink->stats().connections >= 2);
  CHECK(sender.uplink->outbox().shed() == std::array<uint64_t, 3>{});
  for (uint32_t rank = 0; rank < 8; ++rank) {
    const std::lock_guard lock(second.notes.mutex);
    std::vector<uint32_t> got;
    for (const Batch& b : second.notes.batches[rank]) {
      for (const Operation& o : b.operations) got.push_back(o.sequence);
    }
    REQUIRE(got.size() == next - before);
    for (uint32_t i = 0; i < got.size(); ++i) CHECK(got[i] == before + i);
    CHECK(second.notes.batches[rank].size() > 0);
  }
}

// --- Hostile clients: streams whose bytes are made by hand.

TEST_CASE("shards send on to a root, which gets all ranks and their clocks") {
  Server root;
  AggregatorOptions options;
  options.parent = root.address();
  auto shard_a = std::make_unique<Server>(options);
  Server shard_b(options);
  Sender a(shard_a->address(), "node0"), b(shard_b.address(), "node1");
  for (uint32_t i = 0; i < 20; ++i) {
    for (uint32_t rank = 0; rank < 4; ++rank) a.operations(rank, 1 + i * 10, 10);
    for (uint32_t rank = 4; rank < 8; ++rank) b.operations(rank, 1 + i * 10, 10);
    a.uplink->turn();
    b.uplink->turn();
  }
  REQUIRE(a.flush());
  REQUIRE(b.flush());
  for (uint32_t rank = 0; rank < 8; ++rank) {
    REQUIRE(wait_for([&] { return root.notes.operations(rank) >= 200; }));
    check_all(root.notes, rank, 200);
  }
  REQUIRE(wait_for([&] {
    a.uplink->turn();
    b.uplink->turn();
    const std::lock_guard lock(root.notes.mutex);
    return std::ranges::count(root.notes.clocks, "node1", &ClockSample::host) > 0;
  }));
  CHECK(root.aggregator->stats().clients == 2);
  CHECK(root.aggregator->stats().job == kJob);
}

TEST_CASE("the token and TLS keep strangers out") {
  AggregatorOptions options;
  options.connection.token = "secret";
  Server server(options);
  Sender known(server.address(), "node0", options.connection);
  known.operations(0, 1, 5);
  REQUIRE(known.flush());
  CHECK(Raw(server.address()).wait_end().message().find("token") != std::string::npos);

  if (std::system("command -v openssl > /dev/null") != 0) {
    WARN("no openssl here: TLS is not checked");
    return;
  }
  TempFolder temp;
  const std::string command =
      "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=node -addext "
      "subjectAltName=IP:127.0.0.1 -keyout " +
      (temp / "key") + " -out " + (temp / "pem") + " 2> /dev/null";
  REQUIRE(std::system(command.c_str()) == 0);
  options.connection.tls = {temp / "pem", temp / "key", temp / "pem"};
  Server secure(options);
  Sender proven(secure.address(), "node0", options.connection);
  proven.operations(0, 1, 5);
  REQUIRE(proven.flush());
  check_all(secure.notes, 0, 5);
  rpc::ConnectionOptions plain;
  plain.token = "secret";
  Raw stranger(secure.address(), true, plain);
  stranger.hello();
  CHECK(stranger.wait_end().code() != Code::kOk);
  CHECK(secure.aggregator->stats().clients == 1);
}

TEST_CASE("options that can't be are refused, and posted work runs between batches") {
  Registry registry;
  CHECK(Aggregator::start({}).status().code() == Code::kInvalidArgument);
  std::atomic<int> turns{0}, posted{0};
  AggregatorOptions options;
  options.turn = [&](int64_t now) { turns += now > 0 ? 1 : 0; };
  options.period = 5ms;
  Server server(options);
  server.aggregator->post([&] { ++posted; });
  CHECK(wait_for([&] { return turns > 3 && posted == 1; }));
  AggregatorOptions taken;
  taken.host = "127.0.0.1";
  taken.port = server.aggregator->port();
  taken.registry = &registry;
  CHECK(Aggregator::start(taken).status().code() == Code::kAlreadyExists);
}

}  // namespace
}  // namespace convoy::trace
