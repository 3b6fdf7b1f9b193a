// gRPC's threads put what comes into one queue; one thread takes it from there, so that sinks need
// no locks. A client's next message is read only when its last one has been taken: what waits here
// is at most one message of each.
#include "trace/aggregator/intake.h"
#include "trace/aggregator/uplink.h"
#include <convoy/base/log.h>
#include <convoy/rpc/server.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <optional>
#include <thread>
#include <utility>

namespace convoy::trace {
namespace {

using namespace std::chrono_literals;
using Time = std::chrono::steady_clock::time_point;

constexpr int kCallsPerClient = 64;
constexpr int kWindowBytes = 1 << 20;  // some 40 messages
constexpr auto kGathers = 2ms;
constexpr size_t kUnreadMax = 64 << 10;  // bytes of acknowledgements that a client does not take
constexpr auto kRefusalTold = 1s;        // at most so often, in the log
constexpr double kBurstSeconds = 2;      // of a client's rate, at once

// How much a client may send.
struct Rate {
  double bytes = 0, messages = 0;  // that it may send now; below 0: too much
  Time at{};

  // Returns until when it has to be quiet.
  Time take(const AggregatorOptions& options, size_t size, Time now) {
    const auto bytes_per_s = static_cast<double>(options.client_bytes_per_s);
    const auto messages_per_s = static_cast<double>(options.client_messages_per_s);
    const double passed = std::min(std::chrono::duration<double>(now - at).count(), kBurstSeconds);
    at = now;
    bytes = std::min(bytes + passed * bytes_per_s, kBurstSeconds * bytes_per_s);
    messages = std::min(messages + passed * messages_per_s, kBurstSeconds * messages_per_s);
    bytes -= static_cast<double>(size);
    messages -= 1;
    const double wait = std::max(-bytes / bytes_per_s, -messages / messages_per_s);
    if (wait <= 0) return now;
    return now + std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(wait));
  }
};

struct Connected {
  explicit Connected(Registry& registry) : client(registry) {}
  Client client;
  std::shared_ptr<rpc::Stream> stream;
  Rate rate;
  bool is_over = false;
};

// Sends all on to the parent.
class Forwarder final : public Sink {
 public:
  explicit Forwarder(std::unique_ptr<Uplink> uplink) : uplink_(std::move(uplink)) {}
  void job(const JobInfo& job) override { uplink_->set_job(job); }
  void batch(const Batch& batch) override { uplink_->add(batch); }
  void clock(const ClockSample& sample) override { uplink_->add_clock(sample); }
  void turn() { uplink_->turn(); }

 private:
  std::unique_ptr<Uplink> uplink_;
};

// What gRPC's threads leave.
struct Arrival {
  uint64_t stream = 0;
  std::shared_ptr<rpc::Stream> begun;    // a new one
  std::optional<rpc::Received> message;  // neither: it has ended
  int64_t root_time = 0;
};

class JobAggregator final : public Aggregator {
 public:
  explicit JobAggregator(const AggregatorOptions& options) : options_(options) {}
  ~JobAggregator() override;
  Status begin();

  uint16_t port() const override { return server_->port(); }
  void set_job(const JobInfo& job) override {
    post([this, job] { intake_->set_job(job); });
  }
  void post(std::function<void()> what) override {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(what));
    changed_.notify_all();
  }
  AggregatorStats stats() const override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  Status begin_uplink(std::vector<Sink*>& sinks);
  rpc::StreamEvents accept(const std::shared_ptr<rpc::Stream>& stream);
  void put(Arrival arrival);
  void run();
  void publish_stats();
  void answer(Connected& connected, const wire::Downward& down);
  void gather(std::unique_lock<std::mutex>& lock);
  void take(Arrival& arrival, Time now);
  void take_message(Connected& connected, const Arrival& arrival, Time now);
  void refuse(Connected& connected, const Status& why);
  void resume(Time now);
  Time wake_at(Time turn_at) const;

  const AggregatorOptions options_;
  // The thread's own.
  std::unique_ptr<Forwarder> forwarder_;
  std::unique_ptr<Intake> intake_;
  std::map<uint64_t, std::unique_ptr<Connected>> clients_;  // by stream
  std::multimap<Time, uint64_t> quiet_;                     // until when, which stream
  uint64_t refused_ = 0, slowed_ = 0;
  Time told_refusal_{};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Arrival> arrivals_;
  std::vector<std::function<void()>> posted_;
  bool ending_ = false, rung_ = false;
  uint64_t streams_ = 0;
  uint32_t open_ = 0;
  AggregatorStats stats_;

