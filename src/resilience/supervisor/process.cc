// The supervisor's process: packets of the launcher that started it, and lines of other machines'
// launchers, in; orders out.
#include "src/http/metrics.h"
#include "src/http/server.h"
#include "src/resilience/supervisor/contender.h"
#include "src/resilience/supervisor/remote_nodes.h"
#include "src/resilience/supervisor/supervisor.h"
#include "src/resilience/supervisor/webhook.h"
#include <convoy/base/config.h>
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/base/log.h>
#include <convoy/base/packet.h>
#include <convoy/resilience/supervise.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <sys/epoll.h>

namespace convoy::resilience {
namespace {

constexpr Nanos kTick = std::chrono::milliseconds(100);
constexpr int kTicksAlive = 5;     // it tells so often that it lives
constexpr int kTicksMetrics = 10;  // and how the job is
// For what was said last to other machines, once the launcher has gone.
constexpr Nanos kFarewell = std::chrono::milliseconds(250);

// What /metrics answers, on a thread that does not see the supervisor.
class MetricsPage {
 public:
  Status start(const std::string& where) {
    const size_t colon = where.rfind(':');
    http::ServerOptions options;
    options.address = colon == std::string::npos ? "127.0.0.1" : where.substr(0, colon);
    const std::string port = colon == std::string::npos ? where : where.substr(colon + 1);
    CONVOY_ASSIGN_OR_RETURN(const int64_t number, parse_integer("the port", port, 1, 65535));
    options.port = static_cast<uint16_t>(number);
    options.is_public = true;
    CONVOY_ASSIGN_OR_RETURN(
        server_, http::Server::start(
                     options, [this](const auto& path, const auto&) { return answer(path); }));
    return ok_status();
  }
  void set(std::string text) {
    const std::lock_guard lock(mutex_);
    text_ = std::move(text);
  }

 private:
  http::Answer answer(const std::string& path) {
    if (path != "/metrics") return {.status = 404, .type = "text/plain", .body = "/metrics\n"};
    const std::lock_guard lock(mutex_);
    return {.status = 200, .type = http::kMetricsType, .body = text_};
  }

  std::mutex mutex_;
  std::string text_;
  std::unique_ptr<http::Server> server_;  // last: ends first
};

class Process {
 public:
  Process(const SuperviseOptions& options, EventLoop& loop)
      : options_(options), loop_(loop), line_(options.line) {}

  // With etcd: of the machine that leads.
  Status lead(std::unique_ptr<ControlStore> store) {
    CONVOY_RETURN_IF_ERROR(start(std::move(store)));
    proto::ToNode greet;
    greet.set_greet(true);
    send(options_.node, greet);
    return ok_status();
  }

  // null: control state is in the run folder.
  Status start(std::unique_ptr<ControlStore> store) {
    if (!options_.webhook.empty()) webhook_.emplace(Webhook::Options{.url = options_.webhook});
    if (!options_.metrics.empty()) {
      const Status served = metrics_.emplace().start(options_.metrics);
      if (!served.ok()) {
        CONVOY_LOG(Warn) << "no metrics can be read: " << served.message();
        metrics_.reset();
      }
    }
    CONVOY_ASSIGN_OR_RETURN(
        supervisor_,
        Supervisor::create(
            {.job = options_.job,
             .run_dir = options_.run_dir,
             .mesh = options_.mesh,
             .ranks = options_.ranks,
             .nodes = options_.nodes,
             .home = options_.node,
             .is_contested = !options_.etcd.empty(),
             .spares = options_.spares,
             .min_dp = options_.min_dp,
             .notify =
                 [this](const std::string& json) {
                   if (webhook_) webhook_->tell(json);
                 }},
            Clock::system(), [this](int node, const proto::ToNode& order) { send(node, order); },
            std::move(store)));
    if (options_.nodes > 1) CONVOY_RETURN_IF_ERROR(listen());
    CONVOY_RETURN_IF_ERROR(loop_.watch(line_.get(), EPOLLIN, [this](uint32_t) { on_packet(); }));
    tick();
    return ok_status();
  }

