// What libconvoy_cluster offers to the agent: a server for all methods, the coordinator while this
// node has it, links to coordinators.
#include "ckpt/service/cluster.h"

#include "ckpt/cluster/coordinator.h"
#include "ckpt/cluster/link.h"
#include <convoy/base/socket.h>

#include <utility>

namespace convoy::ckpt {
namespace {

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
    const auto to_coordinator = [this](void (Coordinator::*method)(
                                    const std::shared_ptr<rpc::Call>&)) {
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
                                         std::function<void(const StepEvent&)> on_event) override {
    CONVOY_ASSIGN_OR_RETURN(auto channel, connect(coordinator));
    return std::unique_ptr<NodeLink>(
        new Link(self, address_, std::move(channel), std::move(on_event)));
  }

 private:
  std::shared_ptr<Coordinator> coordinator() {
    const std::lock_guard lock(mutex_);
    return coordinator_;
  }
  Result<std::unique_ptr<rpc::Channel>> connect(const std::string& address) const {
    const size_t slash = address.find('/');
    if (slash == std::string::npos || address.find(':') > slash) {
      return Status(Code::kInvalidArgument, "'" + address +
                                                "' is no address of an agent: HOST:PORT/TOKEN, as "
                                                "agent_address() gives it");
    }
    rpc::ConnectionOptions options = connection_;
    options.token = address.substr(slash + 1);
    return rpc::Channel::create(address.substr(0, slash), options);
  }

  rpc::ConnectionOptions connection_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_;
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

}  // namespace convoy::ckpt
