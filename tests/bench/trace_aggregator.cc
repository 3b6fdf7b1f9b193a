// The aggregator through gRPC: `trace_aggregator [NODES [MESSAGES]]`, through `make bench
// BENCH=trace.aggregator`.
//
//   trace.aggregator/grpc   events that a server process on one core takes from NODES clients
//                           (1,250) of 8 ranks each over loopback, a second of its processor time;
//                           all of gRPC, decoding and a sink that counts are in it
//   trace.aggregator/wall   the same, a second of the clock, with clients on another core
//   trace.aggregator/wire   bytes for an event: of bodies, and what the loopback carried, in both
//                           directions, with all framing down to IP
//   trace.aggregator/memory the server's largest resident size
// Messages are encoded beforehand: each holds 500 operations of each rank, times with jitter.
#include "trace/aggregator/wire.h"
#include <convoy/rpc/channel.h>
#include <convoy/trace/aggregator.h>
#include <convoy/trace/stream.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <random>
#include <sched.h>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::trace {
namespace {

using namespace std::chrono_literals;
using Steady = std::chrono::steady_clock;

constexpr uint32_t kRanksOfNode = 8;
constexpr uint32_t kGroupsOfRank = 8;
constexpr uint32_t kOperations = 500;  // of a rank in a message: 0.25 s at 2,000 a second
constexpr uint64_t kWindow = 4;        // messages of a client under way

void stay_on(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

double processor_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Figures {
  double processor_s = 0, wall_s = 0, rss = 0;
  uint64_t events = 0;
};

// Counts, and looks at each operation.
struct Counting : Sink {
  uint64_t events = 0, sum = 0;
  double begun_processor = 0;
  Steady::time_point begun;
  void job(const JobInfo&) override {}
  void batch(const Batch& batch) override {
    if (events == 0) {
      begun_processor = processor_seconds();
      begun = Steady::now();
    }
    for (const Operation& o : batch.operations)
      sum += static_cast<uint64_t>(o.completed - o.issued);
    events += batch.operations.size();
  }
  void clock(const ClockSample&) override {}
};

int serve(uint64_t wanted, uint32_t world_size, int to) {
  stay_on(0);
  Registry registry;
  Counting counting;
  AggregatorOptions options;
  options.host = "127.0.0.1";
  options.registry = &registry;
  options.sinks = {&counting};
  options.job = {"bench", 1, world_size, {}};
  std::atomic<bool> done{false};
  Figures figures;
  options.turn = [&](int64_t) {
    if (done || counting.events < wanted) return;
    figures.processor_s = processor_seconds() - counting.begun_processor;
    figures.wall_s = std::chrono::duration<double>(Steady::now() - counting.begun).count();
    figures.events = counting.sum == 0 ? 0 : counting.events;
    done = true;
  };
  options.period = 10ms;
  auto started = Aggregator::start(options);
  const uint16_t port = started.ok() ? (*started)->port() : 0;
  if (::write(to, &port, sizeof port) != sizeof port || port == 0) return 1;
  while (!done) ::usleep(20000);
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  figures.rss = static_cast<double>(usage.ru_maxrss) * 1024;
  return ::write(to, &figures, sizeof figures) == sizeof figures ? 0 : 1;
}

// A node and what it will send.
struct Node {
  std::vector<std::string> headers, bodies;
  std::unique_ptr<rpc::Channel> channel;
  std::shared_ptr<rpc::Stream> stream;
  size_t next = 0;
  std::mutex mutex;  // of next
};

void encode(Node& node, uint32_t first_rank, uint32_t messages) {
  Registry registry;
  std::mt19937 random(first_rank);
  std::vector<std::unique_ptr<BatchEncoder>> encoders;
  std::vector<int64_t> now(kRanksOfNode, 1000000000);
  std::vector<uint32_t> sequence(kRanksOfNode * kGroupsOfRank, 0);
  for (uint32_t r = 0; r < kRanksOfNode; ++r) {
    encoders.push_back(std::make_unique<BatchEncoder>(registry));
  }
  for (uint32_t m = 0; m < messages; ++m) {
    wire::Upward up;
    up.set_number(m + 1);
    std::string body;
    for (uint32_t r = 0; r < kRanksOfNode; ++r) {
      Batch batch;
      batch.rank = first_rank + r;
      batch.generation = 1;
      batch.number = m + 1;
      for (uint32_t i = 0; i < kOperations; ++i) {
        const uint32_t g = random() % kGroupsOfRank;
        Signature s;
        s.group = registry.group(
            {"group " + std::to_string(g) + " of " + std::to_string(first_rank / 64), {}});
        s.operation = g % 2 == 0 ? "all_reduce" : "all_gather";
        s.dtype = "bfloat16";
        s.bytes = uint64_t{1} << (16 + g);
        now[r] += static_cast<int64_t>(300000 + random() % 400000);
        const auto starts = static_cast<int64_t>(10000 + random() % 5000);
        const auto lasts = static_cast<int64_t>(50000 + random() % 200000);
        batch.operations.push_back({registry.signature(s), ++sequence[r * kGroupsOfRank + g],
                                    now[r], now[r] + starts, now[r] + lasts});
      }
      const size_t before = body.size();
      encoders[r]->encode(batch, body);
      up.add_rank(batch.rank);
      up.add_bytes(static_cast<uint32_t>(body.size() - before));
    }
    const size_t raw = body.size();
    if (pack(body)) up.set_raw_bytes(raw);
    node.headers.push_back(up.SerializeAsString());
    node.bodies.push_back(std::move(body));
  }
}

void send_next(Node& node) {
  const std::lock_guard lock(node.mutex);
  if (node.next == node.headers.size()) return;
  const std::string& body = node.bodies[node.next];
  node.stream->send({node.headers[node.next], {std::as_bytes(std::span(body))}, nullptr});
  ++node.next;
}

void connect(Node& node, uint32_t number, const std::string& address, uint32_t world_size) {
  node.channel = rpc::Channel::create(address, {}).value();
  rpc::StreamEvents events;
  events.received = [&node](const rpc::Received& message) {
    wire::Downward down;
    if (!down.ParseFromString(message.header())) return;
    for (uint64_t i = 0; i < (down.welcome() ? kWindow : 1); ++i) send_next(node);
    node.stream->read_next();
  };
  events.ended = [](const Status& why) {
    if (why.code() != Code::kAborted && why.code() != Code::kUnavailable) {
      std::fprintf(stderr, "trace_aggregator: %s\n", why.to_string().c_str());
      std::_Exit(1);
    }
  };
  node.stream = node.channel->open_stream(kBatchesMethod, std::move(events));
  wire::Upward up;
  up.mutable_hello()->set_version(kWireVersion);
  up.mutable_hello()->set_client(number + 1);
  to_wire(JobInfo{"bench", 1, world_size, {}}, *up.mutable_hello()->mutable_job());
  node.stream->send({up.SerializeAsString()});
  node.stream->read_next();
}

// Bytes that this machine's loopback has carried.
uint64_t loopback_bytes() {
  std::ifstream file("/sys/class/net/lo/statistics/rx_bytes");
  uint64_t bytes = 0;
  file >> bytes;
  return bytes;
}

void report(const char* name, const char* metric, double value, const char* unit) {
  std::printf(
      "{\"bench\": \"trace.aggregator\", \"case\": \"%s\", \"metric\": \"%s\", \"value\": %.4g, "
      "\"unit\": \"%s\"}\n",
      name, metric, value, unit);
}

int run(uint32_t nodes, uint32_t messages) {
  const uint32_t world_size = nodes * kRanksOfNode;
  const uint64_t wanted = uint64_t{world_size} * messages * kOperations;
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  int ends[2] = {-1, -1};
  if (::pipe(ends) != 0) return 1;
  const pid_t server = ::fork();  // before gRPC has threads here
  if (server == 0) ::_exit(serve(wanted, world_size, ends[1]));
  uint16_t port = 0;
  if (::read(ends[0], &port, sizeof port) != sizeof port || port == 0) return 1;
  stay_on(1);
  std::vector<Node> all(nodes);
  uint64_t payload = 0;
  for (uint32_t n = 0; n < nodes; ++n) {
    encode(all[n], n * kRanksOfNode, messages);
    for (const std::string& body : all[n].bodies) payload += body.size();
  }
  const uint64_t before = loopback_bytes();
  for (uint32_t n = 0; n < nodes; ++n) {
    connect(all[n], n, "127.0.0.1:" + std::to_string(port), world_size);
  }
  Figures figures;
  if (::read(ends[0], &figures, sizeof figures) != sizeof figures) return 1;
  const uint64_t carried = loopback_bytes() - before;
  const auto events = static_cast<double>(figures.events);
  report("grpc", "events_per_core_s", events / figures.processor_s, "1/s");
  report("wall", "events_per_s", events / figures.wall_s, "1/s");
  report("wire", "body_bytes_per_event", static_cast<double>(payload) / events, "B");
  report("wire", "loopback_bytes_per_event", static_cast<double>(carried) / events, "B");
  report("memory", "server_rss", figures.rss / (1 << 20), "MiB");
  ::waitpid(server, nullptr, 0);
  std::fflush(stdout);
  std::_Exit(0);  // 1,250 connections need not be taken down one by one
}

}  // namespace
}  // namespace convoy::trace

int main(int argc, char** argv) {
  const auto number = [&](int at, int otherwise) {
    return static_cast<uint32_t>(argc > at ? std::max(1, std::atoi(argv[at])) : otherwise);
  };
  const int failed = convoy::trace::run(number(1, 1250), number(2, 24));
  std::fprintf(stderr, "trace_aggregator: the server did not begin or end well\n");
  return failed;
}
