// Between a launcher and the supervisor on another machine: packets here, a line there, which is
// made again as often as it ends.
#include "src/resilience/line/line.h"
#include "src/resilience/protocol/messages.pb.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/base/log.h>
#include <convoy/base/packet.h>
#include <convoy/resilience/supervise.h>

#include <algorithm>
#include <sys/epoll.h>

namespace convoy::resilience {
namespace {

constexpr Nanos kAlivePeriod = std::chrono::milliseconds(500);
constexpr Nanos kPauseFirst = std::chrono::milliseconds(50);
constexpr Nanos kPauseLast = std::chrono::seconds(1);
constexpr Nanos kPauseRefused = std::chrono::seconds(5);
// For what was said last, once the launcher has gone.
constexpr Nanos kFarewell = std::chrono::milliseconds(250);

// Nobody there, or no longer; whatever else ends a line the other side has something against.
bool comes_again(Code code) {
  return code == Code::kUnavailable || code == Code::kAborted || code == Code::kDeadlineExceeded;
}

class Relay {
 public:
  Relay(const RelayOptions& options, EventLoop& loop)
      : options_(options), loop_(loop), line_(options.line) {}

  Status start() {
    CONVOY_ASSIGN_OR_RETURN(far_, dial_lines(options_.to, options_.connection));
    CONVOY_RETURN_IF_ERROR(loop_.watch(far_->fd(), EPOLLIN, [this](uint32_t) { on_news(); }));
    CONVOY_RETURN_IF_ERROR(loop_.watch(line_.get(), EPOLLIN, [this](uint32_t) { on_packet(); }));
    now_ = far_->open();
    tell_alive();
    return ok_status();
  }

 private:
  void on_packet() {
    auto packet = receive_packet(line_.get());
    if (!packet.ok() || packet->ended) {
      if (!is_known_) return loop_.stop();
      is_ending_ = true;
      loop_.unwatch(line_.get());
      loop_.after(kFarewell, [this] { loop_.stop(); });
      return;
    }
    if (is_greeted_ && !is_known_) is_known_ = is_hello(packet->bytes);
    if (is_known_) far_->send(now_, packet->bytes);  // else the hello will tell it
  }

  static bool is_hello(const std::string& bytes) {
    proto::FromNode message;
    return message.ParseFromString(bytes) && message.has_hello();
  }

  void on_news() {
    for (const LineNews& news : far_->take_news()) {
      if (news.line != now_) continue;
      if (news.kind == LineNews::Kind::kEnded) return on_end(news.why);
      proto::ToNode order;
      if (!order.ParseFromString(news.bytes)) {
        const Status why(Code::kInvalidArgument,
                         "who listens at " + options_.to + " is no supervisor of Convoy's");
        far_->end(now_, why);
        return on_end(why);
      }
      if (order.greet()) {
        is_greeted_ = true;
        pause_ = kPauseFirst;
      }
      tell(order);
    }
  }

  void on_end(const Status& why) {
    now_ = 0;
    is_greeted_ = is_known_ = false;
    if (is_ending_) return loop_.stop();
    proto::ToNode away;
    away.set_away(why.message());
    tell(away);
    const bool is_refused = !comes_again(why.code());
    if (is_refused && why.message() != said_) {
      said_ = why.message();
      proto::ToNode said;
      said.mutable_say()->set_text("the supervisor at " + options_.to +
                                   " does not take this machine: " + said_);
      tell(said);
    }
    loop_.after(is_refused ? kPauseRefused : pause_, [this] { now_ = far_->open(); });
    pause_ = std::min(2 * pause_, kPauseLast);
  }

  void tell(const proto::ToNode& order) {
    if (!is_ending_ && !send_packet(line_.get(), order.SerializeAsString()).ok()) loop_.stop();
  }

  void tell_alive() {
    proto::ToNode alive;
    alive.set_alive(true);
    tell(alive);
    loop_.after(kAlivePeriod, [this] { tell_alive(); });
  }

  const RelayOptions& options_;
  EventLoop& loop_;
  const UniqueFd line_;
  std::unique_ptr<Lines> far_;
  uint64_t now_ = 0;         // the line that is tried, or is there
  bool is_greeted_ = false;  // by a supervisor, on that line
  bool is_known_ = false;    // the launcher has said hello there
  bool is_ending_ = false;   // the launcher has gone
  Nanos pause_ = kPauseFirst;
  std::string said_;  // of the last refusal
};

}  // namespace

Status relay(const RelayOptions& options) {
  CONVOY_ASSIGN_OR_RETURN(const auto loop, EventLoop::create());
  Relay relay(options, *loop);
  CONVOY_RETURN_IF_ERROR(relay.start());
  return loop->run();
}

}  // namespace convoy::resilience
