#pragma once

#include "trace/collect/outbox.h"
#include <convoy/rpc/channel.h>
#include <convoy/trace/stream.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

// The sending side of a stream to an aggregator: of a node's collector, and of an aggregator that
// has a parent.
namespace convoy::trace {

struct UplinkOptions {
  std::string address;
  rpc::ConnectionOptions connection;
  std::string host;  // this machine's name
  JobInfo job;
  size_t buffer_bytes_max = 0;
  // The clock that samples are about: the host's, or for an aggregator its own root's clock.
  std::function<int64_t()> now;
  // Clock samples that are handed over are on that clock, and are told on the parent's.
  bool translates_clocks = false;
  // Called on any thread when there is something to do for turn().
  std::function<void()> wake;
};

// One thread owns it and makes every call.
class Uplink {
 public:
  static Result<std::unique_ptr<Uplink>> create(const UplinkOptions& options,
                                                const Registry& registry);
  ~Uplink();

  void add(Batch batch) { outbox_.push(std::move(batch)); }
  void set_job(const JobInfo& job);
  void add_clock(ClockSample sample);
  // Connects, sends and measures the clock, as it is time for it. Never blocks.
  void turn();
  // Nothing waits and all that was sent has been acknowledged.
  bool idle() const { return outbox_.empty(); }

  struct Stats {
    bool connected = false;
    uint64_t sent_bytes = 0, acknowledged = 0, connections = 0;
  };
  const Stats& stats() const { return stats_; }
  const Outbox& outbox() const { return outbox_; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  // What gRPC's threads leave for the owner's.
  struct News {
    std::mutex mutex;
    std::shared_ptr<rpc::Stream> stream;  // whose news these are; null: of none any more
    bool welcome = false;
    uint64_t acknowledged = 0;
    std::optional<Status> ended;
    std::optional<ClockSample> ping;
    std::function<void()> wake;
  };

  Uplink(const UplinkOptions& options, const Registry& registry,
         std::unique_ptr<rpc::Channel> channel);
  void take_news(Time now);
  void connect();
  void ended(const Status& why, Time now);
  void send_messages();
  void send_one();
  void ping(Time now);
  void take_ping(ClockSample sample, Time now);

  const UplinkOptions options_;
  JobInfo job_;
  const uint64_t client_;
  std::unique_ptr<rpc::Channel> channel_;
  const std::shared_ptr<News> news_;  // shared with the callbacks of calls under way
  Outbox outbox_;
  const Registry& registry_;
  std::map<uint32_t, std::unique_ptr<BatchEncoder>> encoders_;  // by rank
  struct Process {
    std::string host;
    int32_t pid = 0;
    bool is_told = false;  // on this stream
  };
  std::map<uint32_t, Process> processes_;  // by rank

  std::shared_ptr<rpc::Stream> stream_;
  bool is_welcome_ = false, job_changed_ = false;
  uint64_t sent_ = 0, acknowledged_ = 0;  // messages
  uint64_t base_ = 0;                     // of them, sent on earlier streams
  std::map<uint64_t, size_t> in_flight_;  // bytes of each
  Time retry_at_{};
  int failures_ = 0;    // attempts since anything was acknowledged
  int rejections_ = 0;  // of the oldest message, in a row
  bool told_failure_ = false;

  Time ping_at_{}, sample_at_{};
  bool ping_under_way_ = false;
  std::optional<ClockSample> best_ping_;  // of this window
  std::optional<int64_t> offset_;         // of the parent's clock; last window's best
  int64_t offset_error_ = 0;
  std::vector<ClockSample> clocks_;
  Stats stats_;
};

}  // namespace convoy::trace
