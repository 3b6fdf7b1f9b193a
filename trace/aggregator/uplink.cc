// Sends what the outbox holds, some messages ahead of their acknowledgement. After each break all
// that is not acknowledged is encoded and sent again: batches have numbers, so the receiver knows
// what it has already.
#include "trace/aggregator/uplink.h"

#include "trace/aggregator/wire.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <random>
#include <utility>

namespace convoy::trace {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMessageBytes = 256 << 10;  // a message is closed when it has so many
constexpr size_t kInFlightMax = 16;          // messages
constexpr size_t kInFlightBytesMax = 4 << 20;
constexpr auto kRetryMin = 100ms, kRetryMax = 5000ms;
constexpr auto kPingEvery = 500ms, kSampleEvery = 2000ms;
constexpr auto kPingTimeout = 5s;
constexpr int kRejectionsMax = 2;    // then the message is given up
constexpr size_t kClocksMax = 4096;  // that wait
constexpr size_t kClocksOfMessage = 64;

uint64_t random_number() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

Result<std::unique_ptr<Uplink>> Uplink::create(const UplinkOptions& options,
                                               const Registry& registry) {
  CONVOY_ASSIGN_OR_RETURN(auto channel, rpc::Channel::create(options.address, options.connection));
  return std::unique_ptr<Uplink>(new Uplink(options, registry, std::move(channel)));
}

Uplink::Uplink(const UplinkOptions& options, const Registry& registry,
               std::unique_ptr<rpc::Channel> channel)
    : options_(options),
      job_(options.job),
      client_(random_number()),
      channel_(std::move(channel)),
      news_(std::make_shared<News>()),
      outbox_(registry, options.buffer_bytes_max),
      registry_(registry) {
  news_->wake = options.wake;
}

Uplink::~Uplink() {
  {
    const std::lock_guard lock(news_->mutex);
    news_->wake = [] {};
  }
  channel_->close();
  // The stream's events hold the news.
  const std::lock_guard lock(news_->mutex);
  news_->stream = nullptr;
}

void Uplink::set_job(const JobInfo& job) {
  if (job == job_) return;
  job_ = job;
  job_changed_ = true;
}

void Uplink::add_clock(ClockSample sample) {
  if (options_.translates_clocks) {
    if (!offset_) return;  // more will come
    sample.root_time += *offset_;
    sample.error += offset_error_;
  }
  if (clocks_.size() == kClocksMax) clocks_.erase(clocks_.begin());
  clocks_.push_back(std::move(sample));
}

void Uplink::turn() {
  const Time now = std::chrono::steady_clock::now();
  take_news(now);
  if (stream_ == nullptr && now >= retry_at_) connect();
  if (is_welcome_) {
    send_messages();
    ping(now);
  }
}

void Uplink::take_news(Time now) {
  std::unique_lock lock(news_->mutex);
  is_welcome_ = news_->welcome;
  const uint64_t acknowledged = news_->acknowledged;
  const auto end = std::exchange(news_->ended, std::nullopt);
  const auto sample = std::exchange(news_->ping, std::nullopt);
  lock.unlock();
  stats_.connected = is_welcome_;
  if (acknowledged > acknowledged_) {
    acknowledged_ = std::min(acknowledged, sent_);
    failures_ = 0;
    rejections_ = 0;
    outbox_.acknowledge(acknowledged_);
    while (!in_flight_.empty() && in_flight_.begin()->first <= acknowledged_) {
      in_flight_.erase(in_flight_.begin());
      ++stats_.acknowledged;
    }
  }
  if (sample) take_ping(*sample, now);
  if (end) ended(*end, now);
}

void Uplink::connect() {
  const std::shared_ptr<News> news = news_;
  // Messages count on in the outbox, whose numbers only grow, and begin at 1 on each stream.
  base_ = acknowledged_ = sent_;
  {
    const std::lock_guard lock(news->mutex);
    news->acknowledged = sent_;
    news->welcome = false;
  }
  rpc::StreamEvents events;
  events.received = [news, base = base_](rpc::Received message) {
    wire::Downward down;
    const bool whole = down.ParseFromString(message.header());
    std::shared_ptr<rpc::Stream> stream;
    std::function<void()> wake;
    {
      const std::lock_guard lock(news->mutex);
      if (whole && down.welcome()) news->welcome = true;
      if (whole && down.acknowledged() < UINT64_MAX - base) {
        news->acknowledged = std::max(news->acknowledged, base + down.acknowledged());
      }
      stream = news->stream;
      wake = news->wake;
    }
    if (stream != nullptr) stream->read_next();
    wake();
  };
  events.ended = [news](const Status& why) {
    std::function<void()> wake;
    {
      const std::lock_guard lock(news->mutex);
      news->welcome = false;
      news->ended = why;
      wake = news->wake;
    }
    wake();
  };
  stream_ = channel_->open_stream(kBatchesMethod, std::move(events));
  {
    const std::lock_guard lock(news->mutex);
    news->stream = stream_;
  }
  ++stats_.connections;
  outbox_.restart();
  for (auto& [rank, encoder] : encoders_) encoder->restart();
  for (auto& [rank, process] : processes_) process.is_told = false;
  wire::Upward up;
  up.mutable_hello()->set_version(kWireVersion);
  up.mutable_hello()->set_client(client_);
  up.mutable_hello()->set_host(options_.host);
  to_wire(job_, *up.mutable_hello()->mutable_job());
  job_changed_ = false;
  stream_->send({up.SerializeAsString()});
  stream_->read_next();
}

void Uplink::ended(const Status& why, Time now) {
  {
    const std::lock_guard lock(news_->mutex);
    news_->stream = nullptr;
  }
  stream_ = nullptr;
  is_welcome_ = false;
  stats_.connected = false;
  const bool refused = why.code() == Code::kInvalidArgument || why.code() == Code::kDataLoss ||
                       why.code() == Code::kResourceExhausted;
  if (refused && !in_flight_.empty() && ++rejections_ >= kRejectionsMax) {
    outbox_.give_up(in_flight_.begin()->first);
    rejections_ = 0;
  }
  in_flight_.clear();
  const auto wait =
      std::min<std::chrono::milliseconds>(kRetryMin * (1 << std::min(failures_, 6)), kRetryMax);
  // Not all nodes at once.
  retry_at_ = now + wait / 2 + wait / 2 * static_cast<int>(client_ % 16 + 1) / 16;
  if (failures_++ == 2) {
    CONVOY_LOG(Warn) << "the trace does not reach its aggregator, what can be is kept: "
                     << why.to_string();
    told_failure_ = true;
  }
}

void Uplink::send_messages() {
  size_t bytes = 0;
  for (const auto& [number, size] : in_flight_) bytes += size;
  while ((outbox_.has_next() || job_changed_ || !clocks_.empty()) &&
         in_flight_.size() < kInFlightMax && bytes < kInFlightBytesMax) {
    send_one();
    bytes += in_flight_.rbegin()->second;
  }
  if (std::exchange(told_failure_, false)) {
    CONVOY_LOG(Info) << "the trace is connected again";
  }
}

void Uplink::send_one() {
  wire::Upward up;
  const uint64_t number = ++sent_;
  auto body = std::make_shared<std::string>();
  if (std::exchange(job_changed_, false)) to_wire(job_, *up.mutable_job());
  const size_t clocks = std::min(clocks_.size(), kClocksOfMessage);
  for (size_t i = 0; i < clocks; ++i) {
    wire::Clock* const clock = up.add_clock();
    clock->set_host(clocks_[i].host);
    clock->set_host_time(static_cast<uint64_t>(clocks_[i].host_time));
    clock->set_root_time(static_cast<uint64_t>(clocks_[i].root_time));
    clock->set_error(static_cast<uint64_t>(clocks_[i].error));
  }
  clocks_.erase(clocks_.begin(), clocks_.begin() + static_cast<long>(clocks));
  while (outbox_.has_next() && body->size() < kMessageBytes) {
    Batch& batch = outbox_.next(number);
    Process& process = processes_[batch.rank];
    if (!batch.host.empty()) process = {batch.host, batch.pid, true};
    if (!std::exchange(process.is_told, true)) {
      batch.host = process.host;
      batch.pid = process.pid;
    }
    auto& encoder = encoders_[batch.rank];
    if (encoder == nullptr) encoder = std::make_unique<BatchEncoder>(registry_);
    const size_t before = body->size();
    encoder->encode(batch, *body);
    up.add_rank(batch.rank);
    up.add_bytes(static_cast<uint32_t>(body->size() - before));
  }
  up.set_number(number - base_);
  const size_t raw = body->size();
  if (pack(*body)) up.set_raw_bytes(raw);
  std::string header = up.SerializeAsString();
  in_flight_[number] = header.size() + body->size();
  stats_.sent_bytes += header.size() + body->size();
  const auto bytes = std::as_bytes(std::span(body->data(), body->size()));
  stream_->send({std::move(header), {bytes}, body});
}

void Uplink::ping(Time now) {
  if (ping_under_way_ || now < ping_at_) return;
  ping_at_ = now + kPingEvery;
  ping_under_way_ = true;
  const int64_t sent = options_.now();
  channel_->call(kClockMethod, {}, kPingTimeout,
                 [news = news_, clock = options_.now, sent](Result<rpc::Received> answer) {
                   const int64_t back = clock();
                   wire::ClockAnswer there;
                   ClockSample sample;
                   sample.error = -1;  // none
                   if (answer.ok() && there.ParseFromString(answer->header())) {
                     const auto came = static_cast<int64_t>(there.received());
                     const auto left = static_cast<int64_t>(there.sent());
                     sample.host_time = sent + (back - sent) / 2;
                     sample.root_time = came + (left - came) / 2;
                     sample.error = std::max<int64_t>((back - sent - (left - came)) / 2, 1);
                   }
                   std::function<void()> wake;
                   {
                     const std::lock_guard lock(news->mutex);
                     news->ping = sample;
                     wake = news->wake;
                   }
                   wake();
                 });
}

void Uplink::take_ping(ClockSample sample, Time now) {
  ping_under_way_ = false;
  if (sample.error < 0) return;
  if (!best_ping_ || sample.error < best_ping_->error) best_ping_ = sample;
  if (now < sample_at_) return;
  // The first one at once, then the best of each window.
  sample_at_ = now + kSampleEvery;
  offset_ = best_ping_->root_time - best_ping_->host_time;
  offset_error_ = best_ping_->error;
  sample = *std::exchange(best_ping_, std::nullopt);
  if (options_.translates_clocks) return;
  sample.host = options_.host;
  clocks_.push_back(sample);
}

}  // namespace convoy::trace
