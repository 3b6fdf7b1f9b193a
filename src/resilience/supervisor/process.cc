// The supervisor's process on one machine: packets of the launcher in, orders out.
#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/base/log.h>
#include <convoy/base/packet.h>
#include <convoy/resilience/supervise.h>

#include <sys/epoll.h>

namespace convoy::resilience {
namespace {

constexpr Nanos kTick = std::chrono::milliseconds(100);
constexpr int kTicksAlive = 5;  // it tells so often that it lives

}  // namespace

Status supervise(const SuperviseOptions& options) {
  const UniqueFd line(options.line);
  CONVOY_ASSIGN_OR_RETURN(const auto loop, EventLoop::create());
  CONVOY_ASSIGN_OR_RETURN(Supervisor supervisor,
                          Supervisor::create({.job = options.job,
                                              .run_dir = options.run_dir,
                                              .mesh = options.mesh,
                                              .ranks = options.ranks,
                                              .nodes = options.nodes,
                                              .spares = options.spares},
                                             Clock::system(), [&](int, const proto::ToNode& order) {
                                               const Status sent = send_packet(
                                                   line.get(), order.SerializeAsString());
                                               if (!sent.ok()) loop->stop();
                                             }));
  CONVOY_RETURN_IF_ERROR(loop->watch(line.get(), EPOLLIN, [&](uint32_t) {
    const auto packet = receive_packet(line.get());
    if (!packet.ok() || packet->ended) return loop->stop();
    proto::FromNode message;
    if (!message.ParseFromString(packet->bytes)) {
      CONVOY_LOG(Warn) << "a packet that is no message was dropped";
      return;
    }
    supervisor.take(0, message);
  }));
  proto::ToNode alive;
  alive.set_alive(true);
  int ticks = 0;
  const std::function<void()> tick = [&] {
    supervisor.tick();
    if (ticks++ % kTicksAlive == 0 && !send_packet(line.get(), alive.SerializeAsString()).ok()) {
      return loop->stop();
    }
    loop->after(kTick, tick);
  };
  tick();
  return loop->run();
}

}  // namespace convoy::resilience
