// A collector, aggregators and hostile clients over loopback. Method: a client of the uplink's or
// raw streams sends known batches; a sink writes down what arrives. Servers end and begin anew
// under way; what was sent must arrive once. Hostile clients send noise, giants, floods and other
// ranks' batches beside an honest one, whose batches must all arrive. Not checked: speed
// (tests/bench/trace_aggregator.cc), processes (collector_test.cc).
#include "tests/temp_folder.h"
#include "tests/trace/random_batches.h"
#include "trace/aggregator/uplink.h"
#include "trace/aggregator/wire.h"
#include <convoy/trace/aggregator.h>

#include <catch2/catch.hpp>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <thread>

namespace convoy::trace {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 60s;

// What arrived. Written on the aggregator's thread.
struct Notes : Sink {
  std::mutex mutex;
  std::vector<JobInfo> jobs;
  std::map<uint32_t, std::vector<Batch>> batches;
  std::vector<ClockSample> clocks;

  void job(const JobInfo& job) override {
    const std::lock_guard lock(mutex);
    jobs.push_back(job);
  }
  void batch(const Batch& batch) override {
    const std::lock_guard lock(mutex);
    batches[batch.rank].push_back(batch);
  }
  void clock(const ClockSample& sample) override {
    const std::lock_guard lock(mutex);
    clocks.push_back(sample);
  }
  uint64_t operations(uint32_t rank) {
    const std::lock_guard lock(mutex);
    uint64_t count = 0;
    for (const Batch& b : batches[rank]) count += b.operations.size();
    return count;
  }
};

bool wait_for(const std::function<bool()>& what) {
  const Deadline deadline = Deadline::after(kPatience);
  while (!what()) {
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

const JobInfo kJob{"a job", 3, 8, {{"tp", 2}, {"dp", 4}}};

struct Server {
  Registry registry;
  Notes notes;
  std::unique_ptr<Aggregator> aggregator;

  explicit Server(AggregatorOptions options = {}) {
    options.host = "127.0.0.1";
    options.registry = &registry;
    options.sinks.push_back(&notes);
    auto started = Aggregator::start(options);
    INFO(started.status().to_string());
    REQUIRE(started.ok());
    aggregator = std::move(started).value();
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(aggregator->port()); }
};

// An uplink and its thread's work, by hand.
struct Sender {
  Registry registry;
  std::unique_ptr<Uplink> uplink;
  explicit Sender(const std::string& address, const std::string& host = "node0",
                  const rpc::ConnectionOptions& connection = {}, const JobInfo& job = kJob) {
    UplinkOptions options;
    options.address = address;
    options.connection = connection;
    options.host = host;
    options.job = job;
    options.buffer_bytes_max = 64 << 20;
    options.now = [] { return now_on(CLOCK_MONOTONIC); };
    options.wake = [] {};
    auto made = Uplink::create(options, registry);
    INFO(made.status().to_string());
    REQUIRE(made.ok());
    uplink = std::move(made).value();
  }
  bool flush() {
    return wait_for([&] {
      uplink->turn();
      return uplink->idle();
    });
  }
  void operations(uint32_t rank, uint32_t first, uint32_t count, uint64_t generation = 3) {
    Batch batch;
    batch.rank = rank;
    batch.generation = generation;
    const uint32_t signature =
        registry.signature({registry.group({"all", {0, 1, 2, 3, 4, 5, 6, 7}}), "all_reduce",
                            "float32", "sum", -1, -1, 4096, false});
    for (uint32_t i = first; i < first + count; ++i) {
      batch.operations.push_back({signature, i, i * 1000, i * 1000 + 100, i * 1000 + 500});
    }
    batch.state.emplace().time = first;
    uplink->add(std::move(batch));
  }
};

// All operations from 1 to `count`, each once and in order; and no gap in the batches' numbers.
void check_all(Notes& notes, uint32_t rank, uint32_t count) {
  const std::lock_guard lock(notes.mutex);
  uint32_t next = 0;
  uint64_t number = 0;
  for (const Batch& b : notes.batches[rank]) {
    CHECK(b.number == ++number);
    CHECK(b.received > 0);
    for (const Operation& o : b.operations) {
      if (o.sequence != ++next)
        FAIL_CHECK("rank " << rank << ": " << o.sequence << " after " << next);
      next = o.sequence;
    }
  }
  CHECK(next == count);
}

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

struct Raw {
  std::unique_ptr<rpc::Channel> channel;
  std::shared_ptr<rpc::Stream> stream;
  struct State {
    std::mutex mutex;
    uint64_t answers = 0;
    std::optional<Status> ended;
    std::weak_ptr<rpc::Stream> stream;
  };
  std::shared_ptr<State> state = std::make_shared<State>();

  explicit Raw(const std::string& address, bool reads = true,
               const rpc::ConnectionOptions& connection = {}) {
    channel = rpc::Channel::create(address, connection).value();
    rpc::StreamEvents events;
    events.received = [s = state](const rpc::Received&) {
      std::shared_ptr<rpc::Stream> next;
      {
        const std::lock_guard lock(s->mutex);
        ++s->answers;
        next = s->stream.lock();
      }
      if (next != nullptr) next->read_next();
    };
    events.ended = [s = state](const Status& why) {
      const std::lock_guard lock(s->mutex);
      s->ended = why;
    };
    stream = channel->open_stream(kBatchesMethod, std::move(events));
    {
      const std::lock_guard lock(state->mutex);
      state->stream = stream;
    }
    if (reads) stream->read_next();
  }
  void send(const wire::Upward& up, std::string body = "") {
    const auto kept = std::make_shared<std::string>(std::move(body));
    stream->send({up.SerializeAsString(), {std::as_bytes(std::span(*kept))}, kept});
  }
  void hello(const JobInfo& job = kJob, uint64_t client = 77) {
    wire::Upward up;
    up.mutable_hello()->set_version(kWireVersion);
    up.mutable_hello()->set_client(client);
    up.mutable_hello()->set_host("hostile");
    to_wire(job, *up.mutable_hello()->mutable_job());
    send(up);
  }
  uint64_t answers() {
    const std::lock_guard lock(state->mutex);
    return state->answers;
  }
  Status wait_end() {
    REQUIRE(wait_for([&] {
      const std::lock_guard lock(state->mutex);
      return state->ended.has_value();
    }));
    const std::lock_guard lock(state->mutex);
    return *state->ended;
  }
};

std::string encoded(Registry& registry, const Batch& batch) {
  std::string bytes;
  BatchEncoder(registry).encode(batch, bytes);
  return bytes;
}

Batch small(uint32_t rank, uint64_t generation = 3) {
  Batch batch;
  batch.rank = rank;
  batch.generation = generation;
  batch.number = 1;
  batch.host = "hostile";
  batch.state.emplace().time = 5;
  return batch;
}

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
