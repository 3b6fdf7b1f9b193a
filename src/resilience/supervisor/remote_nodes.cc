#include "src/resilience/supervisor/remote_nodes.h"

#include "src/resilience/protocol/protocol.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <utility>

namespace convoy::resilience {
namespace {

constexpr size_t kStrangersMax = 64;  // lines that have not said hello

std::string quoted(const std::string& text) {
  return "'" + text + "'";
}

}  // namespace

RemoteNodes::RemoteNodes(std::unique_ptr<Lines> lines, Expected expected, Said said, Gone gone)
    : lines_(std::move(lines)),
      expected_(std::move(expected)),
      said_(std::move(said)),
      gone_(std::move(gone)) {}

void RemoteNodes::serve() {
  for (const LineNews& news : lines_->take_news()) {
    switch (news.kind) {
      case LineNews::Kind::kOpened: {
        peers_[news.line] = news.bytes;
        if (peers_.size() > nodes_.size() + kStrangersMax) {
          refuse(news.line, {Code::kResourceExhausted, "too many connect and say nothing"});
          break;
        }
        proto::ToNode greeting;
        greeting.set_greet(true);
        lines_->send(news.line, greeting.SerializeAsString());
        break;
      }
      case LineNews::Kind::kMessage:
        take(news.line, news.bytes);
        break;
      case LineNews::Kind::kEnded: {
        peers_.erase(news.line);
        const auto at = nodes_.find(news.line);
        if (at == nodes_.end()) break;
        const int node = at->second;
        nodes_.erase(at);
        gone_(node, news.why.message());
        break;
      }
    }
  }
}

void RemoteNodes::take(uint64_t line, const std::string& bytes) {
  if (!peers_.contains(line)) return;  // it was refused
  proto::FromNode message;
  if (!message.ParseFromString(bytes) || message.what_case() == proto::FromNode::WHAT_NOT_SET) {
    return refuse(line, {Code::kInvalidArgument, "this is no message of Convoy's launcher"});
  }
  if (message.has_hello()) return hello(line, message);
  const auto node = nodes_.find(line);
  if (node == nodes_.end()) {
    return refuse(line, {Code::kInvalidArgument, "a launcher says hello first"});
  }
  said_(node->second, message);
}

void RemoteNodes::hello(uint64_t line, const proto::FromNode& message) {
  const Status fits = check(message.hello());
  if (!fits.ok()) return refuse(line, fits);
  const int node = static_cast<int>(message.hello().node());
  // A launcher that comes again has given up its line before.
  for (auto at = nodes_.begin(); at != nodes_.end();) {
    const uint64_t old = at->first;
    const bool is_older = at->second == node && old != line;
    at = is_older ? nodes_.erase(at) : std::next(at);
    if (!is_older) continue;
    lines_->end(old, {Code::kAborted, "this machine has connected again"});
    peers_.erase(old);
  }
  nodes_[line] = node;
  said_(node, message);
}

Status RemoteNodes::check(const proto::NodeHello& hello) const {
  const Expected& e = expected_;
  const auto differs = [&](const std::string& what, const std::string& own,
                           const std::string& first) {
    return Status(Code::kMismatch, "this machine's " + what + " is " + own +
                                       ", that of the machine which leads the job " + first);
  };
  if (hello.version() != kProtocolVersion) {
    return differs("protocol version", std::to_string(hello.version()),
                   std::to_string(kProtocolVersion));
  }
  if (hello.node() == static_cast<uint32_t>(e.home) ||
      hello.node() >= static_cast<uint32_t>(e.nodes)) {
    return {Code::kMismatch, "--node-rank is " + std::to_string(hello.node()) +
                                 "; the machine that leads the job is " + std::to_string(e.home) +
                                 " of --nnodes " + std::to_string(e.nodes)};
  }
  if (!hello.job().empty() && !e.job.empty() && hello.job() != e.job) {
    return differs("job", quoted(hello.job()), quoted(e.job));
  }
  if (hello.ranks() != static_cast<uint32_t>(e.ranks)) {
    return differs("-n", std::to_string(hello.ranks()), std::to_string(e.ranks));
  }
  if (hello.mesh() != e.mesh) return differs("--mesh", quoted(hello.mesh()), quoted(e.mesh));
  const auto is_foreign = [&](const proto::Worker& w) { return w.worker() >> 32U != hello.node(); };
  if (std::any_of(hello.workers().begin(), hello.workers().end(), is_foreign)) {
    return {Code::kMismatch, "it tells of processes of another machine"};
  }
  return ok_status();
}

void RemoteNodes::refuse(uint64_t line, const Status& why) {
  CONVOY_LOG(Warn) << "who connected from " << peers_[line] << " was dropped: " << why.message();
  lines_->end(line, why);
  peers_.erase(line);
  const auto at = nodes_.find(line);
  if (at == nodes_.end()) return;
  const int node = at->second;
  nodes_.erase(at);
  gone_(node, why.message());
}

void RemoteNodes::send(int node, const proto::ToNode& order) {
  for (const auto& [line, of] : nodes_) {
    if (of == node) return lines_->send(line, order.SerializeAsString());
  }
}

void RemoteNodes::end() {
  for (const auto& [line, node] : nodes_) {
    lines_->end(line, {Code::kUnavailable, "the supervisor has ended"});
  }
}

}  // namespace convoy::resilience
