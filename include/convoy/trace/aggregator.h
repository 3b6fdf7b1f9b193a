#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/rpc/message.h>
#include <convoy/trace/event.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

// Where the events of all ranks of a job come together.
namespace convoy::trace {

struct AggregatorOptions {
  std::string host;   // to listen at; empty: all addresses of this machine
  uint16_t port = 0;  // 0: the kernel chooses
  rpc::ConnectionOptions connection;
  // Without a size the first client's is taken. A client of another job is refused; one of a later
  // generation makes it this one's, an earlier one's is refused.
  JobInfo job;
  // All events are given to these, in this order, on the aggregator's thread. Their numbers are
  // those of `registry`, which nobody else touches while the aggregator runs. Both outlive it.
  Registry* registry = nullptr;
  std::vector<Sink*> sinks;
  // Called on the same thread every `period`, with the time on the root's clock.
  std::function<void(int64_t now)> turn;
  Nanos period = std::chrono::milliseconds(100);
  // Another aggregator, HOST:PORT, which everything is sent on to (with the same token and TLS
  // files): of shards, each with its nodes, and one root.
  std::string parent;

  // Limits.
  uint32_t clients_max = 16384;
  uint64_t client_bytes_per_s = uint64_t{64} << 20;  // a faster one is read more slowly
  uint32_t client_messages_per_s = 1000;
  size_t message_bytes_max = size_t{4} << 20;
  size_t buffer_bytes_max = size_t{512} << 20;  // of gRPC's, and again for a parent
};

struct AggregatorStats {
  JobInfo job;
  uint32_t clients = 0;
  uint32_t ranks = 0;  // that have told something
  uint64_t batches = 0, events = 0;
  uint64_t bytes = 0;       // that came: headers and bodies, packed
  uint64_t duplicates = 0;  // batches that were sent again after a connection broke
  uint64_t stale = 0;       // batches of earlier generations
  uint64_t refused = 0;     // clients, for what they sent
  uint64_t slowed = 0;      // times that a client was over its rate
};

// All of it happens on one thread, so sinks need no locks. Methods may be called by any thread.
class Aggregator {
 public:
  // Opens libconvoy_cluster, which holds gRPC, and listens. kFailedPrecondition: no such library;
  // kAlreadyExists: the port is taken; kInvalidArgument: options, TLS files.
  static Result<std::unique_ptr<Aggregator>> start(const AggregatorOptions& options);
  // Stops; no sink is called any more.
  virtual ~Aggregator() = default;
  virtual uint16_t port() const = 0;
  // The job's next generation, before its ranks tell; or its mesh.
  virtual void set_job(const JobInfo& job) = 0;
  // Runs it soon on the aggregator's thread, between two batches: for who reads what sinks hold.
  // Not after the stop.
  virtual void post(std::function<void()> what) = 0;
  // Holds all that clients have an answer for.
  virtual AggregatorStats stats() const = 0;
};

}  // namespace convoy::trace
