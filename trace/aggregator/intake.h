#pragma once

#include "trace/aggregator/wire.h"
#include <convoy/rpc/message.h>
#include <convoy/trace/aggregator.h>
#include <convoy/trace/stream.h>

#include <chrono>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

// What comes from clients, checked and turned into events. Knows no sockets.
namespace convoy::trace {

// Of one client; nothing that it sends reaches the decoder of another.
struct Client {
  explicit Client(Registry& registry) : decoder(registry) {}
  uint64_t id = 0;  // of the process at the other end, as it says; 0: has not said yet
  std::string host;
  BatchDecoder decoder;
  uint64_t messages = 0;
  std::vector<uint32_t> ranks;  // that are this client's
};

// Not thread-safe.
class Intake {
 public:
  Intake(const AggregatorOptions& options, std::vector<Sink*> sinks);

  // A job that is known from elsewhere.
  void set_job(const JobInfo& job);
  const JobInfo& job() const { return job_; }
  // The first message. A failure is the client's end, as for all of these.
  Status hello(Client& client, const wire::Hello& hello);
  // A later message, which came at `now` on the root's clock.
  Status message(Client& client, const wire::Upward& up, const rpc::Received& received,
                 int64_t now);
  // Its ranks are free.
  void leave(Client& client);

  const AggregatorStats& stats() const { return stats_; }

 private:
  struct Rank {
    Client* owner = nullptr;
    uint64_t client = 0;  // whose numbers these are
    uint64_t last = 0;    // number of the last batch, as the client counts
    uint64_t told = 0;    // the same, as sinks see it
    uint64_t generation = 0;
  };

  Status follow(const JobInfo& job);
  Status unpack_body(const wire::Upward& up, const rpc::Received& received);
  Status take_clocks(const wire::Upward& up);
  Status take_batch(Client& client, uint32_t number, std::span<const std::byte> bytes, int64_t now);
  Status claim(Client& client, Rank& rank, uint32_t number, uint64_t generation);
  Status check_registry() const;

  Registry& registry_;
  const std::vector<Sink*> sinks_;
  JobInfo job_;
  bool is_given_ = false;  // the job, by options or set_job()
  std::unordered_map<uint32_t, Rank> ranks_;
  std::set<std::string> hosts_;  // of clock samples
  std::vector<std::byte> packed_, body_;
  Batch batch_;
  AggregatorStats stats_;
};

}  // namespace convoy::trace
