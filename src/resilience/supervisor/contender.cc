#include "src/resilience/supervisor/contender.h"

#include "src/comm/host/tcp_socket.h"
#include "src/resilience/protocol/messages.pb.h"
#include <convoy/base/clock.h>
#include <convoy/base/log.h>
#include <convoy/base/packet.h>

#include <cstdlib>
#include <poll.h>

namespace convoy::resilience {
namespace {

constexpr Nanos kPause = std::chrono::milliseconds(300);  // between attempts
constexpr Nanos kToldEvery = std::chrono::seconds(15);

[[noreturn]] void end_role(const std::string& why) {
  CONVOY_LOG(Info) << "this supervisor's role is over: " << why;
  std::_Exit(kExitRoleOver);  // nothing may be said to anyone any more
}

class EtcdStore final : public ControlStore {
 public:
  explicit EtcdStore(Leadership& leadership) : leadership_(leadership) {}

  Result<ControlState> load() override {
    CONVOY_ASSIGN_OR_RETURN(const std::string text, leadership_.load());
    return text.empty() ? ControlState{} : control_state_of(text, "etcd");
  }
  Status save(const ControlState& state) override {
    const Status saved = leadership_.save(text_of(state));
    if (saved.code() == Code::kAborted) end_role(saved.message());
    return saved;
  }

 private:
  Leadership& leadership_;
};

}  // namespace

Result<std::optional<Leadership::Leader>> Contender::settle() {
  CONVOY_ASSIGN_OR_RETURN(auto etcd, open_etcd(options_.etcd, options_.connection.tls));
  CONVOY_ASSIGN_OR_RETURN(const std::string host, host::choose_address(""));
  const std::string address = host + ":" + std::to_string(options_.port);
  leadership_ = std::make_unique<Leadership>(
      std::move(etcd), Leadership::Self{options_.job, address, options_.launcher});
  TimePoint told_at{};
  while (is_launcher_there()) {
    const Result<Leadership::Leader> leader = leadership_->claim();
    if (leader.ok()) {
      leadership_->watch(end_role);
      return std::optional(*leader);
    }
    const TimePoint now = Clock::system().now();
    if (leader.status().code() != Code::kUnavailable &&
        leader.status().code() != Code::kDeadlineExceeded) {
      return leader.status();
    }
    if (now - told_at > kToldEvery) {
      told_at = now;
      CONVOY_LOG(Warn) << "nobody leads the job until etcd can be reached; training goes on: "
                       << leader.status().message();
    }
    Clock::system().sleep_for(kPause);
  }
  return std::optional<Leadership::Leader>();
}

void Contender::forget_state() {
  const Status forgotten = leadership_->save("");
  if (!forgotten.ok()) {
    CONVOY_LOG(Debug) << forgotten.message();
  }
}

std::unique_ptr<ControlStore> Contender::store() {
  return std::make_unique<EtcdStore>(*leadership_);
}

// Tells it that this process lives. What it says meanwhile it says again to who will lead.
bool Contender::is_launcher_there() {
  proto::ToNode alive;
  alive.set_alive(true);
  if (!send_packet(options_.line, alive.SerializeAsString()).ok()) return false;
  for (pollfd line{options_.line, POLLIN, 0}; ::poll(&line, 1, 0) == 1;) {
    const auto packet = receive_packet(options_.line);
    if (!packet.ok() || packet->ended) return false;
    if (packet->nothing) break;
  }
  return true;
}

}  // namespace convoy::resilience