  std::thread thread_;
  std::unique_ptr<rpc::Server> server_;
};

Status JobAggregator::begin() {
  std::vector<Sink*> sinks = options_.sinks;
  if (!options_.parent.empty()) CONVOY_RETURN_IF_ERROR(begin_uplink(sinks));
  intake_ = std::make_unique<Intake>(options_, std::move(sinks));
  rpc::ServerOptions server;
  server.host = options_.host;
  server.port = options_.port;
  server.connection = options_.connection;
  server.connection.message_bytes_max =
      std::min(server.connection.message_bytes_max, options_.message_bytes_max);
  server.memory_bytes_max = options_.buffer_bytes_max;
  server.calls_per_client_max = kCallsPerClient;
  server.window_bytes = kWindowBytes;
  const auto tell_clock = [](const std::shared_ptr<rpc::Call>& call) {
    wire::ClockAnswer answer;
    answer.set_received(static_cast<uint64_t>(now_on(CLOCK_REALTIME)));
    answer.set_sent(static_cast<uint64_t>(now_on(CLOCK_REALTIME)));
    call->finish(rpc::Message{answer.SerializeAsString()});
  };
  const auto accept = [this](const std::shared_ptr<rpc::Stream>& stream) {
    return this->accept(stream);
  };
  CONVOY_ASSIGN_OR_RETURN(server_, rpc::Server::start(server, {{kClockMethod, tell_clock}},
                                                      {{kBatchesMethod, accept}}));
  thread_ = std::thread([this] { run(); });
  return ok_status();
}

Status JobAggregator::begin_uplink(std::vector<Sink*>& sinks) {
  UplinkOptions up;
  up.address = options_.parent;
  up.connection = options_.connection;
  up.host = options_.host;
  up.job = options_.job;
  up.buffer_bytes_max = options_.buffer_bytes_max;
  up.now = [] { return now_on(CLOCK_REALTIME); };
  up.translates_clocks = true;
  up.wake = [this] {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    changed_.notify_all();
  };
  CONVOY_ASSIGN_OR_RETURN(auto uplink, Uplink::create(up, *options_.registry));
  forwarder_ = std::make_unique<Forwarder>(std::move(uplink));
  sinks.push_back(forwarder_.get());
  return ok_status();
}

JobAggregator::~JobAggregator() {
  if (server_ != nullptr) server_->stop();
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  forwarder_ = nullptr;  // its callbacks use this
}

// On a thread of gRPC's, as put().
rpc::StreamEvents JobAggregator::accept(const std::shared_ptr<rpc::Stream>& stream) {
  rpc::StreamEvents events;
  {
    const std::lock_guard lock(mutex_);
    if (open_ >= options_.clients_max) {
      events.ended = [](const Status&) {};
      events.received = [](const rpc::Received&) {};
      stream->end({Code::kUnavailable, "this aggregator has as many clients as it takes"});
      return events;
    }
    ++open_;
    const uint64_t id = ++streams_;
    arrivals_.push_back({id, stream, std::nullopt, 0});
    events.received = [this, id](rpc::Received message) {
      put({id, nullptr, std::move(message), now_on(CLOCK_REALTIME)});
    };
    events.ended = [this, id](const Status&) { put({id, nullptr, std::nullopt, 0}); };
  }
  stream->read_next();
  return events;
}

void JobAggregator::put(Arrival arrival) {
  const std::lock_guard lock(mutex_);
  if (!arrival.message && arrival.begun == nullptr) --open_;
  arrivals_.push_back(std::move(arrival));
  if (arrivals_.size() == 1) changed_.notify_all();
}

void JobAggregator::run() {
  Time turn_at = std::chrono::steady_clock::now() + options_.period;
  for (;;) {
    std::deque<Arrival> arrivals;
    std::vector<std::function<void()>> posted;
    {
      publish_stats();
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, wake_at(turn_at), [&] {
        return ending_ || rung_ || !arrivals_.empty() || !posted_.empty();
      });
      if (ending_) break;
      rung_ = false;
      if (!arrivals_.empty()) gather(lock);
      arrivals.swap(arrivals_);
      posted.swap(posted_);
    }
    for (const auto& what : posted) what();
    for (Arrival& arrival : arrivals) take(arrival, std::chrono::steady_clock::now());
    const Time now = std::chrono::steady_clock::now();
    resume(now);
    if (forwarder_ != nullptr) forwarder_->turn();
    if (now < turn_at) continue;
    turn_at = now + options_.period;
    if (options_.turn) options_.turn(now_on(CLOCK_REALTIME));
  }
  clients_.clear();
}

