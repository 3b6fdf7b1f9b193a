// Lines over rpc's streams. In libconvoy_cluster; found by name.
#include "src/resilience/line/line.h"
#include <convoy/base/fd.h>
#include <convoy/rpc/channel.h>
#include <convoy/rpc/server.h>
#include <convoy/rpc/stream.h>

#include <cerrno>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

namespace convoy::resilience {
namespace {

constexpr const char* kMethod = "supervise";
constexpr size_t kMessageBytesMax = size_t{1} << 20;
constexpr size_t kWaitingBytesMax = size_t{8} << 20;  // then the other side does not read
constexpr int kLinesOfOneClientMax = 4;
constexpr Nanos kStopGrace = std::chrono::milliseconds(200);

// What gRPC's threads and the owner's thread share.
class Streams {
 public:
  explicit Streams(UniqueFd bell) : bell_(std::move(bell)) {}

  int fd() const { return bell_.get(); }
  uint64_t next_id() {
    const std::lock_guard lock(mutex_);
    return ++last_;
  }
  rpc::StreamEvents events_of(uint64_t id) {
    return {.received =
                [this, id](const rpc::Received& message) {
                  tell({LineNews::Kind::kMessage, id, message.header(), {}});
                },
            .ended =
                [this, id](const Status& why) {
                  {
                    const std::lock_guard lock(mutex_);
                    if (streams_.erase(id) == 0) over_.insert(id);
                  }
                  tell({LineNews::Kind::kEnded, id, {}, why});
                }};
  }
  void add(uint64_t id, const std::shared_ptr<rpc::Stream>& stream) {
    const std::lock_guard lock(mutex_);
    if (over_.erase(id) == 0) streams_[id] = stream;
  }
  void tell(LineNews news) {
    const std::lock_guard lock(mutex_);
    news_.push_back(std::move(news));
    const uint64_t one = 1;
    [[maybe_unused]] const auto rung = ::write(bell_.get(), &one, sizeof one);
  }
  std::vector<LineNews> take() {
    std::vector<LineNews> all;
    {
      const std::lock_guard lock(mutex_);
      uint64_t count = 0;
      [[maybe_unused]] const auto heard = ::read(bell_.get(), &count, sizeof count);
      all.assign(std::make_move_iterator(news_.begin()), std::make_move_iterator(news_.end()));
      news_.clear();
    }
    for (const LineNews& news : all) {
      if (news.kind != LineNews::Kind::kMessage) continue;
      if (const auto stream = of(news.line)) stream->read_next();
    }
    return all;
  }
  std::shared_ptr<rpc::Stream> of(uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto at = streams_.find(id);
    return at == streams_.end() ? nullptr : at->second;
  }

 private:
  const UniqueFd bell_;  // an eventfd
  std::mutex mutex_;
  uint64_t last_ = 0;
  std::map<uint64_t, std::shared_ptr<rpc::Stream>> streams_;
  std::set<uint64_t> over_;  // ended before they were added
  std::deque<LineNews> news_;
};

class StreamLines final : public Lines {
 public:
  explicit StreamLines(UniqueFd bell) : streams_(std::move(bell)) {}
  ~StreamLines() override {
    if (server_ != nullptr) server_->stop(kStopGrace);
    if (channel_ != nullptr) channel_->close();
  }

  Status listen(uint16_t port, const rpc::ConnectionOptions& connection) {
    const auto take = [this](const std::shared_ptr<rpc::Stream>& stream) {
      const uint64_t id = streams_.next_id();
      streams_.add(id, stream);
      streams_.tell({LineNews::Kind::kOpened, id, stream->peer(), {}});
      stream->read_next();
      return streams_.events_of(id);
    };
    CONVOY_ASSIGN_OR_RETURN(server_,
                            rpc::Server::start({.host = {},
                                                .port = port,
                                                .connection = limited(connection),
                                                .calls_per_client_max = kLinesOfOneClientMax},
                                               {}, {{kMethod, take}}));
    return ok_status();
  }
  Status dial(const std::string& address, const rpc::ConnectionOptions& connection) {
    CONVOY_ASSIGN_OR_RETURN(channel_, rpc::Channel::create(address, limited(connection)));
    return ok_status();
  }

  int fd() const override { return streams_.fd(); }
  std::vector<LineNews> take_news() override { return streams_.take(); }
  uint64_t open() override {
    const uint64_t id = streams_.next_id();
    const auto stream = channel_->open_stream(kMethod, streams_.events_of(id));
    streams_.add(id, stream);
    stream->read_next();
    return id;
  }
  void send(uint64_t line, const std::string& bytes) override {
    const auto stream = streams_.of(line);
    if (stream == nullptr) return;
    if (stream->waiting_bytes() > kWaitingBytesMax) {
      return stream->end({Code::kResourceExhausted, "the other side does not read"});
    }
    stream->send({.header = bytes});
  }
  void end(uint64_t line, const Status& why) override {
    if (const auto stream = streams_.of(line)) stream->end(why);
  }

 private:
  static rpc::ConnectionOptions limited(rpc::ConnectionOptions connection) {
    connection.message_bytes_max = kMessageBytesMax;
    return connection;
  }

  Streams streams_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<rpc::Channel> channel_;
};

Result<std::unique_ptr<StreamLines>> make_lines() {
  UniqueFd bell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bell) return errno_status("making an eventfd", errno);
  return std::make_unique<StreamLines>(std::move(bell));
}

}  // namespace

extern "C" Status convoy_resilience_listen_lines(uint16_t port,
                                                 const rpc::ConnectionOptions& connection,
                                                 std::unique_ptr<Lines>& lines) {
  CONVOY_ASSIGN_OR_RETURN(auto made, make_lines());
  CONVOY_RETURN_IF_ERROR(made->listen(port, connection));
  lines = std::move(made);
  return ok_status();
}

extern "C" Status convoy_resilience_dial_lines(const std::string& address,
                                               const rpc::ConnectionOptions& connection,
                                               std::unique_ptr<Lines>& lines) {
  CONVOY_ASSIGN_OR_RETURN(auto made, make_lines());
  CONVOY_RETURN_IF_ERROR(made->dial(address, connection));
  lines = std::move(made);
  return ok_status();
}

}  // namespace convoy::resilience
