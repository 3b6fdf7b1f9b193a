#pragma once

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

// The two sides of tests of the aggregator: a server whose sink writes down what arrives, and
// clients, those of an uplink and those that send whatever they are told.
namespace convoy::trace {

using namespace std::chrono_literals;
inline constexpr auto kPatience = 60s;

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

inline bool wait_for(const std::function<bool()>& what) {
  const Deadline deadline = Deadline::after(kPatience);
  while (!what()) {
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

inline const JobInfo kJob{"a job", 3, 8, {{"tp", 2}, {"dp", 4}}};

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
inline void check_all(Notes& notes, uint32_t rank, uint32_t count) {
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

inline std::string encoded(Registry& registry, const Batch& batch) {
  std::string bytes;
  BatchEncoder(registry).encode(batch, bytes);
  return bytes;
}

inline Batch small(uint32_t rank, uint64_t generation = 3) {
  Batch batch;
  batch.rank = rank;
  batch.generation = generation;
  batch.number = 1;
  batch.host = "hostile";
  batch.state.emplace().time = 5;
  return batch;
}

}  // namespace convoy::trace