void JobAggregator::publish_stats() {
  const std::lock_guard lock(mutex_);
  stats_ = intake_->stats();
  stats_.clients = static_cast<uint32_t>(clients_.size());
  stats_.refused = refused_;
  stats_.slowed = slowed_;
}

// More comes: one wake-up of this thread for each message is what an aggregator of a thousand nodes
// would spend most of its time with.
void JobAggregator::gather(std::unique_lock<std::mutex>& lock) {
  lock.unlock();
  std::this_thread::sleep_for(kGathers);
  lock.lock();
}

Time JobAggregator::wake_at(Time turn_at) const {
  return quiet_.empty() ? turn_at : std::min(turn_at, quiet_.begin()->first);
}

void JobAggregator::take(Arrival& arrival, Time now) {
  if (arrival.begun != nullptr) {
    auto connected = std::make_unique<Connected>(*options_.registry);
    connected->stream = std::move(arrival.begun);
    clients_.emplace(arrival.stream, std::move(connected));
    return;
  }
  const auto found = clients_.find(arrival.stream);
  if (found == clients_.end()) return;
  Connected& connected = *found->second;
  if (arrival.message) {
    if (!connected.is_over) take_message(connected, arrival, now);
    return;
  }
  intake_->leave(connected.client);
  clients_.erase(found);
}

void JobAggregator::take_message(Connected& connected, const Arrival& arrival, Time now) {
  const rpc::Received& message = *arrival.message;
  wire::Upward up;
  if (!up.ParseFromString(message.header())) {
    return refuse(connected, {Code::kInvalidArgument, "a message that is none"});
  }
  Client& client = connected.client;
  wire::Downward down;
  if (client.id == 0) {
    const Status status = intake_->hello(client, up.hello());
    if (!status.ok()) return refuse(connected, status);
    down.set_welcome(true);
  } else {
    const Status status = intake_->message(client, up, message, arrival.root_time);
    if (!status.ok()) return refuse(connected, status);
    down.set_acknowledged(client.messages);
  }
  if (connected.stream->waiting_bytes() > kUnreadMax) {
    return refuse(connected, {Code::kInvalidArgument, "a client that does not read"});
  }
  answer(connected, down);
  const size_t bytes = message.header().size() + message.body_bytes();
  const Time until = connected.rate.take(options_, bytes, now);
  if (until <= now) return connected.stream->read_next();
  ++slowed_;
  quiet_.emplace(until, arrival.stream);
}

// Whoever has the answer finds the message in the stats.
void JobAggregator::answer(Connected& connected, const wire::Downward& down) {
  publish_stats();
  connected.stream->send({down.SerializeAsString()});
}

void JobAggregator::refuse(Connected& connected, const Status& why) {
  ++refused_;
  connected.is_over = true;
  intake_->leave(connected.client);
  const Time now = std::chrono::steady_clock::now();
  if (now - told_refusal_ >= kRefusalTold) {
    told_refusal_ = now;
    CONVOY_LOG(Warn) << "the trace's aggregator ends a client, " << connected.stream->peer() << " "
                     << connected.client.host << " (" << refused_
                     << " so far): " << why.to_string();
  }
  connected.stream->end(why);
}

// Those that were over their rate may send again.
void JobAggregator::resume(Time now) {
  while (!quiet_.empty() && quiet_.begin()->first <= now) {
    const auto found = clients_.find(quiet_.begin()->second);
    quiet_.erase(quiet_.begin());
    if (found != clients_.end() && !found->second->is_over) found->second->stream->read_next();
  }
}

Status check(const AggregatorOptions& options) {
  const bool sane = options.registry != nullptr && options.period >= 1ms &&
                    options.client_bytes_per_s > 0 && options.client_messages_per_s > 0 &&
                    options.message_bytes_max >= (1 << 16) && options.clients_max > 0;
  return sane ? ok_status()
              : Status(Code::kInvalidArgument, "an aggregator needs a registry and limits above 0");
}

}  // namespace

extern "C" Status convoy_trace_start_aggregator(const AggregatorOptions& options,
                                                std::unique_ptr<Aggregator>& started) {
  CONVOY_RETURN_IF_ERROR(check(options));
  auto aggregator = std::make_unique<JobAggregator>(options);
  CONVOY_RETURN_IF_ERROR(aggregator->begin());
  started = std::move(aggregator);
  return ok_status();
}

}  // namespace convoy::trace
