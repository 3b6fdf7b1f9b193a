// What libconvoy_cluster offers to the agent: a server for all methods, the coordinator while this
// node has it, links to coordinators.
#include "ckpt/service/cluster.h"

#include "ckpt/cluster/coordinator.h"
#include "ckpt/cluster/link.h"
#include "ckpt/replica/peer_source.h"
#include <convoy/base/socket.h>
#include <convoy/ckpt/peers.h>

#include <thread>
#include <utility>

namespace convoy::ckpt {
namespace {

// An address as Cluster::address() gives it.
Result<std::unique_ptr<rpc::Channel>> connect_agent(const std::string& address,
                                                    rpc::ConnectionOptions options) {
  const size_t slash = address.find('/');
  if (slash == std::string::npos || address.find(':') > slash) {
    return Status(Code::kInvalidArgument, "'" + address +
                                              "' is no address of an agent: HOST:PORT/TOKEN, as "
                                              "agent_address() gives it");
  }
  options.token = address.substr(slash + 1);
  return rpc::Channel::create(address.substr(0, slash), options);
}

class ClusterImpl final : public Cluster {
 public:
  explicit ClusterImpl(const ClusterListen& listen) {
    connection_.tls = {listen.certificate, listen.key, listen.roots};
    connection_.message_bytes_max = size_t{256} << 20;
  }
  ~ClusterImpl() override {
    if (server_ != nullptr) server_->stop();
    if (coordinator_ != nullptr) coordinator_->end();
  }

  Status start(const ClusterListen& listen) {
    rpc::ServerOptions options;
    options.host = listen.host;
    options.port = listen.port;
    options.connection = connection_;
    options.connection.token = random_hex();
    const auto to_coordinator =
        [this](void (Coordinator::*method)(const std::shared_ptr<rpc::Call>&)) {
          return [this, method](const std::shared_ptr<rpc::Call>& call) {
            const std::shared_ptr<Coordinator> here = coordinator();
            if (here != nullptr) return ((*here).*method)(call);
            call->finish(Status(Code::kUnavailable, "node 0's ranks have not come yet"));
          };
        };
    rpc::Handlers handlers;
    handlers["join"] = to_coordinator(&Coordinator::join);
    handlers["report"] = to_coordinator(&Coordinator::report);
    handlers["follow"] = to_coordinator(&Coordinator::follow);
    handlers["roster"] = to_coordinator(&Coordinator::roster);
    memory_->serve(handlers);
    CONVOY_ASSIGN_OR_RETURN(server_, rpc::Server::start(options, std::move(handlers)));
    const std::string host = listen.host.empty() ? host_name() : listen.host;
    address_ = host + ":" + std::to_string(server_->port()) + "/" + options.connection.token;
    return ok_status();
  }

  std::string address() const override { return address_; }

  void coordinate(CoordinatorOptions options) override {
    const std::shared_ptr<Coordinator> fresh = Coordinator::create(std::move(options));
    std::shared_ptr<Coordinator> old;
    {
      const std::lock_guard lock(mutex_);
      old = std::exchange(coordinator_, fresh);
    }
    if (old != nullptr) old->end();
  }

  Result<std::unique_ptr<NodeLink>> join(const NodeIdentity& self, const std::string& coordinator,
                                         const ReplicaOptions& replicas,
                                         std::function<void(const StepEvent&)> on_event) override {
    CONVOY_ASSIGN_OR_RETURN(auto channel, connect_agent(coordinator, connection_));
    Link::Agent agent;
    agent.address = address_;
    agent.connect = [connection = connection_](const std::string& address) {
      return connect_agent(address, connection);
    };
    agent.memory = memory_;
    return std::unique_ptr<NodeLink>(
        new Link(self, std::move(agent), std::move(channel), replicas, std::move(on_event)));
  }

 private:
  std::shared_ptr<Coordinator> coordinator() {
    const std::lock_guard lock(mutex_);
    return coordinator_;
  }

  rpc::ConnectionOptions connection_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_;
  const std::shared_ptr<PeerMemory> memory_ = std::make_shared<PeerMemory>();
  std::mutex mutex_;
  std::shared_ptr<Coordinator> coordinator_;  // guarded by mutex_; shared with calls under way
};

}  // namespace

// What load_cluster() looks up by name.
extern "C" Status convoy_ckpt_open_cluster(const ClusterListen& listen,
                                           std::unique_ptr<Cluster>& cluster) {
  auto made = std::make_unique<ClusterImpl>(listen);
  CONVOY_RETURN_IF_ERROR(made->start(listen));
  cluster = std::move(made);
  return ok_status();
}

// What open_in_peers() looks up by name.
extern "C" Status convoy_ckpt_open_peers(const PeersPlace& place,
                                         std::unique_ptr<StepSource>& source) {
  rpc::ConnectionOptions connection;
  connection.tls = {place.tls.certificate, place.tls.key, place.tls.roots};
  connection.message_bytes_max = size_t{256} << 20;
  CONVOY_ASSIGN_OR_RETURN(const auto coordinator, connect_agent(place.coordinator, connection));
  const Deadline deadline = Deadline::after(place.timeout);
  Result<Roster> roster = ask_roster(*coordinator, place.generation, place.timeout);
  while (roster.status().code() == Code::kUnavailable && !deadline.passed()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    roster = ask_roster(*coordinator, place.generation, place.timeout);
  }
  if (!roster.ok()) return roster.status().with_context("memory of peers");
  std::vector<std::shared_ptr<rpc::Channel>> agents;
  for (const std::string& address : roster->addresses) {
    CONVOY_ASSIGN_OR_RETURN(agents.emplace_back(), connect_agent(address, connection));
  }
  CONVOY_ASSIGN_OR_RETURN(source, PeerSource::create(std::move(agents)));
  return ok_status();
}

}  // namespace convoy::ckpt