  bool is_over() const { return supervisor_->is_over(); }
  // The launcher has gone: other machines' are told what was said last.
  Status finish() {
    take_last_words();
    webhook_.reset();
    if (!nodes_) return ok_status();
    loop_.unwatch(line_.get());
    nodes_->end();
    loop_.after(kFarewell, [this] { loop_.stop(); });
    return nodes_->empty() ? ok_status() : loop_.run();
  }

 private:
  Status listen() {
    CONVOY_ASSIGN_OR_RETURN(auto lines, listen_lines(options_.port, options_.connection));
    const bool has_id = options_.has_common_id;
    nodes_.emplace(
        std::move(lines),
        RemoteNodes::Expected{.job = has_id ? options_.job : "",
                              .mesh = options_.mesh,
                              .nodes = options_.nodes,
                              .home = options_.node,
                              .ranks = options_.ranks / options_.nodes},
        [this](int node, const proto::FromNode& message) { supervisor_->take(node, message); },
        [this](int node, const std::string& why) { supervisor_->node_gone(node, why); });
    return loop_.watch(nodes_->fd(), EPOLLIN, [this](uint32_t) {
      nodes_->serve();
      if (is_ending_ && nodes_->empty()) loop_.stop();
    });
  }

  void send(int node, const proto::ToNode& order) {
    if (node != options_.node) {
      if (nodes_) nodes_->send(node, order);
    } else if (!is_ending_ && !send_packet(line_.get(), order.SerializeAsString()).ok()) {
      launcher_has_gone();
    }
  }

  void on_packet() {
    const auto packet = receive_packet(line_.get());
    if (!packet.ok() || packet->ended) return launcher_has_gone();
    proto::FromNode message;
    if (!message.ParseFromString(packet->bytes)) {
      CONVOY_LOG(Warn) << "a packet that is no message was dropped";
      return;
    }
    supervisor_->take(options_.node, message);
  }

  // What the launcher said before it closed the line.
  void take_last_words() {
    proto::FromNode message;
    for (;;) {
      const auto packet = receive_packet(line_.get());
      if (!packet.ok() || packet->ended || packet->nothing) return;
      if (message.ParseFromString(packet->bytes)) supervisor_->take(options_.node, message);
    }
  }

  void launcher_has_gone() {
    is_ending_ = true;
    loop_.stop();
  }

  void tick() {
    if (is_ending_) return;
    supervisor_->tick();
    proto::ToNode alive;
    alive.set_alive(true);
    if (metrics_ && ticks_ % kTicksMetrics == 0) metrics_->set(supervisor_->metrics());
    if (ticks_++ % kTicksAlive == 0) send(options_.node, alive);
    loop_.after(kTick, [this] { tick(); });
  }

  const SuperviseOptions& options_;
  EventLoop& loop_;
  const UniqueFd line_;
  std::optional<Supervisor> supervisor_;
  std::optional<RemoteNodes> nodes_;  // none on one machine
  std::optional<Webhook> webhook_;
  std::optional<MetricsPage> metrics_;
  int ticks_ = 0;
  bool is_ending_ = false;
};

}  // namespace

Status supervise(const SuperviseOptions& options) {
  CONVOY_ASSIGN_OR_RETURN(const auto loop, EventLoop::create());
  if (options.etcd.empty()) {
    Process process(options, *loop);
    CONVOY_RETURN_IF_ERROR(process.start(nullptr));
    CONVOY_RETURN_IF_ERROR(loop->run());
    return process.finish();
  }
  Contender contender(options);
  CONVOY_ASSIGN_OR_RETURN(const auto leader, contender.settle());
  if (!leader) return ok_status();  // the launcher has gone
  if (!leader->is_self) return relay({options.line, leader->address, options.connection});
  Process process(options, *loop);
  CONVOY_RETURN_IF_ERROR(process.lead(contender.store()));
  CONVOY_RETURN_IF_ERROR(loop->run());
  if (process.is_over()) contender.forget_state();
  return process.finish();
}

}  // namespace convoy::resilience
